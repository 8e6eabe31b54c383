//! The tables, and how a file of an earlier release gets those of this one.
//!
//! Migrations only add. A release that adds something earlier releases may ignore leaves `compatible_from` in
//! the table `meta` alone, and they can still open the file; one that changes what they rely on raises it to its
//! own number in the same migration, and they refuse. What is newer is never taken back: an earlier release leaves
//! the tables and their number as they are, so that the later one finds nothing to do when it comes back.

use std::path::Path;

use keyturn_ports::schema::Schema;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::open::{OpenError, Use};

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

/// What the migrations leave in `compatible_from`: the oldest schema whose releases may use a file of this one.
pub(crate) const COMPATIBLE_FROM: u32 = 1;

/// The first schema whose releases know what it means that the state has left the file.
pub(crate) const KNOWS_DEPARTURES: u32 = 6;

/// The newest schema that this release knows.
pub(crate) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Brings the file up to date, in one transaction. Two processes may open a new file at once: the second waits
/// for the first and finds nothing left to do.
pub(crate) fn migrate(path: &Path, connection: &mut Connection, use_of: Use) -> Result<Schema, OpenError> {
    bring_forward(path, connection, use_of, &MIGRATIONS)
}

/// The same for a release that knows these migrations.
fn bring_forward(
    path: &Path,
    connection: &mut Connection,
    use_of: Use,
    migrations: &[&str],
) -> Result<Schema, OpenError> {
    let sql = |source| OpenError::from_sqlite(path, source);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let found = applied(&transaction).map_err(sql)?;
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if found > known {
        let oldest = compatible_from(&transaction).map_err(sql)?;
        if oldest > known {
            return Err(OpenError::Newer { path: path.to_owned(), found, known, oldest });
        }
        if use_of == Use::Departure {
            return Err(OpenError::NewerToMove { path: path.to_owned(), found, known });
        }
    }
    if found > 0 && !is_settled(&transaction).map_err(sql)? {
        let detail = "a build wrote it before the tables were settled, and no release".to_owned();
        return Err(OpenError::Foreign { path: path.to_owned(), detail });
    }
    for migration in migrations.iter().skip(found as usize) {
        transaction.execute_batch(migration).map_err(sql)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known).map_err(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
    }
    transaction.commit().map_err(sql)?;
    Ok(Schema { found: found.max(known), known })
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

/// The oldest schema whose releases may use the file.
pub(crate) fn compatible_from(connection: &Connection) -> Result<u32, rusqlite::Error> {
    connection.query_row("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'compatible_from'", [], |row| {
        row.get(0)
    })
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A release later than this one, which ignores nothing that this one relies on.
    const ADDS: &str = "CREATE TABLE brought (id INTEGER PRIMARY KEY) STRICT; \
                        ALTER TABLE lanes ADD COLUMN brought TEXT";

    fn file() -> (tempfile::TempDir, std::path::PathBuf, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyturn.db");
        let connection = Connection::open(&path).unwrap();
        (folder, path, connection)
    }

    /// Everything about the tables, and what `meta` says of them.
    fn tables(connection: &Connection) -> Vec<String> {
        let sql = "SELECT coalesce(sql, name) FROM sqlite_schema \
                   UNION ALL SELECT key || '=' || value FROM meta \
                   UNION ALL SELECT CAST(user_version AS TEXT) FROM pragma_user_version";
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_release_before_goes_on_with_what_only_adds_and_the_later_one_after_it() {
        let (_folder, path, mut file) = file();
        let ours = migrate(&path, &mut file, Use::Work).unwrap();
        assert!(!ours.is_ahead());
        let next: Vec<&str> = MIGRATIONS.into_iter().chain([ADDS]).collect();
        let brought = bring_forward(&path, &mut file, Use::Work, &next).unwrap();
        assert_eq!((brought.found, brought.is_ahead()), (known() + 1, false));
        let before = tables(&file);
        let back = migrate(&path, &mut file, Use::Work).unwrap();
        assert_eq!((back.found, back.known, back.is_ahead()), (known() + 1, known(), true));
        assert_eq!(tables(&file), before, "nothing was taken back");
        // Were the migration made again, its table would be there already.
        assert_eq!(bring_forward(&path, &mut file, Use::Work, &next).unwrap(), brought);
        let error = migrate(&path, &mut file, Use::Departure).unwrap_err().to_string();
        let both = format!("has schema {}, and this release knows up to {}", known() + 1, known());
        assert!(error.contains(&both), "{error}");
        assert!(error.contains("move it with the release that wrote it"), "{error}");
    }

    #[test]
    fn a_release_before_is_refused_by_what_it_cannot_ignore() {
        let (_folder, path, mut file) = file();
        let number = known() + 2;
        let breaks = format!(
            "ALTER TABLE lanes DROP COLUMN brought; \
             UPDATE meta SET value = '{number}' WHERE key = 'compatible_from'"
        );
        let after: Vec<&str> = MIGRATIONS.into_iter().chain([ADDS, &breaks]).collect();
        // Of the two releases before, the one that comes to know the first change is refused as well.
        let next = &after[..=MIGRATIONS.len()];
        assert_eq!(bring_forward(&path, &mut file, Use::Work, &after).unwrap().found, number);
        let before = tables(&file);
        for older in [&MIGRATIONS[..], next] {
            let error = bring_forward(&path, &mut file, Use::Work, older).unwrap_err();
            assert!(
                matches!(error, OpenError::Newer { found, oldest, .. } if found == oldest && found == number),
                "{error}"
            );
            assert!(error.to_string().contains("run the release that wrote it"), "{error}");
        }
        assert_eq!(tables(&file), before, "nothing was touched");
        bring_forward(&path, &mut file, Use::Work, &after).unwrap();
    }

    #[test]
    fn the_migrations_leave_the_oldest_release_that_is_written_down() {
        let (_folder, path, mut file) = file();
        migrate(&path, &mut file, Use::Work).unwrap();
        assert_eq!(compatible_from(&file).unwrap(), COMPATIBLE_FROM);
    }

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
