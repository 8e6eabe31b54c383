//! Every suite of the ports, on a database each of a real server.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::sync::Arc;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_postgres::{Database, Limits, SealedVault, Settings, Times, Tls};
use keyturn_schemas::vault::{MasterKey, MasterKeys};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance;
use keyturn_testkit::conformance::Subject;
use keyturn_testkit::postgres::TestDatabase;

/// A new database. It goes last, after what uses it.
struct Fresh<E> {
    engine: E,
    clock: ManualClock,
    _database: TestDatabase,
}

impl<E> Fresh<E> {
    fn with(engine: impl FnOnce(Database) -> E) -> Self {
        let (database, clock) = (TestDatabase::fresh(), ManualClock::default());
        let settings = Settings::new(&database.address(), None, Tls::Off, Limits::default()).unwrap();
        let (time, entropy) = (Arc::new(clock.clone()), Arc::new(SystemEntropy));
        assert!(Database::make(&settings, time.clone(), entropy.clone(), Times::Clock).unwrap().made);
        let opened = Database::open(&settings, time, entropy, Times::Clock).unwrap();
        Self { engine: engine(opened), clock, _database: database }
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
conformance!(intake, Fresh<Database>);
conformance!(letter_jobs, Fresh<Database>);
conformance!(ledger, Fresh<Database>);
conformance!(rotations, Fresh<Database>);
conformance!(turns, Fresh<Database>);
conformance!(results, Fresh<Database>);
conformance!(directory, Fresh<Database>);
conformance!(roster, Fresh<Database>);
conformance!(audit, Fresh<Database>);
conformance!(shipping, Fresh<Database>);
conformance!(vault, Fresh<SealedVault>);
