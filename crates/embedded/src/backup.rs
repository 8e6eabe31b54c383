//! Backups of the file: made while it is in use, checked, and put back.
//!
//! A backup is one SQLite file, its owner's alone, of one instant. It is copied page by page with pauses, from a
//! connection that holds on to its snapshot, so that writers go on and the copy never starts anew. What they write
//! meanwhile stays in the log, which grows by that much. The copy carries no epoch that could match (`epoch`), and
//! it is given its name only when it has been checked. Beside it is a file with its sum (`sum`), which comes last.

mod check;
mod restore;
mod sum;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

pub use self::check::{Checked, check};
pub use self::restore::{Restored, restore};
pub use self::sum::sum_file;
use crate::database::Database;
use crate::{epoch, open};

/// How many bytes of a file are read at once.
const CHUNK: usize = 1024 * 1024;

/// How fast a backup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Pages of 8 KiB copied at once; at least 1.
    pub pages: u16,
    /// The pause after each.
    pub pause: Duration,
}

/// How far a copy is: of how many parts, how many are done. Pages or bytes, but one of them all the way.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Why a backup is not made, not good, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something already.
    #[error("{} exists: name another file, or move this one away", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}; see that its folder exists and has room, and that this user may write it", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The backup to put back cannot be read.
    #[error("{}: {source}; see that the name is right and that this user may read the file", path.display())]
    Unread {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// SQLite fails.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: rusqlite::Error,
    },
    /// The file is no good.
    #[error("{} is no usable backup: {detail}; take another one", path.display())]
    Bad {
        /// Which.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The database is in use.
    #[error("{} is in use: stop every process of the deployment, then try again", .0.display())]
    InUse(PathBuf),
}

impl BackupError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::File { path: path.to_owned(), source }
    }

    fn sqlite(path: &Path) -> impl FnOnce(rusqlite::Error) -> Self + '_ {
        |source| Self::Sqlite { path: path.to_owned(), source }
    }
}

impl Database {
    /// Makes a backup at `to`, which must not exist, and checks it. Blocks for as long as it takes. Others read and
    /// write meanwhile.
    pub fn back_up(&self, to: &Path, pace: Pace, progress: Progress<'_>) -> Result<Checked, BackupError> {
        for taken in [to.to_owned(), sum_file(to)] {
            if taken.symlink_metadata().is_ok() {
                return Err(BackupError::Exists(taken));
            }
        }
        let part = beside(to, ".part");
        let made = self.copy(&part, pace, progress).and_then(|()| publish(&part, to));
        if made.is_err() {
            // It may not be there; what is told is why the backup failed.
            drop(fs::remove_file(&part));
        }
        made
    }

    fn copy(&self, part: &Path, pace: Pace, progress: Progress<'_>) -> Result<(), BackupError> {
        let of_source = |source| BackupError::Sqlite { path: self.path().to_owned(), source };
        let source = open::reading(self.path()).map_err(of_source)?;
        let snapshot = source.unchecked_transaction().map_err(of_source)?;
        // The first read is what takes hold of a snapshot.
        snapshot.query_row("SELECT mark FROM epoch", [], |_| Ok(())).map_err(of_source)?;
        remove_stale(part)?;
        create(part)?;
        let mut copy = Connection::open(part).map_err(BackupError::sqlite(part))?;
        run(&snapshot, &mut copy, pace, progress).map_err(BackupError::sqlite(part))?;
        // A backup is one file: no log beside it.
        copy.pragma_update(None, "journal_mode", "DELETE").map_err(BackupError::sqlite(part))?;
        epoch::strip(&copy).map_err(BackupError::sqlite(part))?;
        copy.close().map_err(|(_, source)| BackupError::Sqlite { path: part.to_owned(), source })
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause is the pace, on a thread that may block")]
fn run(
    source: &Connection,
    copy: &mut Connection,
    pace: Pace,
    progress: Progress<'_>,
) -> Result<(), rusqlite::Error> {
    let backup = Backup::new(source, copy)?;
    loop {
        let step = backup.step(i32::from(pace.pages.max(1)))?;
        let so_far = backup.progress();
        let number = |pages: i32| u64::try_from(pages).unwrap_or(0);
        let all = number(so_far.pagecount);
        progress(all.saturating_sub(number(so_far.remaining)), all);
        if step == StepResult::Done {
            return Ok(());
        }
        std::thread::sleep(pace.pause);
    }
}

/// Checks a copy and gives it its name, which nobody has taken meanwhile.
fn publish(part: &Path, to: &Path) -> Result<Checked, BackupError> {
    let checked = check::examine(part)?;
    sync(part)?;
    let sum = sum::of(part)?;
    fs::hard_link(part, to).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(to.to_owned()),
        _ => BackupError::file(to)(error),
    })?;
    fs::remove_file(part).map_err(BackupError::file(part))?;
    sync_folder(to)?;
    // Last: a sum without its backup would stand in the way of the next one.
    sum::write(to, &sum)?;
    Ok(Checked { sha256: sum, sum_matches: true, ..checked })
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn create(path: &Path) -> Result<File, BackupError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(BackupError::file(path))
}

/// Removes what an earlier run left behind.
fn remove_stale(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::file(path)(error)),
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(BackupError::file(path))
}

fn sync_folder(path: &Path) -> Result<(), BackupError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(folder)
}
