//! The agent against a strict server that lives in the test: every message is checked as the real pipeline
//! checks it, the ledger's own decisions are taken, and real keys sign and seal.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that finds anything else than it wants has to fail; helpers of tests are tests"
)]

mod account;
mod config;
mod crash;
mod forged;
#[cfg(all(feature = "pkcs12", feature = "pkcs11", feature = "tpm2"))]
mod keys;
mod linux;
mod program;
mod rotate;
mod server;
mod stubborn;
mod tls;
