//! The vault: versions sealed under a master key, in the same file as everything else.
//!
//! The file alone gives no password away. Only a process that was given [`MasterKeys`] can build a
//! [`SealedVault`]; the others use the [`Database`] and cannot read a version whatever they do.

mod keep;
mod rows;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, LaneId, VersionId};
use keyturn_domain::live::Live;
use keyturn_domain::password::Password;
use keyturn_ports::vault::{Entry, NewVersion, Sought, Vault, VaultReader};
use keyturn_ports::{Error, Kind};

use keyturn_schemas::vault as seal;
pub use keyturn_schemas::vault::{MasterKey, MasterKeys, NoMasterKey};

use self::rows::SealedVersion;
use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::writer::Durability;

const FINDING: &str = "finding password versions";
const READING: &str = "reading a password version";
const STORING: &str = "storing a password version";

/// The vault of a file, for those who hold its master keys. Clones share both.
#[derive(Clone, Debug)]
pub struct SealedVault {
    database: Database,
    keys: Live<MasterKeys>,
}

impl SealedVault {
    /// The vault in `database`. The first of `keys` seals; all of them open.
    pub fn new(database: Database, keys: impl Into<Live<MasterKeys>>) -> Self {
        Self { database, keys: keys.into() }
    }

    fn seal(&self, keys: &MasterKeys, version: &NewVersion) -> Result<SealedVersion, Failure> {
        let bound = seal::bound_to(version.lane, version.version);
        let sealed = seal::seal(keys.first(), self.database.entropy(), &bound, version.password.expose())?;
        SealedVersion::new(version, sealed)
    }
}

#[async_trait]
impl VaultReader for SealedVault {
    async fn read(
        &self,
        lane: LaneId,
        version: VersionId,
        vault_ref: &str,
    ) -> Result<Option<Password>, Error> {
        // Words that are not this vault's name nothing in it.
        let Ok(id) = vault_ref.parse::<i64>() else {
            return Ok(None);
        };
        let found =
            self.database.read(READING, move |connection| rows::sealed(connection, id, version)).await?;
        let Some((made_for, sealed)) = found else {
            return Ok(None);
        };
        if made_for != lane {
            return Err(Error::new(
                Kind::Denied,
                READING,
                format!("version {version} was made for another lane"),
            ));
        }
        let opened = seal::open(&self.keys.now(), &seal::bound_to(lane, version), &sealed);
        opened.map(Some).map_err(|error| Failure::from(error).during(READING))
    }

    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error> {
        let history = move |connection: &rusqlite::Connection| rows::history(connection, device);
        self.database.read("listing the password versions of a device", history).await
    }
}

#[async_trait]
impl Vault for SealedVault {
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>> {
        let count = sought.len();
        let find = move |connection: &rusqlite::Connection| {
            sought.iter().map(|sought| rows::first_of(connection, sought.request)).collect()
        };
        let found: Result<Vec<_>, Error> = self.database.read_few(count, FINDING, find).await;
        match found {
            Ok(found) => found.into_iter().map(Ok).collect(),
            Err(error) => {
                (0..count).map(|_| Err(Error::new(error.kind(), FINDING, error.to_string()))).collect()
            }
        }
    }

    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>> {
        let keys = self.keys.now();
        let sealed: Vec<_> = versions.iter().map(|version| self.seal(&keys, version)).collect();
        let count = sealed.len();
        // The passwords are wiped before anything waits.
        drop(versions);
        let store = move |batch: &mut Batch<'_>| {
            let stored = sealed.iter().map(|sealed| match sealed {
                Ok(sealed) => rows::store(batch, sealed).map(Ok),
                Err(failure) => Ok(Err(failure.clone())),
            });
            stored.collect::<Result<Vec<_>, Failure>>()
        };
        match self.database.write_few(count, STORING, Durability::Internal, store).await {
            Ok(stored) => {
                stored.into_iter().map(|entry| entry.map_err(|failure| failure.during(STORING))).collect()
            }
            Err(error) => {
                (0..count).map(|_| Err(Error::new(error.kind(), STORING, error.to_string()))).collect()
            }
        }
    }
}
