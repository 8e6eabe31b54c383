//! Queues: at-least-once, leased, in no particular order.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The queues of the pipeline, in the order a request passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueName {
    /// ingress → validator: requests, reports and events as the device signed them.
    Requests,
    /// validator → rotator: the same with what was found out about the device.
    Findings,
    /// rotator → notifier: signed results.
    Outcomes,
    /// rotator → notifier: alarms, on their way out of the house.
    Alarms,
}

impl QueueName {
    /// Every queue.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Findings, Self::Outcomes, Self::Alarms];

    /// The queue's name, lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Findings => "findings",
            Self::Outcomes => "outcomes",
            Self::Alarms => "alarms",
        }
    }

    /// The queue of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == name)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message to send. `request` and `device` are for engines and operators to group by; a handler trusts only
/// what it reads and verifies in `body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// The message the device signed.
    pub request: RequestId,
    /// The device it names, as claimed.
    pub device: DeviceId,
    /// The envelope, at most 64 KiB of UTF-8.
    pub body: String,
}

/// A leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Proof of the lease, for settling and renewing.
    pub receipt: Receipt,
    /// As sent.
    pub message: NewMessage,
    /// How often it has been leased, this time included; starts at 1.
    pub deliveries: u32,
    /// When it was sent, by the engine's clock.
    pub enqueued: UnixMillis,
}

/// Proof of a lease. It is void once the lease has run out and somebody else has taken the message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// The message's name within its queue, in the engine's own form.
    pub message: String,
    /// This lease of it, in the engine's own form.
    pub lease: String,
}

/// What becomes of a leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Its work is done; it is gone.
    Complete,
    /// It comes back after this delay. Counts as a delivery.
    Retry {
        /// How long from now.
        after: Duration,
        /// Why, for the attempts an operator reads.
        error: String,
    },
    /// It comes back at once as if it had not been leased. For draining: does not count as a delivery.
    Release,
    /// It moves to the dead letters of its queue, body and properties unchanged.
    DeadLetter {
        /// A stable word, like `undecodable`.
        reason: DeadReason,
        /// The error in full.
        error: String,
    },
}

/// Why a message was given up on: a stable word that operators filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The envelope or what is in it cannot be read.
    Undecodable,
    /// The envelope has a version this release does not know.
    UnsupportedVersion,
    /// A seal on the message does not hold: somebody other than Keyturn wrote to the queue.
    Untrusted,
    /// Every allowed delivery failed; the error says at what.
    Exhausted,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 4] =
        [Self::Undecodable, Self::UnsupportedVersion, Self::Untrusted, Self::Exhausted];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Untrusted => "untrusted",
            Self::Exhausted => "exhausted",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Messages that are neither settled nor dead, leased and delayed ones included.
    pub total: u64,
    /// Of these, leased at the moment.
    pub leased: u64,
    /// When the oldest of them was sent.
    pub oldest: Option<UnixMillis>,
    /// Dead letters.
    pub dead: u64,
    /// A number that grows by one with each message that is sent, and never falls; none if the engine has no such. Two
    /// looks tell how many came in between, and with `total` how many were done with.
    pub sent: Option<u64>,
}

/// Looking at what waits, without taking it.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// The bodies of at most `limit` messages on `queue`, leased or not, in the order of their numbers, after
    /// number `after`.
    async fn waiting(
        &self,
        queue: QueueName,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, String)>, Error>;
}

/// The queues of a deployment.
///
/// - A message is delivered at least once, possibly several times at once, in any order.
/// - `send` is durable when it returns: a power loss right after it loses nothing.
/// - `settle` with `Complete` makes the messages of `forward` visible no later than it removes the completed
///   ones. A crash in between repeats the work; nothing is lost. Losing a settlement repeats the work as well.
/// - A lease that has run out is given to the next who asks. Settling or renewing with a void receipt has no
///   effect on the message; it is reported, not an error.
/// - Depth may lag by a second on engines that count by themselves.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Sends a batch.
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error>;

    /// Leases up to `max` messages for `lease`. Returns at once, with an empty list if there are none.
    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error>;

    /// Leases as [`Queue::lease`] does, but waits where there is nothing, until there may be something. Whether that is
    /// leased as well is up to the engine: one that can do so in the step that sends it saves the way there and back.
    /// An empty list means no more than «look again». A future that is dropped while it waits keeps no message.
    async fn next(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        let leased = self.lease(queue, max, lease).await?;
        if leased.is_empty() {
            self.arrival(queue).await;
        }
        Ok(leased)
    }

    /// Makes the leases run for `lease` from now. Returns the receipts that were void.
    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error>;

    /// Settles leased messages of `queue` and sends `forward` on, as one step where the engine can. Returns the
    /// receipts that were void; what was forwarded for them is sent all the same, and merged downstream.
    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error>;

    /// What kind of engine `queue` is on: a short word for telemetry (`messaging.system` of OpenTelemetry).
    fn system(&self, queue: QueueName) -> &'static str;

    /// How full the queue is. Costs the same however full it is.
    async fn depth(&self, queue: QueueName) -> Result<Depth, Error>;

    /// Whether the engine of the queue answers, by the cheapest question that it has. Changes nothing.
    async fn probe(&self, queue: QueueName) -> Result<(), Error> {
        self.depth(queue).await.map(drop)
    }

    /// Resolves when a message may have arrived on `queue` since this future was first polled, and at the latest
    /// when the engine thinks a look is worth while. A hint: the queue may turn out to be empty.
    async fn arrival(&self, queue: QueueName);
}
