//! What is looked at before a file is trusted.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::OpenError;
use crate::schema;

/// The first bytes of every SQLite file (sqlite.org/fileformat2.html, section 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Files up to this size are checked as a whole when they are opened. That takes a second at most; a larger one
/// would keep a service from starting for longer than that.
const CHECKED_WHOLE: u64 = 256 * 1024 * 1024;

/// Creates the file, readable by its owner alone, or sees that it can be written and begins like one of SQLite's.
/// Returns whether it is new. SQLite gives its log and its index the mode of the file.
pub(super) fn file(path: &Path) -> Result<bool, OpenError> {
    let unwritable = |source| OpenError::Unwritable { path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unwritable(error)),
    }
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(unwritable)?;
    let length = file.metadata().map_err(unwritable)?.len();
    if length > 0 && !begins_with_magic(file).map_err(unwritable)? {
        let detail = "it does not begin like an SQLite file".to_owned();
        return Err(OpenError::Foreign { path: path.to_owned(), detail });
    }
    Ok(false)
}

fn begins_with_magic(mut file: File) -> io::Result<bool> {
    let mut head = [0; MAGIC.len()];
    match file.read_exact(&mut head) {
        Ok(()) => Ok(&head == MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
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
    let log = std::fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
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

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
