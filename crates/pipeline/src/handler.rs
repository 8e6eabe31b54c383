//! What a role supplies to a worker.

use async_trait::async_trait;
use keyturn_domain::ids::VersionId;
use keyturn_ports::Kind;
use keyturn_ports::queue::{DeadReason, Leased, NewMessage, QueueName};

/// Handles batches of leased messages.
///
/// It may be given the same message twice, in one batch or in two, now or in an hour, and may be cut off at any
/// await; it must leave nothing behind that makes the repeat come out differently.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What it does with messages, in a word for telemetry (`messaging.operation.name` of OpenTelemetry).
    fn operation(&self) -> &'static str {
        "process"
    }

    /// Handles a batch. The answers are in the order of `batch`, one for each; what fails for one message must
    /// not fail the others.
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled>;
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Whether it is done.
    pub verdict: Verdict,
    /// What to send on, no later than the message is completed.
    pub forward: Vec<(QueueName, NewMessage)>,
    /// Where messages were sent on already, one entry for each, in a transaction of the handler's own. For telemetry
    /// alone.
    pub sent: Vec<QueueName>,
    /// The version that it was about, if it was about one. For telemetry alone.
    pub rotation: Option<VersionId>,
}

/// Whether a message is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Done,
    /// Not now; see [`Failure`].
    Failed(Failure),
    /// It never will be.
    Dead(DeadReason, String),
}

/// Why a message could not be handled now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An engine is away. The message waits, for as long as the worker's patience lasts, however often it has
    /// been delivered.
    Engine(String),
    /// The message itself, or something stored for it, is at fault. It is given the allowed deliveries.
    Message(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Engine(why) | Self::Message(why)) = self;
        f.write_str(why)
    }
}

impl Handled {
    /// Done, with nothing to send on.
    pub fn done() -> Self {
        Self { verdict: Verdict::Done, forward: Vec::new(), sent: Vec::new(), rotation: None }
    }

    /// Done, with one message to send on.
    pub fn forward(queue: QueueName, message: NewMessage) -> Self {
        Self { verdict: Verdict::Done, forward: vec![(queue, message)], sent: Vec::new(), rotation: None }
    }

    /// Done, with messages sent on in a transaction of the handler's own.
    pub fn having_sent(queues: impl IntoIterator<Item = QueueName>, rotation: Option<VersionId>) -> Self {
        Self { verdict: Verdict::Done, forward: Vec::new(), sent: queues.into_iter().collect(), rotation }
    }

    /// Not now.
    pub fn failed(failure: Failure) -> Self {
        Self { verdict: Verdict::Failed(failure), forward: Vec::new(), sent: Vec::new(), rotation: None }
    }

    /// Never.
    pub fn dead(reason: DeadReason, error: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Dead(reason, error.into()),
            forward: Vec::new(),
            sent: Vec::new(),
            rotation: None,
        }
    }
}

impl From<&keyturn_ports::Error> for Failure {
    fn from(error: &keyturn_ports::Error) -> Self {
        match error.kind() {
            Kind::Unavailable | Kind::Full | Kind::Denied => Self::Engine(error.to_string()),
            Kind::Corrupt => Self::Message(error.to_string()),
        }
    }
}
