//! findings → outcomes: decides, generates, writes the vault, signs every answer.
//!
//! The rotator is the only writer of the vault and has no inbound listener. It believes nothing it is told about
//! a message: it verifies the device's signature, the stamp and the finding again before any vault work.
//!
//! Reading order: [`judge`] (what a finding means), [`plan`] (what the ledger makes of it), [`versions`] (the
//! vault), [`answer`] (sealing and signing), [`handler`] (one batch, in that order).

mod answer;
mod handler;
mod judge;
mod plan;
mod versions;

pub use handler::{Keys, Ports, Rotator, Settings};
