//! Results that agents poll.

use async_trait::async_trait;
use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;

use crate::Error;

/// A result to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewResult {
    /// The message it answers.
    pub request: RequestId,
    /// The lane and version it carries, when it carries one: it is stored only while that version is the lane's
    /// outstanding one.
    pub carries: Option<(LaneId, VersionId)>,
    /// What the agent gets.
    pub body: ResultBody,
    /// When it may be forgotten.
    pub expires: UnixMillis,
}

/// What the agent gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultBody {
    /// A result signed by the rotator.
    Signed(String),
    /// The one refusal for everything that failed before the signature was known to be good.
    Refused,
}

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Agents can read it, durably.
    Stored,
    /// There was a result for this message already; it stands.
    Existing,
    /// The version it carries is outstanding no more; nothing was stored.
    Superseded,
}

/// The reading half, for the ingress.
#[async_trait]
pub trait ResultReader: Send + Sync {
    /// The result of a message, if there is one.
    async fn result(&self, request: RequestId) -> Result<Option<ResultBody>, Error>;

    /// Resolves when the result of a message may have been published since this future was first polled. A hint.
    async fn publication(&self, request: RequestId);
}

/// The writing half, for the notifier. `publish` checks and stores each element for itself in a transaction;
/// results that carry a version are durable when it returns.
#[async_trait]
pub trait ResultWriter: Send + Sync {
    /// Publishes results. The answers are in the order of `results`.
    async fn publish(&self, results: Vec<NewResult>) -> Result<Vec<Published>, Error>;
}
