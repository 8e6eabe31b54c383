//! The ledger: what the server knows of each device's password, lane by lane.
//!
//! A lane is one (device, account, installation, device key). A message changes its own lane only, and no
//! version ever crosses lanes, so a device that was cloned, re-imaged or registered anew can never confirm or
//! receive a password that was made for its other self. What the helpdesk is shown is the union over lanes.

mod command;
mod decide;
mod events;
mod policy;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::command::Command;
pub use self::decide::{Decision, Heard, HeardKind, MintReason, Reply, Reported, capped, decide, minted};
pub use self::events::{Alarm, LaneEvent};
pub use self::policy::RotationPolicy;

use crate::ids::{AccountId, DeviceId, GroupId, InstallId, KeyHash, LaneId, VersionId};
use crate::label::Label;
use crate::time::UnixMillis;

/// What makes a lane: change any part and it is another lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LaneKey {
    /// The device, as the directory numbers it.
    pub device: DeviceId,
    /// The account, as the operating system numbers it.
    pub account: AccountId,
    /// The installation of the agent.
    pub install: InstallId,
    /// The device key that signs.
    pub key: KeyHash,
}

impl LaneKey {
    /// The lane's short name: the first 16 bytes of SHA-256 over five parts, `"keyturn lane v1"`, device, account,
    /// install and key, each preceded by its length in two bytes, big endian.
    pub fn id(&self) -> LaneId {
        let parts: [&[u8]; 5] = [
            b"keyturn lane v1",
            self.device.as_bytes(),
            self.account.as_str().as_bytes(),
            self.install.as_bytes(),
            self.key.as_bytes(),
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(digest.split_at(16).0);
        LaneId(id)
    }
}

/// When a message was said, by the server's clock twice over: when the nonce in it was given out and when it
/// came in. What the device's own clock says never counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// When the ingress took the message.
    pub received: UnixMillis,
    /// When the server gave out the nonce inside the message.
    pub nonce: UnixMillis,
}

impl Order {
    /// Newer means strictly later on both counts.
    pub fn is_newer_than(self, last: Self) -> bool {
        self.received > last.received && self.nonce > last.nonce
    }
}

/// A version and when it came to be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dated {
    /// The version.
    pub version: VersionId,
    /// When.
    pub at: UnixMillis,
}

/// What the device says about itself, for display beside what the directory says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Serial number.
    pub serial: Label,
    /// Host name.
    pub host: Label,
    /// Operating system.
    pub os: Label,
    /// The managed account's name.
    pub account_name: Label,
}

/// What the account on the device demands of a password. Hints of a device may only lengthen or restrict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// Shortest password the device takes, in characters.
    pub min_len: Option<u32>,
    /// Whether the device demands several character classes.
    pub complexity: Option<bool>,
    /// Longest password the device takes, in characters.
    pub max_len: Option<u32>,
}

/// One lane of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// What makes it this lane.
    pub key: LaneKey,
    /// When its first message was taken.
    pub opened: UnixMillis,
    /// The version the device last said it uses, and when it first said so.
    #[serde(default)]
    pub confirmed: Option<Dated>,
    /// The version sent to the device and not yet heard of again. At most one: a retry sends it again.
    #[serde(default)]
    pub outstanding: Option<Dated>,
    /// Versions that may be in use although the device does not say so for certain.
    #[serde(default)]
    pub in_doubt: BTreeSet<VersionId>,
    /// Versions the operating system refused. They stay in doubt: some systems say no and set it all the same.
    #[serde(default)]
    pub refused: BTreeSet<VersionId>,
    /// The newest message applied.
    #[serde(default)]
    pub last: Option<Order>,
    /// When versions were minted, within the last day.
    #[serde(default)]
    pub minted: Vec<UnixMillis>,
    /// When the device refused versions, within the hold window.
    #[serde(default)]
    pub refusals: Vec<UnixMillis>,
    /// No new versions before this instant.
    #[serde(default)]
    pub held_until: Option<UnixMillis>,
    /// An operator holds the lane: no new versions before this instant, whatever the device says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_hold: Option<UnixMillis>,
    /// A rotation was asked for at this instant; only a version minted later meets it.
    #[serde(default)]
    pub forced: Option<UnixMillis>,
    /// What the device demands of passwords.
    #[serde(default)]
    pub hints: Hints,
    /// What the device says about itself.
    #[serde(default)]
    pub about: About,
    /// Groups of the directory that policies go by and the device was in when the directory last vouched for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<GroupId>,
    /// Closed lanes are shown under "older" only.
    #[serde(default)]
    pub closed: Option<UnixMillis>,
    /// The ledger was found to be restored from a backup at this instant, and the device has not said since then
    /// what it uses: whatever the vault has of the lane and the ledger never heard of is a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<UnixMillis>,
}

