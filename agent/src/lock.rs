//! One agent at a time: a lock on the state folder that the operating system releases when its holder ends,
//! however it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::disk;

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has it.
    #[error("another keyturn-agent is at work in {0}; one device runs one agent at a time")]
    Held(String),
    /// The lock file cannot be opened or locked.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

impl Lock {
    /// Takes the lock of a state folder, which is created if need be. Does not wait.
    pub fn take(folder: &Path) -> Result<Self, Error> {
        disk::create_folder(folder)?;
        let path = folder.join("lock");
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|source| disk::Error::new("open", &path, source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(Error::Held(folder.display().to_string())),
            Err(errno) => Err(disk::Error::new("lock", &path, errno.into()).into()),
        }
    }
}
