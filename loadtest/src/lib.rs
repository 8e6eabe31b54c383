//! The load test: devices with real keys that speak the real protocol, arriving at their own times whatever the
//! server does, and a report of what it cost. It knows the wire contract and nothing of the server's inside: what the
//! client cannot see comes from `/metrics`, from `/proc`, and from the `keyturn` command.
//!
//! Latency counts from when a device meant to start, not from when it came to: a generator or a server that falls
//! behind shows as latency and never as fewer, quicker samples (coordinated omission).
//!
//! Reading order: [`scenario`] and its [`arrivals`]; [`fleet`], which [`keygen`] makes; [`target`], what is loaded;
//! [`wire`] and [`device`], one rotation; [`drive`], many of them; [`record`] and [`watch`], what is measured;
//! [`verify`], whether nothing was lost or doubled; [`report`].

mod cli;
mod numbers;

pub mod arrivals;
pub mod scenario;

pub mod fleet;
pub mod keygen;

pub mod process;
pub mod target;

pub mod device;
pub mod wire;

pub mod drive;
pub mod record;
pub mod watch;

pub mod report;
pub mod session;
pub mod verify;

pub use cli::run;
