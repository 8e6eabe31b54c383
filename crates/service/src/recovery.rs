//! The recovery log: a vault whose puts are written to a second place first.
//!
//! A version is in the log, on disk, before the vault is asked to store it; so whatever the database has, the log
//! has. A log that cannot be written fails the put, and the message waits, unless the configuration says
//! otherwise. What is in the log and not in the vault was never given to a device.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::ids::{DeviceId, LaneId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::vault::{Entry, NewVersion, Sought, Vault, VaultReader};
use keyturn_ports::{Error, Kind};
use keyturn_schemas::claims::Version1;
use keyturn_schemas::recovery::{Head, RecoveryPublic};
use tracing::warn;

const LOGGING: &str = "writing the recovery log";

/// Where the log is and who may read it.
#[derive(Clone, Debug)]
pub struct RecoveryLog {
    /// The log. It is made where it does not exist, the folder is not: a disk that is not mounted is no place.
    pub file: PathBuf,
    /// The file of the public key.
    pub key: PathBuf,
    /// Whether a put fails when the log cannot be written.
    pub required: bool,
}

impl RecoveryLog {
    /// The public key that the log is sealed to.
    pub fn key(&self) -> Result<RecoveryPublic, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.key.display());
        let text = std::fs::read_to_string(&self.key).map_err(|error| told(&error))?;
        RecoveryPublic::parse(&text).map_err(|error| told(&error))
    }

    /// Whether the log could be appended to by this process, and how many bytes its disk has left. Writes nothing: an
    /// empty log must not look like one that was lost.
    ///
    /// # Errors
    /// What is wrong with the key, the log or its folder.
    pub fn probe(&self) -> Result<u64, String> {
        self.key()?;
        let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        if !std::fs::metadata(folder).map_err(|error| told(folder, error))?.is_dir() {
            return Err(format!("{}: it is no folder", folder.display()));
        }
        match OpenOptions::new().read(true).append(true).open(&self.file) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let may = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
                rustix::fs::access(folder, may).map_err(|error| told(folder, error.into()))?;
            }
            Err(error) => return Err(told(&self.file, error)),
        }
        let disk = rustix::fs::statvfs(folder).map_err(|error| told(folder, error.into()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Appends what is to be stored. On disk when it returns.
    fn append(&self, versions: &[NewVersion], now: UnixMillis) -> Result<(), String> {
        let key = self.key()?;
        let mut lines = String::new();
        for version in versions {
            let line = key.seal(&head(version, now), &version.password).map_err(|error| error.to_string())?;
            lines.push_str(&line);
            lines.push('\n');
        }
        self.write(&lines).map_err(|error| format!("{}: {error}", self.file.display()))
    }

    fn write(&self, lines: &str) -> io::Result<()> {
        let created = !self.file.exists();
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.file)?;
        // Several rotators may share the log.
        file.lock()?;
        // A line that a crash or a full disk cut off must not swallow the next one.
        let torn = file.seek(SeekFrom::End(-1)).is_ok() && {
            let mut last = [0];
            file.read_exact(&mut last)?;
            last != *b"\n"
        };
        let lines = if torn { format!("\n{lines}") } else { lines.to_owned() };
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        match self.file.parent().filter(|_| created) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn head(version: &NewVersion, at_ms: UnixMillis) -> Head {
    let NewVersion { request, version, lane, password: _, tags } = version;
    Head {
        v: Version1,
        rid: *request,
        lane: *lane,
        version: *version,
        at_ms,
        device_id: tags.device,
        user_name: tags.user_name.clone(),
        device_name: tags.device_name.clone(),
        serial_number: tags.serial_number.clone(),
    }
}

/// A vault with a recovery log.
pub(crate) struct LoggedVault {
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) log: RecoveryLog,
    pub(crate) clock: Arc<dyn Clock>,
}

#[async_trait]
impl VaultReader for LoggedVault {
    async fn read(
        &self,
        lane: LaneId,
        version: VersionId,
        vault_ref: &str,
    ) -> Result<Option<Password>, Error> {
        self.vault.read(lane, version, vault_ref).await
    }

    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error> {
        self.vault.history(device).await
    }
}

#[async_trait]
impl Vault for LoggedVault {
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>> {
        self.vault.find(sought).await
    }

    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>> {
        let (log, now, count) = (self.log.clone(), self.clock.now(), versions.len());
        let logging = tokio::task::spawn_blocking(move || {
            let logged = log.append(&versions, now);
            (versions, logged)
        });
        let failed = |problem: &str| {
            metrics::counter!("keyturn_recovery_log_failures_total").increment(1);
            (0..count).map(|_| Err(Error::new(Kind::Unavailable, LOGGING, problem.to_owned()))).collect()
        };
        match logging.await {
            Err(panic) => failed(&panic.to_string()),
            Ok((_, Err(problem))) if self.log.required => failed(&problem),
            Ok((versions, logged)) => {
                if let Err(problem) = logged {
                    metrics::counter!("keyturn_recovery_log_failures_total").increment(1);
                    warn!(error = %problem, count, "versions are stored that the recovery log does not have");
                }
                self.vault.put(versions).await
            }
        }
    }
}
