//! Which schema a store has, and which this release knows.

/// The schema of an open store. It may be newer than this release, if what was added since may be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// How many migrations the store has had.
    pub found: u32,
    /// How many this release knows.
    pub known: u32,
}

impl Schema {
    /// Whether a later release brought the store forward, and this one goes on with it.
    pub fn is_ahead(self) -> bool {
        self.found > self.known
    }
}
