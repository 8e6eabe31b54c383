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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

impl Alarm {
    /// Every alarm.
    pub const ALL: [Self; 6] =
        [Self::SecondLane, Self::Clone, Self::UnknownCurrent, Self::RolledBack, Self::ClockReset, Self::Held];

    /// The stable word, as it is stored and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecondLane => "second_lane",
            Self::Clone => "clone",
            Self::UnknownCurrent => "unknown_current",
            Self::RolledBack => "rolled_back",
            Self::ClockReset => "clock_reset",
            Self::Held => "held",
        }
    }

    /// The alarm of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|alarm| alarm.as_str() == word)
    }

    /// What it means, in a sentence for whoever is called out by it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::SecondLane => "The device speaks with another key, account or installation than before.",
            Self::Clone => "Two installations of one device speak: its disk was cloned.",
            Self::UnknownCurrent => {
                "The device does not know its password: its journal was lost, its disk rolled back, or somebody \
                 changed the password by hand. A rotation follows."
            }
            Self::RolledBack => {
                "The device is back at a password it had left behind: its disk was restored from an image. A \
                 rotation follows."
            }
            Self::ClockReset => {
                "The newest message of the device lies in the future: a server's clock was wrong."
            }
            Self::Held => "The device refused too many passwords in a day: its rotation is held.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_stored_form() {
        for alarm in Alarm::ALL {
            assert_eq!(serde_json::to_value(alarm).unwrap(), alarm.as_str());
            assert_eq!(Alarm::parse(alarm.as_str()), Some(alarm));
        }
        assert_eq!(Alarm::parse("Clone"), None);
    }
}
