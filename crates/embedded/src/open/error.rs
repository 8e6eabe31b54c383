//! Why a file is not opened, and what mends it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why a file is not opened. Each text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its folder cannot be written.
    #[error(
        "cannot write {}: let this user write the file and its folder, and see that the folder exists",
        path.display()
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a Keyturn database: {detail}; name another file, or move this one away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// The file was written by a later release that does not allow this one to go on.
    #[error(
        "{} has schema {found}, which releases from schema {oldest} on may use, and this release knows up to {known}: \
         run the release that wrote it, or restore the backup made before it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema of the file.
        found: u32,
        /// The newest schema this release knows.
        known: u32,
        /// The oldest schema whose releases may use the file.
        oldest: u32,
    },
    /// The file may be worked with, and has tables that this release would leave behind.
    #[error(
        "{} has schema {found}, and this release knows up to {known}: move it with the release that wrote it, which \
         knows all that is in it",
        path.display()
    )]
    NewerToMove {
        /// The file.
        path: PathBuf,
        /// The schema of the file.
        found: u32,
        /// The newest schema this release knows.
        known: u32,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged: {detail}; stop every process that uses it, keep a copy, and restore the last backup",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The file that has the epoch cannot be used.
    #[error(
        "{} cannot be used: it tells a restored database from one that went on; let this user read and write it and \
         its folder, or remove it to have the database taken for restored",
        path.display()
    )]
    Epoch {
        /// The file beside the database.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It could not be settled whether the file was restored.
    #[error("{}: its epoch cannot be settled: {detail}; see docs/runbooks/restore.md", path.display())]
    Restored {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// Another process holds the file.
    #[error("{} has been locked by another process for ten seconds: end that process, then try again", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The state is on its way to another engine.
    #[error(
        "KT-0301: the state in {} is moving to {to} and is not all there: run the same `keyturn migrate` again, or give \
         it up with `keyturn migrate --undo`",
        path.display()
    )]
    Leaving {
        /// The file.
        path: PathBuf,
        /// Where it moves.
        to: String,
    },
    /// The state is on another engine.
    #[error(
        "KT-0301: the state in {} has moved to {to}: start this process with the configuration that names it; see \
         docs/POSTGRESQL.md",
        path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// Where it moved.
        to: String,
    },
    /// Somebody uses the file that is to be moved.
    #[error("{} is in use: stop every process of the deployment, then try again", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to move.
    #[error("there is no database at {}: name the configuration of the deployment that is to move", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is being replaced.
    #[error(
        "{} is being replaced or moved: wait until `keyturn restore` or `keyturn migrate` has ended, then try again",
        path.display()
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// There is no space left.
    #[error("{} cannot be opened because its disk is full: free some space, then try again", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The system does not give the process another thread.
    #[error("{} cannot be served: raise the number of threads this user may have", path.display())]
    Threads {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Anything else SQLite says.
    #[error("{} cannot be opened", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
}

impl OpenError {
    /// The case for what SQLite says.
    pub(crate) fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign { path, detail: source.to_string() },
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, detail: source.to_string() },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::Unwritable { path, source: io::Error::new(io::ErrorKind::PermissionDenied, source) }
            }
            _ => Self::Sqlite { path, source },
        }
    }
}
