//! PINs and passphrases, each in a file of its own: arguments and environments of processes are seen by others.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::Error;

/// The longest secret, in bytes.
const MAX: usize = 1024;

/// Reads a secret: the text of a file that nobody else may read, without the end of its line.
///
/// # Errors
/// If the file is not there, can be read by others, is empty, longer than a kilobyte, or not text in one line.
pub fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    read_private(path).map_err(|reason| Error::Secret { path: path.to_owned(), reason })
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, String> {
    let cannot = |error: std::io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(cannot)?;
    // Of the opened file, not of the name: it cannot be exchanged in between.
    check_private(&file.metadata().map_err(cannot)?)?;
    // As much as it may be and one more at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 2));
    file.take(MAX as u64 + 2).read_to_end(&mut bytes).map_err(cannot)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "it is not text in UTF-8")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text {
        "" => Err("it is empty".to_owned()),
        text if text.len() > MAX => Err(format!("it has more than {MAX} bytes")),
        text if text.contains(['\n', '\r', '\0']) => Err("it has more than one line".to_owned()),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

/// What others on the machine can read is no secret.
pub(crate) fn check_private(metadata: &fs::Metadata) -> Result<(), String> {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("it can be read by others (mode {mode:03o}); run chmod 600 on it"));
    }
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(content: &[u8], mode: u32) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read_private(&path).map(|text| text.to_string())
    }

    #[test]
    fn one_line_that_is_private() {
        for good in [&b"1234"[..], b"1234\n", b"1234\r\n"] {
            assert_eq!(told(good, 0o600), Ok("1234".to_owned()));
        }
        assert_eq!(told(b" 12 34 ", 0o400), Ok(" 12 34 ".to_owned()), "blanks are part of it");
        assert_eq!(told(&[b'x'; MAX], 0o400).map(|text| text.len()), Ok(MAX));
        for (content, mode, expected) in [
            (&b"1234"[..], 0o640, "mode 640"),
            (b"1234", 0o604, "mode 604"),
            (b"", 0o600, "empty"),
            (b"\n", 0o600, "empty"),
            (b"12\n34\n", 0o600, "more than one line"),
            (b"12\0", 0o600, "more than one line"),
            (b"\xff", 0o600, "UTF-8"),
            (&[b'x'; MAX + 1], 0o600, "more than 1024 bytes"),
        ] {
            let told = told(content, mode).unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
        assert!(read_private(Path::new("/nowhere/pin")).unwrap_err().contains("cannot be read"));
        assert!(read_private(Path::new("/dev/null")).is_err());
    }
}
