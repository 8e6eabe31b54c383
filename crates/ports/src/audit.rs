//! The audit: who looked, who commanded, in a chain that shows tampering.

pub mod chain;

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A row to append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRow {
    /// When.
    pub at: UnixMillis,
    /// Who: from the operating system's user or a verified token, never from an argument.
    pub actor: String,
    /// What.
    pub action: Action,
    /// To which device, if to one.
    pub device: Option<DeviceId>,
    /// The reason given.
    pub reason: String,
    /// What exactly: version ids shown, letters replayed, and so on. Never a secret.
    pub detail: String,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A password was shown. CloudLAPS's word.
    SecretGet,
    /// A rotation was asked for.
    RotationForced,
    /// A lane was closed.
    LaneClosed,
    /// The holds of a device were ended.
    HoldReleased,
    /// A device was added to or changed in the embedded directory.
    DirectoryChanged,
    /// A key was made, put to use, taken away, or signed for.
    KeysChanged,
    /// Versions were put back into the vault from the recovery log.
    VaultRecovered,
    /// A backup was made.
    BackupMade,
    /// The store was found, or said, to be restored from a backup.
    StoreRestored,
    /// Dead letters were put back on their way.
    DeadLettersReplayed,
    /// Dead letters were taken away for good.
    DeadLettersDiscarded,
    /// A device was held: it gets no new password until it is released.
    RotationHeld,
    /// The head of the audit was signed, to be kept elsewhere.
    AuditAnchored,
    /// The passwords that devices may have were exported, sealed to an offline key.
    VaultExported,
    /// Versions of a device were moved to the vault that new ones go to.
    VaultRebalanced,
    /// The state began to move to another engine, or that was undone.
    StoreMoved,
}

/// A row of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its place in the chain, from 1.
    pub seq: u64,
    /// What it says.
    #[serde(flatten)]
    pub row: NewRow,
    /// SHA-256 over the previous row's hash and this row's content, hexadecimal.
    pub hash: String,
}

/// What checking the chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Verified {
    /// This many rows, all linked.
    Intact {
        /// How many.
        rows: u64,
    },
    /// The first row that does not follow from the one before it.
    Broken {
        /// Its place.
        seq: u64,
    },
}

/// The audit of a deployment. `append` is durable when it returns: only then may what it records happen.
#[async_trait]
pub trait AuditSink: Send + Sync {
    /// Appends a row and returns its place.
    async fn append(&self, row: NewRow) -> Result<u64, Error>;

    /// Does all that [`AuditSink::append`] does for this row and takes it back: whether a row could be appended now. It
    /// leaves no row, and no number is used up.
    async fn probe(&self, row: NewRow) -> Result<(), Error>;

    /// At most `limit` rows, newest first.
    async fn recent(&self, limit: usize) -> Result<Vec<Row>, Error>;

    /// At most `limit` rows that come after `seq`, oldest first.
    async fn after(&self, seq: u64, limit: usize) -> Result<Vec<Row>, Error>;

    /// Checks the whole chain.
    async fn verify(&self) -> Result<Verified, Error>;
}
