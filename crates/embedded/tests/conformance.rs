//! Every suite of the ports, on a file each.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::sync::Arc;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_embedded::{Database, MasterKey, MasterKeys, OpenOptions, SealedVault};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance;
use keyturn_testkit::conformance::Subject;
use tempfile::TempDir;

/// A new file. The folder goes last, after the database has been closed.
struct Fresh<E> {
    engine: E,
    clock: ManualClock,
    _folder: TempDir,
}

impl<E> Fresh<E> {
    fn with(engine: impl FnOnce(Database) -> E) -> Self {
        let folder = TempDir::new().unwrap();
        let clock = ManualClock::default();
        let path = folder.path().join("keyturn.db");
        let options = OpenOptions::new(path, Arc::new(clock.clone()), Arc::new(SystemEntropy));
        Self { engine: engine(Database::open(options).unwrap()), clock, _folder: folder }
    }
}

impl Subject for Fresh<Database> {
    type Engine = Database;

    async fn fresh() -> Self {
        Self::with(|database| database)
    }

    fn engine(&self) -> &Database {
        &self.engine
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

impl Subject for Fresh<SealedVault> {
    type Engine = SealedVault;

    async fn fresh() -> Self {
        let keys = MasterKeys::new([MasterKey::new([7; 32].into())]).unwrap();
        Self::with(|database| SealedVault::new(database, keys))
    }

    fn engine(&self) -> &SealedVault {
        &self.engine
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

conformance!(queue, Fresh<Database>);
conformance!(chores, Fresh<Database>);
conformance!(dead_letters, Fresh<Database>);
conformance!(graveyard, Fresh<Database>);
conformance!(letter_jobs, Fresh<Database>);
conformance!(intake, Fresh<Database>);
conformance!(ledger, Fresh<Database>);
conformance!(results, Fresh<Database>);
conformance!(rotations, Fresh<Database>);
conformance!(turns, Fresh<Database>);
conformance!(directory, Fresh<Database>);
conformance!(roster, Fresh<Database>);
conformance!(audit, Fresh<Database>);
conformance!(shipping, Fresh<Database>);
conformance!(vault, Fresh<SealedVault>);
