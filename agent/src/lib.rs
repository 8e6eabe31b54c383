//! The agent: the program on a device that keeps its administrator password fresh. It asks the server for a
//! password, sets it, proves it by logging on and reports which version is in use.
//!
//! It must never be left with a password that nobody can look up, never act on an answer that is not the
//! rotator's to its own live request, and never write a password anywhere but into the account.
//!
//! Reading order: [`settings`] and [`config`]; [`agent`] and the run it repeats, [`cycle`]; what a run is made
//! of: [`identity`] and its [`key`], [`install`], [`client`] over [`transport`], [`key_set`], [`answer`], [`accounts`],
//! [`platform`], [`journal_file`], [`lock`]; what it says of itself: [`outcome`], [`observer`], [`status`],
//! [`detect`], [`doctor`].

pub mod cli;

pub mod about;
pub mod config;
pub mod settings;

pub mod agent;
pub mod cycle;

mod apply;
mod compose;

pub mod answer;
pub mod client;
pub mod key_set;
pub mod transport;

pub mod accounts;
pub mod identity;
pub mod install;
pub mod journal_file;
pub mod key;
pub mod lock;
pub mod platform;

mod backoff;
mod disk;
mod events;

pub mod detect;
pub mod doctor;
pub mod observer;
pub mod outcome;
pub mod status;

pub use agent::{Agent, Deps, Error};
pub use outcome::Outcome;
pub use settings::Settings;
