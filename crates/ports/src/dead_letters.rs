//! Dead letters: messages that were given up on, kept until somebody decides.

pub mod filter;
pub mod jobs;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use serde::Serialize;

use crate::Error;
use crate::queue::{DeadReason, NewMessage, QueueName};

/// A dead letter's name, ascending in the order in which they died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DeadLetterId(pub u64);

/// One failed attempt at a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// When it failed.
    pub at: UnixMillis,
    /// At what.
    pub error: String,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its name.
    pub id: DeadLetterId,
    /// The queue it died on.
    pub queue: QueueName,
    /// The message, byte for byte.
    pub message: NewMessage,
    /// Why it was given up on.
    pub reason: DeadReason,
    /// The attempts, oldest first, the last eight at most. The last one is what killed it.
    pub attempts: Vec<Attempt>,
    /// How often it was leased.
    pub deliveries: u32,
    /// When it was first sent.
    pub enqueued: UnixMillis,
    /// When it died.
    pub died: UnixMillis,
}

/// A message that died on a queue of another engine than this index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Died {
    /// The name of the message on its engine. It is written down once under this name.
    pub origin: String,
    /// The queue it died on.
    pub queue: QueueName,
    /// The message, byte for byte.
    pub message: NewMessage,
    /// Why it was given up on.
    pub reason: DeadReason,
    /// The attempts, oldest first, the last eight at most. The last one is what killed it.
    pub attempts: Vec<Attempt>,
    /// How often it was leased.
    pub deliveries: u32,
    /// When it was first sent.
    pub enqueued: UnixMillis,
    /// When it died.
    pub died: UnixMillis,
}

/// Where queues that keep no index of their dead letters have them written down.
#[async_trait]
pub trait Graveyard: Send + Sync {
    /// Writes dead letters down, each once under its origin however often it is told. They are in the index when
    /// this returns, and a power loss right after it loses none.
    async fn bury(&self, dead: Vec<Died>) -> Result<(), Error>;
}

/// An engine beside whose queues messages may lie dead that no index has: it gave them up by itself, or somebody else's
/// program put them there, as Azure Functions does.
///
/// Once `adopt` has moved such a message into the index, the engine has it no longer: a dead letter is in one place, so
/// whatever becomes of it there leaves nothing behind.
#[async_trait]
pub trait Strays: Send + Sync {
    /// How many lie beside `queue`, about, where the engine counts so.
    async fn unindexed(&self, queue: QueueName) -> Result<u64, Error>;

    /// Writes down at most `limit` of them, each once under its origin, and only then takes it from the engine. Returns
    /// how many it took. Cut off at any moment, and called by several at once, it loses none and writes none down twice.
    async fn adopt(&self, queue: QueueName, limit: usize) -> Result<u64, Error>;
}

/// The dead letters of all queues.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// At most `limit` dead letters, newest first, of one queue or of all.
    async fn list(&self, queue: Option<QueueName>, limit: usize) -> Result<Vec<DeadLetter>, Error>;

    /// One dead letter.
    async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Error>;

    /// Moves dead letters to `to` with the bodies given (the replayer strips what later stages added), as one
    /// step per letter: a letter is never in both places and never in neither. Letters that are gone already
    /// are skipped. Returns those moved.
    async fn replay(
        &self,
        letters: Vec<(DeadLetterId, QueueName, String)>,
    ) -> Result<Vec<DeadLetterId>, Error>;
}
