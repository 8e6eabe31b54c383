//! What is looked at before a file is trusted.
//!
//! Nothing here opens a file that exists except through SQLite. Its locks are the system's advisory ones, which
//! belong to the process: closing any handle on the file drops those of every connection in the process, and
//! another process could then take the log away from under them (sqlite.org/howtocorrupt.html, section 2.2).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rusqlite::Connection;

use super::{OpenError, log_of};
use crate::schema;

/// Files up to this size are checked as a whole when they are opened. That takes a second at most; a larger one
/// would keep a service from starting for longer than that.
const CHECKED_WHOLE: u64 = 256 * 1024 * 1024;

/// Creates the file, readable by its owner alone, unless it exists. Returns whether it is new. SQLite gives its
/// log and its index the mode of the file.
pub(super) fn create(path: &Path) -> Result<bool, OpenError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(OpenError::Unwritable { path: path.to_owned(), source }),
    }
}

/// Refuses an SQLite file that another application made.
pub(super) fn foreign(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let sql = |source| OpenError::from_sqlite(path, source);
    truncated(path, connection)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sql)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sql)?;
    let fresh = id == 0 && tables == 0;
    if id == schema::APPLICATION_ID || fresh {
        return Ok(());
    }
    let detail = format!("it is an SQLite file with application id {id:#x}");
    Err(OpenError::Foreign { path: path.to_owned(), detail })
}

/// Refuses a file that is shorter than it says. While there is a log the file may rightly be: SQLite then looks
/// for the missing pages there.
fn truncated(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let log = std::fs::metadata(log_of(path)).map_or(0, |log| log.len());
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let sql = |source| OpenError::from_sqlite(path, source);
    let (pages, size) = (number("page_count").map_err(sql)?, number("page_size").map_err(sql)?);
    let claimed = u64::try_from(pages.saturating_mul(size)).unwrap_or(0);
    let length = size_of_file(path);
    if log == 0 && length > 0 && length < claimed {
        let detail = format!("it has {length} bytes where {claimed} should be");
        return Err(OpenError::Corrupt { path: path.to_owned(), detail });
    }
    Ok(())
}

/// Has SQLite check the structure of the file, if it is not too large for that.
pub(super) fn content(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    if size_of_file(path) >= CHECKED_WHOLE {
        return Ok(());
    }
    let said: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| OpenError::from_sqlite(path, source))?;
    if said == "ok" {
        return Ok(());
    }
    Err(OpenError::Corrupt { path: path.to_owned(), detail: said })
}

fn size_of_file(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}
