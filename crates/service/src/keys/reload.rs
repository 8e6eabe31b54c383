//! Keys that change under a running process: what was built from key files is built anew when they change.
//!
//! Files are looked at every [`LOOK`] and at SIGHUP. A key that cannot be read leaves all keys in use as they
//! are, and a warning. Keys from the environment or from systemd's credentials stay the same until a restart.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::live::Live;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{KeyError, KeyStore};

/// How often the files are looked at.
pub const LOOK: Duration = Duration::from_secs(10);

/// Everything in this process that was built from key files.
#[derive(Clone, Default)]
pub(super) struct Built(Arc<Shared>);

#[derive(Default)]
struct Shared {
    rebuilds: Mutex<Vec<Rebuild>>,
    hangup: Notify,
}

/// Builds anew if the files changed.
type Rebuild = Box<dyn FnMut() + Send>;

/// What tells that a file changed: its inode, size, and time of change. None for one that is not there.
type Seen = Vec<Option<(u64, u64, i64, i64)>>;

impl KeyStore {
    /// What `build` makes of the keys, now and whenever their files change.
    pub fn live<T, F>(&self, build: F) -> Result<Live<T>, KeyError>
    where
        T: Send + Sync + 'static,
        F: Fn(&Self) -> Result<T, KeyError> + Send + 'static,
    {
        let mut seen = self.seen();
        let live = Live::new(build(self)?);
        let (handle, keys, mut complaint) = (live.clone(), self.clone(), None);
        let rebuild = move || {
            let now = keys.seen();
            if now == seen {
                return;
            }
            match build(&keys) {
                Ok(value) => {
                    handle.replace(value);
                    (seen, complaint) = (now, None);
                    metrics::counter!("keyturn_keys_reloaded_total").increment(1);
                    info!("the key files changed and were read again");
                }
                // The files stay unseen, so that they are tried again; the same complaint is made once.
                Err(error) => {
                    let error = error.to_string();
                    if complaint.as_ref() != Some(&error) {
                        warn!(error = %error, "the new key files cannot be used, the keys in use stay");
                        complaint = Some(error);
                    }
                }
            }
        };
        self.built.0.rebuilds.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(rebuild));
        Ok(live)
    }

    /// Looks at the files now.
    pub fn look(&self) {
        self.built.0.rebuilds.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(|one| one());
    }

    /// Has the files looked at by whoever runs [`KeyStore::watch`].
    pub fn hang_up(&self) {
        self.built.0.hangup.notify_one();
    }

    /// Looks at the files again and again until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.built.0.hangup.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.is_unlocked()
                && let Err(error) = self.unlock().await
            {
                debug!(error = %error, "the vault's new keys are not unwrapped yet");
            }
            let keys = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || keys.look()).await {
                warn!(error = %error, "looking at the key files failed");
            }
        }
    }

    fn seen(&self) -> Seen {
        let folders = [Some(&self.folder), self.credentials.as_ref()];
        let names = super::FILES.iter().map(|name| (*name).to_owned());
        let paths =
            names.flat_map(|name| folders.into_iter().flatten().map(move |folder| folder.join(&name)));
        paths.chain(self.others.iter().cloned()).map(|path| about(&path)).collect()
    }
}

fn about(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Built")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    use keyturn_schemas::mac::{KeyId, format_secrets};
    use zeroize::Zeroizing;

    use super::*;

    fn write(folder: &Path, text: &str) {
        let (temporary, path) = (folder.join("new"), folder.join("stamp.key"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    fn ring(id: u8) -> Zeroizing<String> {
        format_secrets("stamp", &[(KeyId(id), Zeroizing::new([id; 32]))])
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyStore::new(folder.path().to_owned());
        assert!(matches!(keys.live(KeyStore::stamps), Err(KeyError::Missing { .. })));
        write(folder.path(), &ring(1));
        let live = keys.live(KeyStore::stamps).unwrap();
        let shown = || format!("{live:?}");
        assert_eq!(shown(), "StampKeys([KeyId(1)])");
        write(folder.path(), "garbage");
        keys.look();
        assert_eq!(shown(), "StampKeys([KeyId(1)])");
        write(folder.path(), &ring(2));
        assert_eq!(shown(), "StampKeys([KeyId(1)])");
        keys.look();
        assert_eq!(shown(), "StampKeys([KeyId(2)])");
        fs::remove_file(folder.path().join("stamp.key")).unwrap();
        keys.look();
        assert_eq!(shown(), "StampKeys([KeyId(2)])");
    }
}
