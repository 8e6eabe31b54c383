//! Putting a backup in place of the database, while nobody uses it.
//!
//! The backup is copied beside the database and checked there, and then takes its place in one step: at every
//! instant there is a whole database under its name. The one replaced is kept.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use super::check::examine;
use super::{BackupError, CHUNK, Checked, Progress, beside, create, remove_stale, sum, sync_folder};
use crate::epoch;
use crate::open::{lock, log_of};

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup has.
    pub backup: Checked,
    /// Where the database is kept that was replaced; none if there was none.
    pub kept: Option<PathBuf>,
}

/// Puts the backup `from` in place of the database at `path`. The next who opens it finds that it was restored.
/// `stamp` is part of the name of the database that is kept.
pub fn restore(
    from: &Path,
    path: &Path,
    stamp: &str,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    let held = lock(path).map_err(BackupError::file(path))?;
    match held.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(BackupError::InUse(path.to_owned())),
        Err(fs::TryLockError::Error(error)) => return Err(BackupError::file(path)(error)),
    }
    let incoming = beside(path, ".restoring");
    remove_stale(&incoming)?;
    let put = copy(from, &incoming, progress).and_then(|sha256| {
        // Of what was copied, before anything is done with it.
        let sum_matches = sum::compare(from, sum::expected(from)?.as_deref(), &sha256)?;
        let checked = blank(&incoming).and_then(|()| examine(&incoming))?;
        let backup = Checked { sha256, sum_matches, ..checked };
        Ok(Restored { backup, kept: replace(&incoming, path, stamp)? })
    });
    if put.is_err() {
        // It may not be there; what is told is why the restore failed.
        drop(fs::remove_file(&incoming));
    }
    put
}

/// Copies a file, and returns the SHA-256 of what it copied.
fn copy(from: &Path, to: &Path, progress: Progress<'_>) -> Result<String, BackupError> {
    let read = |source| BackupError::Unread { path: from.to_owned(), source };
    let mut source = File::open(from).map_err(read)?;
    let all = source.metadata().map_err(read)?.len();
    let mut target = create(to)?;
    let (mut chunk, mut done, mut hash) = (vec![0; CHUNK], 0, Sha256::new());
    loop {
        let length = source.read(&mut chunk).map_err(read)?;
        let Some(filled) = chunk.get(..length).filter(|filled| !filled.is_empty()) else { break };
        target.write_all(filled).map_err(BackupError::file(to))?;
        hash.update(filled);
        done += u64::try_from(length).unwrap_or(0);
        progress(done, all);
    }
    target.sync_all().map_err(BackupError::file(to))?;
    Ok(sum::hex(hash))
}

/// A file that was copied by other means has an epoch that might match. It is opened for that only after SQLite has
/// said whose it is.
fn blank(copy: &Path) -> Result<(), BackupError> {
    let bad = |error: rusqlite::Error| BackupError::Bad { path: copy.to_owned(), detail: error.to_string() };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let file = Connection::open_with_flags(copy, flags).map_err(bad)?;
    file.pragma_update(None, "journal_mode", "DELETE").map_err(bad)?;
    epoch::strip(&file).map_err(bad)?;
    file.close().map_err(|(_, error)| bad(error))
}

/// Keeps the database and what is in its log, then has the copy take its name.
fn replace(incoming: &Path, path: &Path, stamp: &str) -> Result<Option<PathBuf>, BackupError> {
    let kept = beside(path, &format!(".replaced-{stamp}"));
    let there = path.symlink_metadata().is_ok();
    if there {
        fold(path);
        link(path, &kept)?;
        // What could not be folded belongs to the file that is kept, and must not meet the other one.
        for (from, to) in [(log_of(path), log_of(&kept)), (beside(path, "-shm"), beside(&kept, "-shm"))] {
            if from.symlink_metadata().is_ok() {
                link(&from, &to)?;
                fs::remove_file(&from).map_err(BackupError::file(&from))?;
            }
        }
    }
    fs::rename(incoming, path).map_err(BackupError::file(path))?;
    sync_folder(path)?;
    Ok(there.then_some(kept))
}

/// Has SQLite copy the log into the file. One that is damaged may not allow it; then both are kept as they are.
fn fold(path: &Path) {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let folded = Connection::open_with_flags(path, flags)
        .and_then(|file| file.pragma_update(None, "journal_mode", "DELETE"));
    if let Err(error) = folded {
        tracing::warn!(database = %path.display(), %error, "its log could not be copied into it; both are kept");
    }
}

fn link(from: &Path, to: &Path) -> Result<(), BackupError> {
    fs::hard_link(from, to).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(to.to_owned()),
        _ => BackupError::file(to)(error),
    })
}
