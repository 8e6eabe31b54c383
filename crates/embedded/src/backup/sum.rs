//! The SHA-256 of a backup, in a file beside it that `sha256sum --check` reads as well.
//!
//! SQLite has no sum over its pages: its own check reads how they hang together, and neither free space nor what a
//! row says. So the sum is what shows that any byte changed since the backup was made. It shows accidents, and no
//! malice: whoever can change the backup can write its sum anew.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use keyturn_ports::audit::chain::hexadecimal;
use sha2::{Digest as _, Sha256};

use super::{BackupError, CHUNK, beside, create, sync, sync_folder};

/// The longest file of a sum: a name has 255 bytes at most, each of which may be written as two.
const LONGEST: u64 = 1024;

/// SHA-256 in lower-case hexadecimal.
pub(super) type Hex = String;

/// The file with the sum of the backup at `path`.
pub fn sum_file(path: &Path) -> PathBuf {
    beside(path, ".sha256")
}

pub(super) fn hex(hash: Sha256) -> Hex {
    hexadecimal(&hash.finalize().into())
}

/// The sum of the file as it is.
pub(super) fn of(path: &Path) -> Result<Hex, BackupError> {
    let unread = |source| BackupError::Unread { path: path.to_owned(), source };
    let (mut file, mut hash, mut chunk) = (File::open(path).map_err(unread)?, Sha256::new(), vec![0; CHUNK]);
    loop {
        let length = file.read(&mut chunk).map_err(unread)?;
        let Some(filled) = chunk.get(..length).filter(|filled| !filled.is_empty()) else {
            return Ok(hex(hash));
        };
        hash.update(filled);
    }
}

/// Writes the sum of the backup at `path` beside it.
pub(super) fn write(path: &Path, sum: &str) -> Result<(), BackupError> {
    let to = sum_file(path);
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    // As sha256sum writes names that would break a line.
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'\\' => escaped.extend(br"\\"),
            b'\n' => escaped.extend(br"\n"),
            b'\r' => escaped.extend(br"\r"),
            other => escaped.push(*other),
        }
    }
    let mark: &[u8] = if escaped == name { b"" } else { b"\\" };
    let line = [mark, sum.as_bytes(), b"  ", &escaped, b"\n"].concat();
    create(&to)?.write_all(&line).map_err(BackupError::file(&to))?;
    sync(&to)?;
    sync_folder(&to)
}

/// What the file beside the backup at `path` says its sum is; none if there is no such file. The name in it does not
/// count, so that both files may be given another one.
pub(super) fn expected(path: &Path) -> Result<Option<Hex>, BackupError> {
    let from = sum_file(path);
    let unread = |source| BackupError::Unread { path: from.clone(), source };
    if let Err(error) = fs::symlink_metadata(&from)
        && error.kind() == std::io::ErrorKind::NotFound
    {
        return Ok(None);
    }
    let mut line = Vec::new();
    File::open(&from).and_then(|file| file.take(LONGEST).read_to_end(&mut line)).map_err(unread)?;
    let digits = line.strip_prefix(b"\\").unwrap_or(&line).get(..64).and_then(|sum| str::from_utf8(sum).ok());
    let sum = digits.filter(|sum| sum.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let Some(sum) = sum else {
        let detail = "it holds no SHA-256 as sha256sum writes it".to_owned();
        return Err(BackupError::Bad { path: from, detail });
    };
    Ok(Some(sum.to_ascii_lowercase()))
}

/// Compares the sum that a backup has with the one that it should have. Whether there was one to compare with.
pub(super) fn compare(path: &Path, expected: Option<&str>, found: &str) -> Result<bool, BackupError> {
    match expected {
        None => Ok(false),
        Some(expected) if expected == found => Ok(true),
        Some(expected) => {
            let name = sum_file(path);
            let detail = format!(
                "its SHA-256 is {found}, and {} says {expected}: it is not what was made",
                name.display()
            );
            Err(BackupError::Bad { path: path.to_owned(), detail })
        }
    }
}
