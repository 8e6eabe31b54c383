//! The second file: one line, `keyturn epoch v1`, the epoch in 32 hexadecimal digits, and the mark.
//!
//! It is replaced as a whole, so that a crash leaves the old one or the new one. It has no secret, and it is its
//! owner's alone all the same: whoever could write it could hide a restore.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::Epoch;

const TITLE: &str = "keyturn epoch v1 ";
/// Far more than a line of it has.
const LONGEST: u64 = 256;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) epoch: Epoch,
    pub(super) mark: u64,
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    Missing,
    Unreadable,
    Says(Beside),
}

impl Outside {
    /// Why the store is taken for restored, when this does not fit it.
    pub(super) fn why(&self) -> &'static str {
        match self {
            Self::Missing => "there is no epoch beside the database: a backup, or a copy from another place",
            Self::Unreadable => "what is beside the database is no epoch",
            Self::Says(_) => "the epoch beside the database is another one: a backup, or an older copy",
        }
    }
}

impl Beside {
    /// Reads the file. One that cannot be understood is no error; one that may not be read is.
    pub(super) fn read(path: &Path) -> io::Result<Outside> {
        let length = match fs::metadata(path) {
            Ok(file) if file.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outside::Missing),
            Err(error) => return Err(error),
        };
        if length > LONGEST {
            return Ok(Outside::Unreadable);
        }
        let bytes = fs::read(path)?;
        let says = std::str::from_utf8(&bytes).ok().and_then(Self::parse);
        Ok(says.map_or(Outside::Unreadable, Outside::Says))
    }

    fn parse(text: &str) -> Option<Self> {
        let (digits, mark) = text.strip_prefix(TITLE)?.strip_suffix('\n')?.split_once(' ')?;
        let plain = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let epoch = u128::from_str_radix(digits, 16).ok().filter(|_| plain)?.to_be_bytes();
        let mark = mark.parse().ok().filter(|_| mark.bytes().all(|digit| digit.is_ascii_digit()))?;
        Some(Self { epoch, mark })
    }

    /// Replaces the file. On disk when it returns. Whom the old one let read and write it, the new one does: roles that
    /// are users of their own share it as a group.
    pub(super) fn write(self, path: &Path) -> io::Result<()> {
        let mut next = path.as_os_str().to_owned();
        next.push(".new");
        let next = Path::new(&next);
        // What a crash left behind may be anybody's by now.
        match fs::remove_file(next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(next)?;
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(fs::Permissions::from_mode(before.permissions().mode() & 0o660))?;
        }
        writeln!(file, "{TITLE}{:032x} {}", u128::from_be_bytes(self.epoch), self.mark)?;
        file.sync_all()?;
        fs::rename(next, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("epoch");
        assert_eq!(Beside::read(&path).unwrap(), Outside::Missing);
        for (epoch, mark) in [([0; 16], 0), ([0xfe; 16], u64::MAX), ([7; 16], 3)] {
            let beside = Beside { epoch, mark };
            beside.write(&path).unwrap();
            assert_eq!(Beside::read(&path).unwrap(), Outside::Says(beside));
        }
    }

    #[test]
    fn whom_the_old_file_let_in_the_new_one_does() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("epoch");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let beside = Beside { epoch: [7; 16], mark: 3 };
        beside.write(&path).unwrap();
        assert_eq!(mode(), 0o600);
        for (set, kept) in [(0o660, 0o660), (0o640, 0o640), (0o666, 0o660)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(set)).unwrap();
            beside.write(&path).unwrap();
            assert_eq!(mode(), kept);
        }
    }

    #[test]
    fn anything_else_is_no_epoch() {
        let (folder, zeros) = (tempfile::TempDir::new().unwrap(), "0".repeat(32));
        let path = folder.path().join("epoch");
        let texts = [
            String::new(),
            format!("keyturn epoch v1 {zeros} 1"),
            format!("keyturn epoch v2 {zeros} 1\n"),
            format!("keyturn epoch v1 +{} 1\n", "0".repeat(31)),
            format!("keyturn epoch v1 {zeros} +1\n"),
            format!("keyturn epoch v1 {zeros} 18446744073709551616\n"),
            format!("keyturn epoch v1 {zeros} 1\n").repeat(2),
            "x".repeat(100_000),
        ];
        for text in texts {
            fs::write(&path, &text).unwrap();
            assert_eq!(Beside::read(&path).unwrap(), Outside::Unreadable, "{text:.60}");
        }
        assert!(Beside::read(folder.path()).is_err(), "a folder is no file");
    }
}
