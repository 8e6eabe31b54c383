//! The HTTP edge for devices: bound, parse, verify, stamp, enqueue, 202; and let them poll for results.
//!
//! The ingress makes no decision and holds neither the vault key nor the signing key. It answers 202 only after
//! a durable commit. Until the signature has passed, every refusal says what is wrong with the shape of the
//! message and nothing about any device.
//!
//! Reading order: [`api`] (the routes and what every answer carries), [`admission`] (who is let in), [`submit`],
//! [`poll`], [`refusal`].

mod admission;
mod api;
mod body;
mod load;
mod poll;
mod refusal;
mod submit;
mod traces;

pub use api::{Ingress, Keys, Limits, Ports, Settings};
