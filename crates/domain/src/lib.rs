//! What Keyturn decides, without how it is stored or sent.
//!
//! Everything here is a value or a pure function over values: time and randomness come in through
//! [`clock::Clock`] and [`entropy::Entropy`], effects go out as data. No async, no files, no sockets; the
//! one exception is [`ambient`], which reads the real clock and the system's random source and nothing else.
//!
//! Reading order: [`ids`] and [`time`], then [`lane`] (the server's ledger), [`journal`] (the agent's side
//! of the same protocol), [`password`] and [`policies`]; [`admission`] is what the edge takes from whom,
//! [`webhook`] where alarms go, [`standing`] how a device stands.

pub mod ids;
pub mod span;
pub mod standing;
pub mod time;

pub mod lane;

pub mod journal;

pub mod password;
pub mod policies;

pub mod join_type;
pub mod label;

pub mod admission;
pub mod network;
pub mod webhook;

pub mod ambient;
pub mod clock;
pub mod entropy;
pub mod live;
