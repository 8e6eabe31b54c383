//! What the roles need from engines, as traits with their contracts in prose.
//!
//! An adapter (`embedded`, `postgres`, later `azure`) implements them; one conformance suite per port in
//! `keyturn-testkit` is the contract in executable form and is run against every adapter. Where a capability
//! has a reading and a writing half they are two traits, so that a role can be given only what it may do.
//!
//! Every method may be called again after an unknown outcome, and every future may be dropped at any await
//! point: the call then either happened or did not.

mod error;

pub mod dead_letters;
pub mod queue;

pub mod intake;
pub mod ledger;
pub mod results;
pub mod rotations;

pub mod directory;
pub mod roster;
pub mod turns;
pub mod upkeep;
pub mod vault;

pub mod audit;
pub mod chores;

pub mod moving;
pub mod schema;
pub mod shipping;
pub mod signing;

pub use error::{Error, Kind};
