//! The agent's side of the protocol: what a device knows of its own password, in version ids only.
//!
//! The journal holds no secret. It is written to disk, file and folder, before the operating system is touched,
//! so that a crash at any point leaves a device that can still name every version its account may have. One
//! sentence must hold at every instant: a password that Keyturn set is the current version or in doubt.

use serde::{Deserialize, Serialize};

use crate::ids::{LaneId, VersionId};

/// The version of the journal's form that this release writes and reads.
pub const VERSION: u8 = 1;

/// What the device knows of its password. Lists are in the order in which their versions came, so that the
/// newest can be told when there is no room to name them all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// 1. A journal of another form is not read but counts as lost.
    pub v: u8,
    /// The lane the versions were made for.
    #[serde(default)]
    pub lane: Option<LaneId>,
    /// The version in use, proved by logging on; none when the device does not know.
    #[serde(default)]
    pub cur: Option<VersionId>,
    /// The version before it: what the account falls back to when its database lost the last change.
    #[serde(default)]
    pub prev: Option<VersionId>,
    /// Versions that may be in use.
    #[serde(default)]
    pub in_doubt: Vec<VersionId>,
    /// Versions the operating system refused.
    #[serde(default)]
    pub refused: Vec<VersionId>,
    /// What the operating system said of the last setting of the password: its time in seconds since the epoch, or
    /// a mark that every setting changes where the time is too coarse. Only ever compared for equality.
    #[serde(default)]
    pub password_set: Option<u64>,
}

/// What a message says of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The version in use, if the device knows.
    pub cur: Option<VersionId>,
    /// Versions that may be in use.
    pub in_doubt: Vec<VersionId>,
    /// Versions the operating system refused.
    pub refused: Vec<VersionId>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            v: VERSION,
            lane: None,
            cur: None,
            prev: None,
            in_doubt: Vec::new(),
            refused: Vec::new(),
            password_set: None,
        }
    }
}

impl Journal {
    /// At every start: compares the journal with the account it is about.
    ///
    /// If the operating system says that the password was set at another time than the journal knows of, or shows
    /// another mark of it, then somebody else set it, or one of the two was rolled back: the device does not know
    /// its version any more, and both the current one and its predecessor may be in use. The same holds when the
    /// lane is another one, because a version is only ever confirmed in the lane it was made for. A lost journal
    /// starts out as [`Journal::default`] and so knows nothing and says so.
    ///
    /// Says whether anything changed and has to be written.
    pub fn at_start(&mut self, lane: LaneId, password_set: Option<u64>) -> bool {
        let same = self.lane == Some(lane) && self.password_set == password_set;
        if !same {
            self.doubt();
            self.lane = Some(lane);
            self.password_set = password_set;
        }
        !same
    }

    /// Before the operating system is asked to set `version`. Must be on disk, file and folder, before it is:
    /// from here on the account may have the version at any instant, whatever the call returns, or does not.
    pub fn setting(&mut self, version: VersionId) {
        note(&mut self.in_doubt, version);
    }

    /// After a logon proved that the account has `version`. That settles every doubt, and earlier refusals with
    /// it. Proving the current version again keeps its predecessor.
    pub fn proved(&mut self, version: VersionId, password_set: Option<u64>) {
        if self.cur != Some(version) {
            self.prev = self.cur.replace(version);
        }
        self.in_doubt.clear();
        self.refused.clear();
        self.password_set = password_set;
    }

    /// After the operating system refused `version` and a logon proved that it did not set it all the same. The
    /// version stays in doubt: some systems refuse, and set it later or on another replica. If the password was
    /// touched nevertheless, the current version is in doubt as well.
    pub fn refused(&mut self, version: VersionId, password_set: Option<u64>) {
        note(&mut self.in_doubt, version);
        note(&mut self.refused, version);
        if self.password_set != password_set {
            self.doubt();
            self.password_set = password_set;
        }
    }

    /// What a message that may name at most `limit` versions in a list says of the journal.
    ///
    /// The server takes the doubts of a device that knows its current version as all there are. When there are
    /// more than fit, the device must not claim to know it: then the server only adds the newest doubts to what
    /// it has, and forgets nothing.
    pub fn known(&self, limit: usize) -> Known {
        let mut in_doubt = self.in_doubt.clone();
        let cur = self.cur.filter(|_| in_doubt.len() <= limit);
        if cur.is_none() {
            in_doubt.splice(0..0, self.cur.filter(|cur| !self.in_doubt.contains(cur)));
        }
        Known { cur, in_doubt: newest(&in_doubt, limit), refused: newest(&self.refused, limit) }
    }

    /// Whether `version` is one the account may have, as far as the journal knows.
    pub fn allows(&self, version: VersionId) -> bool {
        self.cur == Some(version) || self.in_doubt.contains(&version)
    }

    fn doubt(&mut self) {
        for version in [self.prev.take(), self.cur.take()].into_iter().flatten() {
            note(&mut self.in_doubt, version);
        }
    }
}

/// Adds a version as the newest.
fn note(list: &mut Vec<VersionId>, version: VersionId) {
    list.retain(|known| *known != version);
    list.push(version);
}

fn newest(list: &[VersionId], limit: usize) -> Vec<VersionId> {
    list.get(list.len().saturating_sub(limit)..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests;
