//! Opening the file: what is refused, and how each kind of connection is set up.

mod checks;
mod error;

use std::cell::Cell;
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::schema::Schema;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

pub use self::error::OpenError;
use crate::{departure, epoch, schema};

/// Pages of this size hold a few messages each, and one commit of many small changes still touches few of them.
const PAGE_SIZE: u32 = 8192;

/// How many pages the log may grow to before it is copied into the file: often enough to stay small, seldom
/// enough that copying is shared by thousands of writes.
pub(crate) const CHECKPOINT_PAGES: i32 = 4000;

/// Held while a file is created and first opened. Creating leaves a handle to close, and closing it would drop the
/// locks of a connection that another thread of this process made in between (see `checks`).
static CREATING: Mutex<()> = Mutex::new(());

/// What the file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The work of the deployment. A file that the state has left is refused.
    Work,
    /// Moving what is in it elsewhere.
    Departure,
}

/// The connection that writes. Creates the file, refuses what is not ours, and brings the tables up to date.
/// Settles whether the file was restored from a backup, before anybody reads it.
pub(crate) fn writing(
    path: &Path,
    beside: &Path,
    now: UnixMillis,
    entropy: &dyn Entropy,
    use_of: Use,
) -> Result<(Connection, Schema), OpenError> {
    let _alone = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    let created = checks::create(path)?;
    let sql = |source| OpenError::from_sqlite(path, source);
    let mut connection = connect(path).map_err(sql)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE).map_err(sql)?;
    checks::foreign(path, &connection)?;
    use_log(&connection).map_err(sql)?;
    settle_in(&connection, 8 * 1024).map_err(sql)?;
    connection
        .pragma_update(None, "journal_size_limit", i64::from(CHECKPOINT_PAGES) * i64::from(PAGE_SIZE))
        .map_err(sql)?;
    let schema = schema::migrate(path, &mut connection, use_of)?;
    if !created {
        checks::content(path, &connection)?;
    }
    if use_of == Use::Work {
        departure::refuse(path, &connection)?;
    }
    epoch::settle(path, beside, &mut connection, now, entropy)?;
    Ok((connection, schema))
}

/// The file that says whether the database is in use: everybody who opens the database holds a shared lock on it, and
/// whoever replaces the database an exclusive one. It is a file of its own, since a lock on the database would be in
/// SQLite's way.
pub(crate) fn lock(path: &Path) -> std::io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    std::fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(name)
}

/// Takes the shared lock, unless the database is being replaced.
pub(crate) fn hold(path: &Path) -> Result<File, OpenError> {
    let unwritable = |source| OpenError::Unwritable { path: path.to_owned(), source };
    let file = lock(path).map_err(unwritable)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Replaced { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unwritable(source)),
    }
}

/// Takes the lock that nobody shares.
pub(crate) fn hold_alone(path: &Path) -> Result<File, OpenError> {
    let unwritable = |source| OpenError::Unwritable { path: path.to_owned(), source };
    let file = lock(path).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unwritable(source)),
    }
}

/// Where SQLite keeps the log of the file.
pub(crate) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// A connection for reads. It may not write, but it is not opened read-only either: after another process died
/// in the middle of a commit, whoever comes next has to mend the index of the log.
pub(crate) fn reading(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = connect(path)?;
    settle_in(&connection, 1024)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The connection of the watcher, which reads a few numbers.
pub(crate) fn watching(path: &Path) -> Result<Connection, OpenError> {
    let connection = reading(path).map_err(|source| OpenError::from_sqlite(path, source))?;
    connection
        .pragma_update(None, "cache_size", 32)
        .map_err(|source| OpenError::from_sqlite(path, source))?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    Ok(connection)
}

/// Settings of every connection, with a page cache of at most `cache_kib`.
fn settle_in(connection: &Connection, cache_kib: i64) -> Result<(), rusqlite::Error> {
    connection.set_prepared_statement_cache_capacity(128);
    // Plans are made once. Otherwise SQLite may look at what is bound, and then compiles a statement anew whenever that
    // changed: a tenth of what a rotation cost.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Switches to the write-ahead log, which is a property of the file and stays.
fn use_log(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut attempt = 0;
    loop {
        let switched: Result<String, _> =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match switched {
            // While another process creates the same file SQLite reports the lock without asking the handler.
            Err(error) if is_busy(&error) && wait_for_lock(attempt) => attempt += 1,
            other => return other.map(drop),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

/// Waits for a lock another process holds, and gives up after about ten seconds. Commits take a fraction of a
/// millisecond, so the first waits are of that size; SQLite's own handler begins with one to a hundred times as
/// much, and the tail of every write would show it.
#[expect(clippy::disallowed_methods, reason = "SQLite calls this on a thread of ours and wants it to wait")]
fn wait_for_lock(attempt: i32) -> bool {
    if IMPATIENT.get() {
        return false;
    }
    let wait = match attempt {
        0..10 => Duration::from_micros(30),
        10..100 => Duration::from_micros(200),
        100..10_000 => Duration::from_millis(1),
        _ => return false,
    };
    std::thread::sleep(wait);
    true
}

thread_local! {
    /// Whether this thread has no time to wait for a lock.
    static IMPATIENT: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, in which no lock of another process is waited for.
pub(crate) fn without_patience<T>(work: impl FnOnce() -> T) -> T {
    struct Until;
    impl Drop for Until {
        fn drop(&mut self) {
            IMPATIENT.set(false);
        }
    }
    IMPATIENT.set(true);
    let _until = Until;
    work()
}
