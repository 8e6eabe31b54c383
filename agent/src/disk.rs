//! Small files that survive a power cut: each is replaced as a whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use keyturn_domain::time::UnixMillis;

/// The largest file that is read, in bytes. Everything the agent keeps is far smaller.
const MAX_BYTES: u64 = 1024 * 1024;

/// A file or folder that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Error {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }
}

/// Creates a folder for the agent's files, readable by its owner only. An existing one is left as it is.
pub(crate) fn create_folder(path: &Path) -> Result<(), Error> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|source| Error::new("create the folder", path, source))
}

/// Replaces a file, readable by its owner only. When this returns, the new content is on disk, and so is the
/// name: the file is synced before it takes the old one's place, and the folder after.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    write_and_rename(path, content).map_err(|source| Error::new("write", path, source))
}

fn write_and_rename(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    // A file left by a crash keeps its mode when it is opened again.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Removes a file, for good; none is as well. When this returns, its name is gone from the disk.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path).and_then(|()| sync_folder(path)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::new("remove", path, source)),
        _ => Ok(()),
    }
}

/// The content of a file; none if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read_bounded(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::new("read", path, source)),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(content)
}

/// Moves a file that cannot be read out of the way, for a person to look at: `name.corrupt-<milliseconds>`.
pub(crate) fn set_aside(path: &Path, now: UnixMillis) -> Result<PathBuf, Error> {
    let aside = path.with_extension(format!("corrupt-{now}"));
    let moved = fs::rename(path, &aside).and_then(|()| sync_folder(path));
    moved.map(|()| aside).map_err(|source| Error::new("set aside", path, source))
}
