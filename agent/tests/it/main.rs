//! The agent against a strict server that lives in the test: every message is checked as the real pipeline
//! checks it, the ledger's own decisions are taken, and real keys sign and seal.

mod account;
mod config;
mod crash;
mod forged;
mod program;
mod rotate;
mod server;
mod stubborn;
