//! Checking a backup by opening it: as a whole, and without changing a byte.

use std::path::Path;

use keyturn_ports::audit::Verified;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::{BackupError, sum};
use crate::{audit, rows, schema};

/// What a backup has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The schema it was written with.
    pub schema: u32,
    /// Devices of the directory.
    pub devices: u64,
    /// Lanes of the ledger.
    pub lanes: u64,
    /// Versions that the ledger knows.
    pub issued: u64,
    /// Versions in the vault.
    pub versions: u64,
    /// Versions that the ledger knows to be in this vault and that are not there. Anything but 0 is bad.
    pub missing: u64,
    /// Rows of the audit, all linked.
    pub audit: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: String,
    /// Whether the file with its sum was there and said the same. Without it, changed bytes that none of the other checks
    /// reads are not noticed.
    pub sum_matches: bool,
}

/// Checks the file at `path`: its SHA-256, if the file with its sum is there; SQLite's own check of all its pages and
/// indexes; the schema; that the vault has what the ledger says; and the chain of the audit. Reads the whole file.
pub fn check(path: &Path) -> Result<Checked, BackupError> {
    let sha256 = sum::of(path)?;
    let sum_matches = sum::compare(path, sum::expected(path)?.as_deref(), &sha256)?;
    Ok(Checked { sha256, sum_matches, ..examine(path)? })
}

/// The same without the sum.
pub(super) fn examine(path: &Path) -> Result<Checked, BackupError> {
    let bad = |detail: String| BackupError::Bad { path: path.to_owned(), detail };
    let said = |error: rusqlite::Error| bad(error.to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let file = Connection::open_with_flags(path, flags).map_err(said)?;
    let id: i32 = file.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(said)?;
    if id != schema::APPLICATION_ID {
        return Err(bad(format!("it is not a Keyturn database, its application id is {id:#x}")));
    }
    let schema: u32 = file.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(said)?;
    let known = schema::known();
    if schema > known && schema::compatible_from(&file).map_err(said)? > known {
        return Err(bad(format!("it has schema {schema}, and this release knows up to {known}")));
    }
    let sound: String = file.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(said)?;
    if sound != "ok" {
        return Err(bad(sound));
    }
    let count = |sql| file.query_row(sql, [], |row| rows::number(row, 0)).map_err(said);
    let checked = Checked {
        schema,
        devices: count("SELECT count(*) FROM directory")?,
        lanes: count("SELECT count(*) FROM lanes")?,
        issued: count("SELECT count(*) FROM issued")?,
        versions: count("SELECT count(*) FROM vault_versions")?,
        missing: count(
            "SELECT count(*) FROM issued LEFT JOIN vault_versions AS vault \
             ON vault.id = CAST(issued.vault_ref AS INTEGER) AND vault.version = issued.version \
             WHERE vault.id IS NULL",
        )?,
        audit: audit_rows(&file).map_err(&bad)?,
        dead_letters: count("SELECT count(*) FROM dead_letters")?,
        sha256: String::new(),
        sum_matches: false,
    };
    if checked.missing > 0 {
        let some = if checked.missing == 1 { "version" } else { "versions" };
        return Err(bad(format!("its vault lacks {} {some} that its ledger knows", checked.missing)));
    }
    Ok(checked)
}

fn audit_rows(file: &Connection) -> Result<u64, String> {
    match audit::verify(file).map_err(|failure| failure.detail().to_owned())? {
        Verified::Intact { rows } => Ok(rows),
        Verified::Broken { seq } => Err(format!("its audit is broken at row {seq}")),
    }
}
