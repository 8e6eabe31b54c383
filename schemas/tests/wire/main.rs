//! The wire contract, from outside: schemas, interface descriptions, examples and test vectors lie in the tree as
//! files for other programs to read, and are compared here with what the code makes of them.
//!
//! After a change on purpose, `KEYTURN_BLESS=1 cargo test -p keyturn-schemas` writes them anew.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod asyncapi;
mod examples;
mod golden;
mod hpke;
mod openapi;
mod schemas;
mod vectors;
mod world;
