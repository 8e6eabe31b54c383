//! Upkeep: forgetting what is no longer needed, a little at a time.
//!
//! Lanes, versions, the directory, the audit and the vault are never forgotten: they grow with the fleet and its
//! rotations, and somebody may ask for any of it.

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use serde::Serialize;

use crate::Error;

/// Before which instants rows may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Accepted messages, by their nonces. Nonces older than this must be refused for their age.
    pub accepted: UnixMillis,
    /// Effects of messages, by their nonces. The engine keeps those of messages that still are dead letters longer.
    pub effects: UnixMillis,
    /// Facts of timelines.
    pub events: UnixMillis,
    /// Facts after this place stay, however old they are. None if every fact may go.
    pub events_through: Option<u64>,
    /// Results, by the instant at which they expire.
    pub results: UnixMillis,
}

/// How many rows were forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forgotten {
    /// Accepted messages.
    pub accepted: u64,
    /// Effects.
    pub effects: u64,
    /// Facts.
    pub events: u64,
    /// Results.
    pub results: u64,
}

impl Forgotten {
    /// The tables by name.
    pub fn tables(self) -> [(&'static str, u64); 4] {
        [
            ("accepted", self.accepted),
            ("effects", self.effects),
            ("events", self.events),
            ("results", self.results),
        ]
    }
}

/// Looking after a store. Several processes may do so at once: rows are forgotten once, and each call is short.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Forgets at most `limit` rows of each table, the oldest first.
    async fn forget(&self, before: Before, limit: usize) -> Result<Forgotten, Error>;

    /// How many dead letters died before `before`. They are never forgotten: an operator decides.
    async fn dead_since(&self, before: UnixMillis) -> Result<u64, Error>;

    /// Notes outside of the store how far it has come, so that an older copy in its place is noticed.
    async fn mark(&self) -> Result<(), Error>;
}
