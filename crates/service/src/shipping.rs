//! The audit and the events, shipped to Azure Monitor: read from the store in order, sent, and noted by a cursor in the
//! store itself. The store is the spool, so nothing is lost while the service is away, and a row may arrive twice:
//! whoever reads the tables merges rows by `RowId`.
//!
//! A reveal does not wait for any of this. What it waits for is its row in the store's own audit.

pub mod columns;
mod forwarder;
pub mod names;

pub(crate) use self::forwarder::Forwarder;
