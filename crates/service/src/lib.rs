//! The shell of every server process: configuration, keys, telemetry, health, HTTP, signals, and the one place
//! that picks engines.
//!
//! This crate names adapters and no role; a role's `main.rs` names this crate and its own library. Reading
//! order: [`config`], [`keys`], [`engines`], [`host`] (what a role gets), [`shell`] (a process from start to
//! end), [`http`], [`health`], [`telemetry`], [`failure`] (why a process or a command ends).

mod audited;
pub mod backups;
pub mod config;
mod copies;
mod directory_feed;
pub mod engines;
pub mod failure;
pub mod fleet;
mod handles;
pub mod keys;
pub mod levels;
pub mod migration;
pub mod recovery;
pub mod shipping;

pub mod host;
pub mod shell;
pub mod standing;
pub mod supervise;
mod upkeep;

/// The queues a role may name.
pub mod queues {
    pub use keyturn_ports::queue::QueueName;
}

mod expiry;
pub mod health;
pub mod http;
pub mod spans;
pub mod telemetry;
pub mod terminal;
