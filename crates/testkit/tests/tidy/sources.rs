//! What stands in Rust files, and what may not.

use super::{none, rust};

/// No file is longer, tests not counted.
const LINES: usize = 600;

/// Nowhere in any Rust file, tests included: a lint is expected with a reason, and nothing is left for later.
const NOWHERE: [&str; 6] = ["#[allow(", "#![allow(", "#[ignore", "todo!", "unimplemented!", "dbg!"];

/// Where passwords are read, by the beginnings of paths: where they are sealed, stored, set, and shown. Everywhere
/// else they are handed on unread.
const PASSWORD_READERS: [&str; 9] = [
    "crates/azure/src/key_vault/stored.rs",
    "schemas/src/seal.rs",
    "schemas/src/vault",
    "crates/embedded/src/vault",
    "crates/postgres/src/vault",
    "agent/src/accounts",
    "agent/src/platform/linux/password.rs",
    "ops/src/commands/reveal.rs",
    "ops/src/commands/vault/open_export.rs",
];

/// Where a password's text lies, and the one function is that lets it out.
const PASSWORD: &str = "crates/domain/src/password.rs";

/// Files that hand a service the secret by which it knows us.
const CREDENTIALS: [&str; 3] = [
    "crates/azure/src/service_bus/tokens.rs",
    "crates/azure/src/storage_queues/client.rs",
    "crates/azure/src/storage_queues/shared_key.rs",
];

/// Where a text is made with `{:?}`: what is `Debug` itself, and the tools that measure, whose reader is who runs them.
const DEBUG_TEXTS: [&str; 3] = ["schemas/src/mac.rs", "loadtest/", "bench/"];

#[test]
fn no_message_is_a_debug_print() {
    let mut found = Vec::new();
    for source in rust::shipped() {
        if DEBUG_TEXTS.iter().any(|path| source.path.starts_with(path)) {
            continue;
        }
        for word in [":?}", ":#?}"] {
            let hits = source.uncommented.match_indices(word);
            found.extend(hits.map(|(at, word)| format!("{}: {word}", source.place(at))));
        }
    }
    none("texts that show a value as the compiler writes it, and not as people do", found);
}

#[test]
fn no_file_is_too_long() {
    let long = rust::shipped().into_iter().filter(|source| source.lines() > LINES);
    none(
        "files of more than 600 lines without tests",
        long.map(|one| format!("{}: {}", one.path, one.lines())),
    );
}

#[test]
fn every_file_says_what_it_is() {
    let silent = rust::shipped().into_iter().filter(|source| !source.text.starts_with("//!"));
    none("files that do not open with `//!`", silent.map(|source| source.path));
}

#[test]
fn no_lint_is_allowed_and_nothing_is_left_for_later() {
    let mut found = Vec::new();
    for source in rust::all() {
        for word in NOWHERE {
            let hits = source.code.match_indices(word);
            let hits = hits.filter(|(at, _)| !source.code[..*at].ends_with(rust::is_word));
            found.extend(hits.map(|(at, word)| format!("{}: {word}", source.place(at))));
        }
    }
    none("what no Rust file may have", found);
}

#[test]
fn passwords_are_read_only_where_they_have_to_be() {
    let mut found = Vec::new();
    for source in rust::shipped() {
        let may_read = PASSWORD_READERS.iter().any(|beginning| source.path.starts_with(beginning));
        let may_unwrap = source.path == PASSWORD || CREDENTIALS.contains(&source.path.as_str());
        for (call, may) in [(".expose(", may_read), ("::expose", may_read), ("expose_secret", may_unwrap)] {
            let hits = source.code.match_indices(call).filter(|_| !may);
            found.extend(hits.map(|(at, call)| format!("{}: {call}", source.place(at))));
        }
    }
    none("passwords read where they should be handed on", found);
}
