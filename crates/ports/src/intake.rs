//! The ingress's one durable step: remember that a message was accepted, and enqueue it.

use async_trait::async_trait;
use keyturn_domain::ids::RequestId;
use keyturn_domain::time::UnixMillis;

use crate::Error;
use crate::queue::NewMessage;

/// A message to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// When its nonce was given out; part of the key so that the memory stays ordered by time.
    pub nonce: UnixMillis,
    /// What to put on the `requests` queue.
    pub message: NewMessage,
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is on the queue.
    New,
    /// The same bytes were accepted before; nothing was enqueued.
    Known,
}

/// The memory of accepted messages, in front of the `requests` queue.
///
/// When `accept` returns, every message of the batch is on the queue or was put there earlier, durably: the
/// caller may answer 202. An adapter whose memory and queue are two engines sends first and remembers second,
/// because a message sent twice is harmless and one remembered but never sent is lost.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Accepts a batch. The answers are in the order of `submissions`.
    async fn accept(&self, submissions: Vec<Submission>) -> Result<Vec<Accepted>, Error>;

    /// Whether this message was accepted before.
    async fn knows(&self, nonce: UnixMillis, request: RequestId) -> Result<bool, Error>;
}
