//! The tables, and how a file of an earlier release gets those of this one.
//!
//! Migrations only add. A release that adds something earlier releases may ignore leaves `compatible_from` in
//! the table `meta` alone, and they can still open the file; one that changes what they rely on raises it to its
//! own number, and they refuse.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::open::OpenError;

/// "KTRN", in the header of every file (sqlite.org/pragma.html#pragma_application_id).
pub(crate) const APPLICATION_ID: i32 = 0x4b54_524e;

/// Each makes a file one schema newer; the number of the schema is how many were applied.
const MIGRATIONS: [&str; 9] = [
    include_str!("schema/0001_tables.sql"),
    include_str!("schema/0002_known_keys.sql"),
    include_str!("schema/0003_rotation_jobs.sql"),
    include_str!("schema/0004_letter_jobs.sql"),
    include_str!("schema/0005_chores.sql"),
    include_str!("schema/0006_departure.sql"),
    include_str!("schema/0007_shipped.sql"),
    include_str!("schema/0008_turns.sql"),
    include_str!("schema/0009_roster.sql"),
];

/// The first schema whose releases know what it means that the state has left the file.
pub(crate) const KNOWS_DEPARTURES: u32 = 6;

/// The newest schema that this release knows.
pub(crate) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Brings the file up to date, in one transaction. Two processes may open a new file at once: the second waits
/// for the first and finds nothing left to do.
pub(crate) fn migrate(path: &Path, connection: &mut Connection) -> Result<(), OpenError> {
    let sql = |source| OpenError::from_sqlite(path, source);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let found = applied(&transaction).map_err(sql)?;
    let known = known();
    if found > known && compatible_from(&transaction).map_err(sql)? > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    if found > 0 && !is_settled(&transaction).map_err(sql)? {
        let detail = "a build wrote it before the tables were settled, and no release".to_owned();
        return Err(OpenError::Foreign { path: path.to_owned(), detail });
    }
    for migration in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(migration).map_err(sql)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known).map_err(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    }
    transaction.commit().map_err(sql)
}

/// Whether the first tables are those that every release has had. Builds that came before the first of them numbered
/// other tables alike.
fn is_settled(transaction: &Transaction<'_>) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('dead_letters') WHERE name = 'origin')";
    transaction.query_row(sql, [], |row| row.get(0))
}

fn applied(transaction: &Transaction<'_>) -> Result<u32, rusqlite::Error> {
    transaction.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn compatible_from(transaction: &Transaction<'_>) -> Result<u32, rusqlite::Error> {
    transaction.query_row(
        "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'compatible_from'",
        [],
        |row| row.get(0),
    )
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A file that was written with a migration never gets it again. What a table lacks comes with another migration.
    #[test]
    fn migrations_that_files_were_written_with_are_never_edited() {
        let settled = ["884f30200c3e584e", "54fbf186b5fc0829", "c9009016200f394e", "3cc95be0a3fc6ef3"];
        for (number, (migration, digest)) in (1..).zip(MIGRATIONS.iter().zip(settled)) {
            let found: Vec<String> =
                Sha256::digest(migration).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found.concat(), digest, "migration {number} was edited: add another one instead");
        }
    }
}
