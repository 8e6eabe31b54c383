//! What happened to a lane, in words that operators and the audit keep.

use serde::{Deserialize, Serialize};

use super::MintReason;
use crate::ids::VersionId;

/// A fact about a lane, written in the same transaction as the state it describes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LaneEvent {
    /// The lane came to be.
    LaneOpened,
    /// A version was generated, stored in the vault and recorded as outstanding.
    PasswordMinted {
        /// The version.
        version: VersionId,
        /// Why.
        reason: MintReason,
    },
    /// The device reported that it uses this version.
    PasswordConfirmed {
        /// The version.
        version: VersionId,
    },
    /// The operating system of the device refused this version.
    PasswordRefused {
        /// The version.
        version: VersionId,
    },
    /// The device said what it uses, after the ledger had been restored from a backup.
    LaneRestored,
    /// Something an operator should look at.
    AlarmRaised {
        /// What.
        alarm: Alarm,
    },
}

/// Things that do not happen to an honest, healthy device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// A device opened a further lane: another key, account or installation.
    SecondLane,
    /// Two installations of one device speak: a cloned disk image.
    Clone,
    /// The device does not know its password version, or names one never made for it: its journal was lost,
    /// its disk rolled back, or somebody changed the password by hand.
    UnknownCurrent,
    /// The device is back at a version it had left behind: its disk was restored from an image.
    RolledBack,
    /// The newest message of the lane lies in the future: a server's clock was wrong.
    ClockReset,
    /// Too many refusals in a day; rotation is held.
    Held,
}
