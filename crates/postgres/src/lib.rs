//! Every port on one PostgreSQL database, for a deployment on several machines.
//!
//! [`Database`] is a handle on the database and implements the queues, the dead letters, the intake, the ledger,
//! the results, the directory and the audit. [`SealedVault`] adds the master keys and implements the vault, so that
//! a process without the keys cannot even build one. Any number of processes on any number of machines may use the
//! same database at once.
//!
//! Reading order: [`Settings`], how connections are made (`tls`, `pool`), how the database is opened (`open`,
//! `schema`, `epoch`), how it is read and written (`database`, `failure`), how those who wait are woken (`signals`,
//! `listener`), then one file per port.

mod settings;

mod pool;
mod tls;

mod open;
mod schema;

mod arrival;
mod epoch;
mod upkeep;

mod database;
mod failure;
mod rows;

mod listener;
mod signals;

mod dead_letters;
mod intake;
mod queue;

mod ledger;
mod lookups;
mod results;

mod audit;
mod chores;
mod directory;
mod roster;
mod shipping;

mod turns;
mod vault;

pub use arrival::{Arrival, Here, State};
pub use database::{Database, Made, Times};
pub use open::OpenError;
pub use settings::{Limits, Settings, SettingsError, Tls};
pub use vault::SealedVault;
