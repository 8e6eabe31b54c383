//! Hostile input, case by case. docs/HOSTILE.md lists every case by its id; the ids stand in the tables here.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod edge;
mod http;
mod messages;
mod polls;
