//! How a worker works: lease a batch, decode each message, handle the batch, settle it in one step.
//!
//! Nothing here knows an engine or a role. At-least-once is the promise: a worker may die between any two lines,
//! and what it had leased comes back to another.
//!
//! Reading order: [`handler`] (what a role supplies), [`worker`] (the loop), [`decode`], [`settle`] (retry or
//! dead letter), [`signing`], [`replay`], [`hops`] (queues of several engines), [`measures`] and
//! [`spans`] (telemetry), [`aside`] (where cryptography is done).

pub mod handler;
pub mod worker;

pub mod aside;
pub mod decode;
pub mod measures;
pub mod settle;
pub mod signing;
pub mod spans;

pub mod hops;
pub mod replay;
