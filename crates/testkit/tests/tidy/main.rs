//! The rules of CONTRIBUTING.md that a program can check, checked on the files as they lie there.
//!
//! Reading order: [`crates`] (which crate may name which), [`sources`] (what stands in Rust files), [`codes`]
//! (error codes and their pages), [`texts`] (links, and what no file may say). [`tree`] and [`rust`] read.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot read the tree has to fail; helpers of tests are tests"
)]

mod codes;
mod crates;
mod rust;
mod sources;
mod texts;
mod tree;

/// Fails with one line for each violation.
fn none(rule: &str, found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "{rule}:\n  {}\n", found.join("\n  "));
}
