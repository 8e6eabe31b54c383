//! The vault: versions sealed under a master key, in the same database as everything else.
//!
//! The database alone gives no password away. Only a process that was given [`MasterKeys`] can build a
//! [`SealedVault`]; the others use the [`Database`] and cannot read a version whatever they do.

mod keep;
mod rows;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::live::Live;
use keyturn_domain::password::Password;
use keyturn_ports::vault::{Entry, NewVersion, Sought, Vault, VaultReader};
use keyturn_ports::{Error, Kind};
use keyturn_schemas::vault::{self as seal, MasterKeys};

use self::rows::SealedVersion;
use crate::database::Database;
use crate::failure::Failure;

const FINDING: &str = "finding password versions";
const READING: &str = "reading a password version";
const STORING: &str = "storing a password version";

/// The vault of a database, for those who hold its master keys. Clones share both.
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
            self.database.retrying(READING, async || rows::sealed(&self.database, id, version).await).await?;
        let Some((made_for, sealed)) = found else {
            return Ok(None);
        };
        if made_for != lane {
            let detail = format!("version {version} was made for another lane");
            return Err(Error::new(Kind::Denied, READING, detail));
        }
        let opened = seal::open(&self.keys.now(), &seal::bound_to(lane, version), &sealed);
        opened.map(Some).map_err(|error| Failure::from(error).during(READING))
    }

    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error> {
        self.database
            .retrying("listing the password versions of a device", async || {
                rows::history(&self.database, device).await
            })
            .await
    }
}

#[async_trait]
impl Vault for SealedVault {
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>> {
        let requests: Vec<RequestId> = sought.iter().map(|sought| sought.request).collect();
        let find = async || rows::first_of(&self.database, &requests).await;
        match self.database.retrying(FINDING, find).await {
            Ok(found) => found.into_iter().map(Ok).collect(),
            Err(error) => {
                sought.iter().map(|_| Err(Error::new(error.kind(), FINDING, error.to_string()))).collect()
            }
        }
    }

    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>> {
        let keys = self.keys.now();
        let sealed: Vec<_> = versions.iter().map(|version| self.seal(&keys, version)).collect();
        // The passwords are wiped before anything waits.
        drop(versions);
        let good: Vec<&SealedVersion> = sealed.iter().flatten().collect();
        let stored = self.database.retrying(STORING, async || rows::store(&self.database, &good).await).await;
        match stored {
            Ok(stored) => {
                let mut stored = stored.into_iter();
                let lost = || Error::new(Kind::Unavailable, STORING, "it was not stored; this is a defect");
                let answer = |sealed: &Result<SealedVersion, Failure>| match sealed {
                    Ok(_) => stored.next().ok_or_else(lost),
                    Err(failure) => Err(failure.during(STORING)),
                };
                sealed.iter().map(answer).collect()
            }
            Err(error) => {
                sealed.iter().map(|_| Err(Error::new(error.kind(), STORING, error.to_string()))).collect()
            }
        }
    }
}
