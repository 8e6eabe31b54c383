//! The ledger of lanes, and the one transaction in which a message takes effect.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, EventId, KeyHash, LaneId, MessageMark, RequestId, VersionId};
use keyturn_domain::lane::{Lane, LaneEvent};
use keyturn_domain::time::UnixMillis;
use serde::Serialize;

use crate::Error;
use crate::queue::{NewMessage, QueueName};

/// What to load before deciding on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The device.
    pub device: DeviceId,
    /// The lane the message speaks for.
    pub lane: LaneId,
    /// The message.
    pub request: RequestId,
    /// When its nonce was given out. Effects are remembered in this order.
    pub nonce: UnixMillis,
    /// Who signed it, and the sender's mark on it.
    pub mark: (KeyHash, MessageMark),
    /// Versions the message names.
    pub versions: BTreeSet<VersionId>,
}

/// What is known when deciding on a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Every lane of the device, each with its revision. Those not heard for certain since the ledger was restored
    /// say so ([`Lane::restored`]).
    pub lanes: Vec<Stored<Lane>>,
    /// Those of the wanted versions that were issued to the wanted lane.
    pub issued: BTreeSet<VersionId>,
    /// Whether this message, or another with its mark, took effect before.
    pub history: History,
    /// When the ledger was last found to be restored from a backup; none if it never was.
    pub restored: Option<UnixMillis>,
}

/// A stored value and the revision to name when replacing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The value.
    pub value: T,
    /// Starts at 1 and grows by one with each replacement.
    pub revision: u64,
}

/// How many of the last marks of a lane are remembered, at least.
pub const MARKS_REMEMBERED: usize = 16;

/// What happened to a message, or to one with the same mark, before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// Nothing.
    Unseen,
    /// These very bytes took effect; there is nothing left to do.
    Done,
    /// Other bytes with the same mark took effect: a device reused its mark, or somebody forged. Noticed among the
    /// messages with the same nonce time and the last [`MARKS_REMEMBERED`] of the lane.
    MarkReused,
}

/// The effect of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The message, remembered so that it takes effect once.
    pub request: RequestId,
    /// When its nonce was given out.
    pub nonce: UnixMillis,
    /// Who signed it, and the sender's mark on it.
    pub mark: (KeyHash, MessageMark),
    /// The lane as it is to be, and the revision it was decided on (0 for a new lane). None leaves lanes alone.
    pub lane: Option<Stored<Lane>>,
    /// Versions that are the lane's from now on: one minted for it, or some that the ledger lost and the vault has.
    pub issued: Vec<Issued>,
    /// What happened, for the timeline.
    pub events: Vec<NewEvent>,
    /// Messages to send once this is stored.
    pub outbox: Vec<(QueueName, NewMessage)>,
}

/// A version made for a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The version.
    pub version: VersionId,
    /// Where the vault keeps it, in the vault's own words.
    pub vault_ref: String,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It took effect.
    Applied,
    /// The lane was changed by somebody else, or the ledger found to be restored, since it was loaded; nothing took
    /// effect. Load and decide again.
    Conflict,
    /// The message had taken effect before; nothing was changed.
    Duplicate,
}

/// A fact for the timeline of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// For merging repeats.
    pub id: EventId,
    /// When.
    pub at: UnixMillis,
    /// The device.
    pub device: DeviceId,
    /// The message behind it.
    pub request: RequestId,
    /// What.
    pub what: Happening,
}

/// What a timeline tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happening {
    /// The ledger changed.
    Lane {
        /// The lane.
        lane: LaneId,
        /// How.
        #[serde(flatten)]
        event: LaneEvent,
    },
    /// A message was refused.
    RequestRefused {
        /// The refusal's stable code, like `KT-0203`.
        code: String,
    },
    /// The device sent an event of its own (CloudLAPS `SendClientEvent`).
    Client {
        /// What it was about: `PasswordRotated`, `Failed`, and so on.
        result: String,
        /// In the device's words.
        message: String,
    },
}

/// A stored fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    pub at: UnixMillis,
    /// The device.
    pub device: DeviceId,
    /// The message behind it.
    pub request: RequestId,
    /// What.
    pub what: Happening,
}

/// The reading half, for operators and the portal.
#[async_trait]
pub trait LedgerReader: Send + Sync {
    /// The lanes of a device, open and closed.
    async fn lanes(&self, device: DeviceId) -> Result<Vec<Lane>, Error>;

    /// At most `limit` devices that have lanes, ordered by id, after `after`.
    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<DeviceId>, Error>;

    /// Devices one of whose lanes carries this serial number or host name, without regard to case. At most 32.
    async fn labelled(&self, label: &str) -> Result<Vec<DeviceId>, Error>;

    /// The last `limit` facts about a device, newest first.
    async fn timeline(&self, device: DeviceId, limit: usize) -> Result<Vec<Event>, Error>;

    /// At most `limit` facts of all devices that come after the place `after`, oldest first, each with its place.
    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, Error>;

    /// Where the vault keeps a version.
    async fn vault_ref(&self, version: VersionId) -> Result<Option<String>, Error>;

    /// When the ledger was last found to be restored from a backup; none if it never was.
    async fn restored(&self) -> Result<Option<UnixMillis>, Error>;

    /// Whether any lane, open or closed, is this device key's. Asked by the ingress about every key it has not met
    /// lately, so it must be one look into an index. Once true for a key, it stays true.
    async fn knows_key(&self, key: KeyHash) -> Result<bool, Error>;
}

/// The writing half, for the rotator.
///
/// `commit` applies each element for itself, in order, and durably enough that no later durable effect of this
/// deployment can outlive it. Elements for the same lane may follow each other in one batch, each naming the
/// revision the one before produces. An element takes effect once, however often it is committed: its `request`
/// is remembered in the same transaction, for as long as [`crate::upkeep`] leaves it, and so are its outbox messages, which are sent at least once
/// thereafter without further calls.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Loads what is known for each message, in order.
    async fn load(&self, wanted: Vec<Wanted>) -> Result<Vec<Loaded>, Error>;

    /// Applies effects. The answers are in the order of `commits`.
    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, Error>;
}

/// Commands of operators on the ledger.
#[async_trait]
pub trait LedgerOperator: Send + Sync {
    /// Asks for a rotation of every open lane of the device: only versions minted after `at` will meet it.
    /// Returns how many lanes there were. Survives until met, however long the device is away.
    async fn force(&self, device: DeviceId, at: UnixMillis) -> Result<usize, Error>;

    /// Closes a lane of the device. Returns whether there is such a lane.
    async fn close(&self, device: DeviceId, lane: LaneId, at: UnixMillis) -> Result<bool, Error>;

    /// Holds the open lanes of the device until an instant. Returns how many there were. Lanes that come later are not
    /// held.
    async fn hold(&self, device: DeviceId, until: UnixMillis) -> Result<usize, Error>;

    /// Ends the holds of the device. Returns how many lanes were held.
    async fn release(&self, device: DeviceId) -> Result<usize, Error>;

    /// Says that the vault keeps a version at `to`, if it was said to be at `from`, both in the vault's own words. Returns
    /// whether it was.
    async fn relocate(&self, version: VersionId, from: &str, to: &str) -> Result<bool, Error>;
}
