//! requests → findings: is the sender of this message the device it claims to be, and may it rotate?
//!
//! The validator asks the directory and seals what it found; it holds no vault key and no signing key. Messages
//! of devices that are not trusted travel on as well, as rejected findings, so that every answer has one author.

mod checks;
mod handler;

pub use handler::{Keys, Settings, Validator};
