//! A store on its way from one engine to another: which tables move, and what a row is between two engines.
//!
//! Both engines that have these tables give a row in the same form and in the same order, so that what one says of a
//! table and what the other says of it can be compared by a hash. Sealed versions are bytes here like everything else:
//! nothing is opened on the way, and no key is needed.
//!
//! What does not move is made anew: booked turns are moments of a clock that is left behind, and the last report of a
//! chore is old by the next.

mod columns;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What moves, in the order in which it does. Each row of each table moves, in no more than one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The audit.
    Audit,
    /// The directory.
    Directory,
    /// The vault: sealed versions, as they are.
    Vault,
    /// The ledger: lanes.
    Lanes,
    /// The ledger: which versions were issued.
    Issued,
    /// The ledger: which messages took effect.
    Effects,
    /// The ledger: what happened.
    Events,
    /// Messages that were accepted.
    Accepted,
    /// Results that agents poll.
    Results,
    /// All queues, with leases, delays and failed attempts.
    Messages,
    /// Dead letters.
    DeadLetters,
    /// Jobs on dead letters.
    LetterJobs,
    /// The letters that those are not done with.
    LetterJobLetters,
    /// Jobs of forced rotations.
    RotationJobs,
    /// Their devices.
    RotationJobDevices,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// An integer of 64 bits.
    Number,
    /// Bytes, or a text that is kept byte for byte.
    Bytes,
    /// A text in which NUL has been replaced: not every engine has a place for it.
    Text,
    /// A text that a hash was made over. One with a NUL cannot move.
    Hashed,
    /// Failed attempts at a message, as JSON.
    Attempts,
}

/// A column: its name, which is the same on both engines, and what it holds, if anything.
pub type Column = (&'static str, Holds);

/// What is in a column of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing.
    Null,
    /// An integer.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A text.
    Text(String),
    /// Failed attempts: when, and at what.
    Attempts(Vec<(u64, String)>),
}

/// A row: a value for each of [`Table::columns`].
pub type Row = Vec<Value>;

/// Rows that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// Where the last of them is, for the engine that gave it; None if there are no more.
    pub last: Option<Row>,
}

/// What is in a store beside rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How often the store was restored, and one.
    pub generation: i64,
    /// When it was last, in milliseconds.
    pub restored_at: Option<i64>,
    /// The last number that was given to a message of each queue, in the order of their codes, and so how many were
    /// sent.
    pub sent: [i64; 4],
    /// The last number that was given to a dead letter: it must not come to mean another one.
    pub dead_letters: i64,
    /// The same for jobs on dead letters.
    pub letter_jobs: i64,
    /// The same for jobs of forced rotations.
    pub rotation_jobs: i64,
    /// The last number of an event.
    pub events: i64,
    /// The last number of a version in the vault.
    pub versions: i64,
    /// How far the audit and the events were shipped: what was taken over outside is not to be sent again.
    pub shipped: [i64; 2],
}

/// How much is in a table, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// SHA-256 over all of them, in their order.
    pub hash: [u8; 32],
}

/// Counts and hashes rows.
#[derive(Clone, Debug, Default)]
pub struct Count {
    rows: u64,
    hash: Sha256,
}

impl Count {
    /// Adds a row.
    pub fn add(&mut self, row: &[Value]) {
        self.rows += 1;
        self.hash.update(length(row.len()));
        for value in row {
            self.value(value);
        }
    }

    /// What was added.
    pub fn tally(self) -> Tally {
        Tally { rows: self.rows, hash: self.hash.finalize().into() }
    }

    /// Each value with its kind and its length, so that no two rows have the same bytes.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.part(0, &[]),
            Value::Number(number) => self.part(1, &number.to_be_bytes()),
            Value::Bytes(bytes) => self.part(2, bytes),
            Value::Text(text) => self.part(3, text.as_bytes()),
            Value::Attempts(attempts) => {
                self.part(4, &length(attempts.len()));
                for (at, error) in attempts {
                    self.part(5, &at.to_be_bytes());
                    self.part(6, error.as_bytes());
                }
            }
        }
    }

    fn part(&mut self, kind: u8, bytes: &[u8]) {
        self.hash.update([kind]);
        self.hash.update(length(bytes.len()));
        self.hash.update(bytes);
    }
}

fn length(of: usize) -> [u8; 8] {
    u64::try_from(of).unwrap_or(u64::MAX).to_be_bytes()
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Audit,
        Self::Directory,
        Self::Vault,
        Self::Lanes,
        Self::Issued,
        Self::Effects,
        Self::Events,
        Self::Accepted,
        Self::Results,
        Self::Messages,
        Self::DeadLetters,
        Self::LetterJobs,
        Self::LetterJobLetters,
        Self::RotationJobs,
        Self::RotationJobDevices,
    ];

    /// Its name, which is the same on both engines. The embedded one keeps messages in several tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Directory => "directory",
            Self::Vault => "vault_versions",
            Self::Lanes => "lanes",
            Self::Issued => "issued",
            Self::Effects => "effects",
            Self::Events => "events",
            Self::Accepted => "accepted",
            Self::Results => "results",
            Self::Messages => "messages",
            Self::DeadLetters => "dead_letters",
            Self::LetterJobs => "letter_jobs",
            Self::LetterJobLetters => "letter_job_letters",
            Self::RotationJobs => "rotation_jobs",
            Self::RotationJobDevices => "rotation_job_devices",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(rows: &[Row]) -> Tally {
        let mut count = Count::default();
        for row in rows {
            count.add(row);
        }
        count.tally()
    }

    #[test]
    fn no_two_rows_have_the_same_hash() {
        let text = |text: &str| Value::Text(text.to_owned());
        let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let tried = |error: &str| Value::Attempts(vec![(1, error.to_owned())]);
        let all: [&[Row]; 13] = [
            &[],
            &[vec![]],
            &[vec![], vec![]],
            &[vec![Value::Null]],
            &[vec![text("")]],
            &[vec![bytes("")]],
            &[vec![text("ab"), text("c")]],
            &[vec![text("a"), text("bc")]],
            &[vec![text("ab")], vec![text("c")]],
            &[vec![Value::Number(0)]],
            &[vec![bytes("\0\0\0\0\0\0\0\0")]],
            &[vec![Value::Attempts(vec![])]],
            &[vec![tried("a"), tried("b")]],
        ];
        for (place, one) in all.iter().enumerate() {
            for other in all.iter().skip(place + 1) {
                assert_ne!(tally(one), tally(other), "{one:?} {other:?}");
            }
            assert_eq!(tally(one), tally(one));
        }
    }

    #[test]
    fn every_table_is_moved_once() {
        let names: std::collections::BTreeSet<_> = Table::ALL.iter().map(|table| table.name()).collect();
        assert_eq!(names.len(), Table::ALL.len());
        for table in Table::ALL {
            assert!(!table.columns().is_empty() && !table.key().is_empty(), "{}", table.name());
        }
    }
}
