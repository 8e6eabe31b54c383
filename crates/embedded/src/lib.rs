//! Every port on one SQLite file, for a deployment on one machine.
//!
//! [`Database`] is a handle on the file and implements the queues, the dead letters, the intake, the ledger, the
//! results, the directory and the audit. [`SealedVault`] adds the master keys and implements the vault, so that
//! a process without the keys cannot even build one. Several processes may open the same file at once.
//!
//! Reading order: [`Database`] and how it opens (`database`, `open`, `schema`), how it writes (`writer`, `batch`),
//! how it reads (`readers`), how those who wait are woken (`signals`, `watcher`), then one file per port.

mod database;
mod epoch;
mod open;
mod schema;

mod batch;
mod bells;
mod writer;

mod readers;

mod signals;
mod watcher;

mod failure;
mod rows;

mod dead_letters;
mod intake;
mod queue;

mod ledger;
mod lookups;
mod results;

mod backup;
mod departure;
mod upkeep;

mod audit;
mod chores;
mod directory;
mod roster;
mod shipping;

mod turns;
mod vault;

pub use backup::{BackupError, Checked, Pace, Progress, Restored, check, restore, sum_file};
pub use database::{Database, OpenOptions};
pub use departure::{Departure, Left};
pub use open::OpenError;
pub use vault::{MasterKey, MasterKeys, NoMasterKey, SealedVault};
