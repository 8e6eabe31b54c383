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

/// What was done. It is serialised as its word, [`Action::as_str`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It was said how much the processes of a machine log.
    LogLevelChanged,
    /// What a later release recorded, by its word: a release that was put back reads it, and writes none.
    #[serde(untagged)]
    Later(String),
}

impl Action {
    /// All that this release records.
    pub const ALL: [Self; 17] = [
        Self::SecretGet,
        Self::RotationForced,
        Self::LaneClosed,
        Self::HoldReleased,
        Self::DirectoryChanged,
        Self::KeysChanged,
        Self::VaultRecovered,
        Self::BackupMade,
        Self::StoreRestored,
        Self::DeadLettersReplayed,
        Self::DeadLettersDiscarded,
        Self::RotationHeld,
        Self::AuditAnchored,
        Self::VaultExported,
        Self::VaultRebalanced,
        Self::StoreMoved,
        Self::LogLevelChanged,
    ];

    /// The word of an action as it is stored, hashed, exported and shipped.
    pub fn as_str(&self) -> &str {
        match self {
            Self::SecretGet => "SecretGet",
            Self::RotationForced => "RotationForced",
            Self::LaneClosed => "LaneClosed",
            Self::HoldReleased => "HoldReleased",
            Self::DirectoryChanged => "DirectoryChanged",
            Self::KeysChanged => "KeysChanged",
            Self::VaultRecovered => "VaultRecovered",
            Self::BackupMade => "BackupMade",
            Self::StoreRestored => "StoreRestored",
            Self::DeadLettersReplayed => "DeadLettersReplayed",
            Self::DeadLettersDiscarded => "DeadLettersDiscarded",
            Self::RotationHeld => "RotationHeld",
            Self::AuditAnchored => "AuditAnchored",
            Self::VaultExported => "VaultExported",
            Self::VaultRebalanced => "VaultRebalanced",
            Self::StoreMoved => "StoreMoved",
            Self::LogLevelChanged => "LogLevelChanged",
            Self::Later(word) => word,
        }
    }

    /// The action of a stored word. Every word is one: what this release does not know is [`Action::Later`].
    pub fn of(word: String) -> Self {
        Self::ALL.into_iter().find(|known| known.as_str() == word).unwrap_or(Self::Later(word))
    }

    /// The word to append under; none for what this release does not know.
    pub fn recordable(&self) -> Option<&str> {
        (!matches!(self, Self::Later(_))).then(|| self.as_str())
    }
}

/// Which rows of the audit. Every part that is given has to hold; with none of them, all rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Rows about this device.
    pub device: Option<DeviceId>,
    /// Rows of one of these actions; empty for all.
    pub actions: Vec<Action>,
    /// Rows of those whose name has this in it, without regard to the case of a to z.
    pub actor: Option<String>,
    /// Rows whose detail has this in it, letter by letter.
    pub detail: Option<String>,
    /// Rows of this instant and later.
    pub since: Option<UnixMillis>,
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

    /// At most `limit` of the rows that are wanted, newest first. It reads from the newest row on until it has them.
    async fn select(&self, wanted: Wanted, limit: usize) -> Result<Vec<Row>, Error>;

    /// At most `limit` rows, newest first.
    async fn recent(&self, limit: usize) -> Result<Vec<Row>, Error> {
        self.select(Wanted::default(), limit).await
    }

    /// At most `limit` rows that come after `seq`, oldest first.
    async fn after(&self, seq: u64, limit: usize) -> Result<Vec<Row>, Error>;

    /// Checks the whole chain.
    async fn verify(&self) -> Result<Verified, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_the_serialised_one_and_leads_back() {
        let later = Action::Later("OfALaterRelease".to_owned());
        for action in Action::ALL.into_iter().chain([later]) {
            let word = action.as_str().to_owned();
            assert_eq!(serde_json::to_value(&action).unwrap(), word);
            assert_eq!(serde_json::from_value::<Action>(word.clone().into()).unwrap(), action);
            assert_eq!(action.recordable().is_none(), word == "OfALaterRelease");
            assert_eq!(Action::of(word), action);
        }
    }
}