impl Lane {
    /// A lane that has heard nothing yet.
    pub fn open(key: LaneKey, now: UnixMillis) -> Self {
        Self {
            key,
            opened: now,
            confirmed: None,
            outstanding: None,
            in_doubt: BTreeSet::new(),
            refused: BTreeSet::new(),
            last: None,
            minted: Vec::new(),
            refusals: Vec::new(),
            held_until: None,
            on_hold: None,
            forced: None,
            hints: Hints::default(),
            about: About::default(),
            groups: BTreeSet::new(),
            closed: None,
            restored: None,
        }
    }

    /// Whether the lane still counts: its candidates are shown, and it takes up one of the device's places. A lane
    /// counts until an operator closes it, or until another lane of the device was confirmed after this one was
    /// last heard of, and that for `former_after`. What it had is then among the older versions.
    pub fn is_open(&self, lanes: &[Self], policy: &RotationPolicy, now: UnixMillis) -> bool {
        let heard = self.last.map_or(self.opened, |last| last.received);
        let outlived = |other: &Self| {
            other.closed.is_none()
                && other
                    .confirmed
                    .is_some_and(|dated| dated.at > heard && now.since(dated.at) >= policy.former_after)
        };
        self.closed.is_none() && !lanes.iter().any(outlived)
    }

    /// Closes the lane: its candidates are shown no more and it takes up no place. A message of it that comes all
    /// the same opens it again, because what a device says of itself counts.
    pub fn close(&mut self, at: UnixMillis) {
        self.closed.get_or_insert(at);
    }

    /// Ends a hold.
    pub fn release(&mut self) {
        self.held_until = None;
        self.on_hold = None;
        self.refusals.clear();
    }

    /// Holds the lane until an instant, in an operator's name.
    pub fn hold(&mut self, until: UnixMillis) {
        self.on_hold = self.on_hold.max(Some(until));
    }

    /// Until when the lane gets no new version, if it is held at `now`, by an operator or for its refusals.
    pub fn held(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.held_until.max(self.on_hold).filter(|until| *until > now)
    }

    /// Takes the lane for one of a ledger that was restored from a backup, as was found at `at`: messages said before
    /// are old, for what they did may be forgotten.
    pub fn restore(&mut self, at: UnixMillis) {
        self.restored = Some(at);
    }

    /// Whether a message comes after all that the lane has heard, and after the ledger was last restored.
    fn is_news(&self, order: Order) -> bool {
        let restored = self.restored.map(|at| Order { received: at, nonce: at });
        self.last.into_iter().chain(restored).all(|before| order.is_newer_than(before))
    }

    /// Takes in versions that the vault has of this lane and the ledger lost: the device may use any of them.
    pub fn find_again(&mut self, versions: impl IntoIterator<Item = VersionId>) {
        self.in_doubt.extend(versions);
    }

    /// Asks for a rotation. Only a version minted at `at` or later meets it.
    pub fn force(&mut self, at: UnixMillis) {
        self.forced = self.forced.max(Some(at));
    }

    /// Whether a version was ever made for this lane and is still of interest.
    pub fn has_versions(&self) -> bool {
        self.confirmed.is_some() || self.outstanding.is_some() || !self.in_doubt.is_empty()
    }

    /// The versions the account may have now, most likely first.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut shown: Vec<Candidate> = Vec::new();
        let confirmed = self.confirmed.map(|dated| (dated.version, Standing::Confirmed { at: dated.at }));
        let pending = self.outstanding.map(|dated| (dated.version, Standing::Pending { at: dated.at }));
        let doubtful = self.in_doubt.iter().map(|version| (*version, Standing::InDoubt));
        for (version, standing) in confirmed.into_iter().chain(pending).chain(doubtful) {
            if shown.iter().all(|seen| seen.version != version) {
                shown.push(Candidate { version, standing });
            }
        }
        shown
    }
}

/// A version the account may have now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The version.
    pub version: VersionId,
    /// What is known of it.
    #[serde(flatten)]
    pub standing: Standing,
}

/// How sure the server is that a candidate is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// The device said so in a signed report.
    Confirmed {
        /// When it first said so.
        at: UnixMillis,
    },
    /// Sent to the device, which has not said anything since.
    Pending {
        /// When it was minted.
        at: UnixMillis,
    },
    /// The device could not say for certain.
    InDoubt,
}

#[cfg(test)]
mod tests;
