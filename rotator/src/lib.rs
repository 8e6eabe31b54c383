//! findings → outcomes: decides, generates, writes the vault, signs every answer.
//!
//! The rotator is the only writer of the vault and has no inbound listener. It believes nothing it is told about
//! a message: it verifies the device's signature, the stamp and the finding again before any vault work.
//!
//! Reading order: [`handler`] (a batch), [`judge`] (what a finding means), [`wave`] (messages of different devices
//! at once), [`plan`] (what the ledger makes of a message), [`versions`] (the vault), [`effect`] and [`answer`]
//! (one transaction, sealed and signed), [`tell`].

mod handler;
mod judge;
mod lost;

mod plan;
mod wave;

mod versions;

mod answer;
mod effect;
mod tell;

pub use handler::{Keys, Ports, Rotator, Settings};
