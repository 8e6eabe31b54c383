//! The columns of each table: one line each, the same on both engines.

use super::Holds::{Attempts as A, Bytes as B, Hashed as H, Number as N, Text as T};
use super::{Column, Table};

const AUDIT: &[Column] = &[
    ("seq", N),
    ("at", N),
    ("actor", H),
    ("action", H),
    ("device", B),
    ("reason", H),
    ("detail", H),
    ("hash", B),
];
const DIRECTORY: &[Column] = &[("device", B), ("name", T), ("record", T)];
const VAULT: &[Column] = &[
    ("id", N),
    ("version", B),
    ("request", B),
    ("lane", B),
    ("device", B),
    ("sealed", B),
    ("tags", T),
    ("created_at", N),
];
const LANES: &[Column] = &[
    ("lane", B),
    ("device", B),
    ("revision", N),
    ("generation", N),
    ("marks", B),
    ("outstanding", B),
    ("serial", T),
    ("host", T),
    ("key", T),
    ("state", T),
];
const ISSUED: &[Column] = &[("version", B), ("lane", B), ("vault_ref", T), ("minted_at", N)];
const EFFECTS: &[Column] = &[("nonce_ms", N), ("mark", B), ("request", B)];
const EVENTS: &[Column] = &[("id", N), ("event", B), ("at", N), ("device", B), ("request", B), ("what", T)];
const ACCEPTED: &[Column] = &[("nonce_ms", N), ("request", B)];
const RESULTS: &[Column] = &[("request", B), ("body", B), ("expires_at", N)];
const MESSAGES: &[Column] = &[
    ("queue", N),
    ("id", N),
    ("visible_at", N),
    ("enqueued_at", N),
    ("deliveries", N),
    ("lease", B),
    ("request", B),
    ("device", B),
    ("body", B),
    ("attempts", A),
];
const DEAD_LETTERS: &[Column] = &[
    ("id", N),
    ("queue", N),
    ("request", B),
    ("device", B),
    ("body", B),
    ("reason", T),
    ("attempts", A),
    ("deliveries", N),
    ("enqueued_at", N),
    ("died_at", N),
    ("origin", T),
];
const LETTER_JOBS: &[Column] = &[
    ("id", N),
    ("at", N),
    ("actor", T),
    ("act", T),
    ("reason", T),
    ("selection", T),
    ("per_minute", N),
    ("letters", N),
    ("done", N),
    ("moved", N),
    ("last", N),
];
const LETTER_JOB_LETTERS: &[Column] = &[("job", N), ("letter", N)];
const ROTATION_JOBS: &[Column] = &[
    ("id", N),
    ("at", N),
    ("actor", T),
    ("reason", T),
    ("selection", T),
    ("per_minute", N),
    ("devices", N),
    ("asked", N),
    ("last", N),
];
const ROTATION_JOB_DEVICES: &[Column] = &[("job", N), ("place", N), ("device", B), ("asked_at", N)];

impl Table {
    /// Its columns, as both engines have them.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Audit => AUDIT,
            Self::Directory => DIRECTORY,
            Self::Vault => VAULT,
            Self::Lanes => LANES,
            Self::Issued => ISSUED,
            Self::Effects => EFFECTS,
            Self::Events => EVENTS,
            Self::Accepted => ACCEPTED,
            Self::Results => RESULTS,
            Self::Messages => MESSAGES,
            Self::DeadLetters => DEAD_LETTERS,
            Self::LetterJobs => LETTER_JOBS,
            Self::LetterJobLetters => LETTER_JOB_LETTERS,
            Self::RotationJobs => ROTATION_JOBS,
            Self::RotationJobDevices => ROTATION_JOB_DEVICES,
        }
    }

    /// What its rows are read by, in order. Lanes are read by their place, whose numbers are not the same on both engines
    /// and whose order is.
    pub fn key(self) -> &'static [Column] {
        match self {
            Self::Audit => &[("seq", N)],
            Self::Directory => &[("device", B)],
            Self::Vault
            | Self::Lanes
            | Self::Events
            | Self::DeadLetters
            | Self::LetterJobs
            | Self::RotationJobs => &[("id", N)],
            Self::Issued => &[("version", B)],
            Self::Effects => &[("nonce_ms", N), ("mark", B)],
            Self::Accepted => &[("nonce_ms", N), ("request", B)],
            Self::Results => &[("request", B)],
            Self::Messages => &[("queue", N), ("id", N)],
            Self::LetterJobLetters => &[("job", N), ("letter", N)],
            Self::RotationJobDevices => &[("job", N), ("place", N)],
        }
    }
}
