//! The command line and the real processes, as their users meet them.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod alarms;
mod audit_list;
#[cfg(any(feature = "azurite", feature = "service-bus"))]
mod azure_pipeline;
mod break_glass;
mod canary;
mod cli;
mod collector;
mod dead_letters;
mod deployment;
mod doctor;
mod envelope;
mod errors;
mod fleet;
mod graph;
mod groups;
mod hostile;
mod json_keys;
mod key_vault;
mod keys;
mod letters_past;
mod log_level;
mod many_letters;
mod metrics;
mod migrate;
mod operate;
mod processes;
mod recovery;
mod refusals;
mod restore;
mod rotations;
mod runbook;
mod shipping;
mod signing;
mod telemetry;
mod terminal;
mod traces;
mod units;
mod upgrade;
