//! The ledger of lanes.
//!
//! Its outbox is the queues themselves: they are tables of the same database, so the transaction that stores an
//! effect sends its messages, and nothing has to carry them over later.

mod commit;
mod lanes;
mod read;
mod rotations;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, KeyHash, LaneId, MessageMark, VersionId};
use keyturn_domain::lane::{Command, Lane};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::ledger::{Commit, Committed, Event, Ledger, LedgerOperator, LedgerReader, Loaded, Wanted};
use sha2::{Digest as _, Sha256};

use crate::database::{Database, Mode, Param};
use crate::epoch::{GENERATION, Generation};
use crate::rows;

#[async_trait]
impl LedgerReader for Database {
    async fn lanes(&self, device: DeviceId) -> Result<Vec<Lane>, Error> {
        self.retrying("reading the lanes of a device", async || read::lanes_of(self, device).await).await
    }

    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<DeviceId>, Error> {
        self.retrying("listing devices with lanes", async || read::devices(self, after, limit).await).await
    }

    async fn labelled(&self, label: &str) -> Result<Vec<DeviceId>, Error> {
        self.retrying("looking a label up", async || read::labelled(self, label).await).await
    }

    async fn timeline(&self, device: DeviceId, limit: usize) -> Result<Vec<Event>, Error> {
        self.retrying("reading a timeline", async || read::timeline(self, device, limit).await).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, Error> {
        self.retrying("reading the facts of all devices", async || read::events(self, after, limit).await)
            .await
    }

    async fn vault_ref(&self, version: VersionId) -> Result<Option<String>, Error> {
        self.retrying("looking a version up", async || read::vault_ref(self, version).await).await
    }

    async fn restored(&self) -> Result<Option<UnixMillis>, Error> {
        self.retrying("asking when the ledger was restored", async || {
            Ok(Generation::of(&self.read(GENERATION, &[]).await?)?.restored)
        })
        .await
    }

    async fn knows_key(&self, key: KeyHash) -> Result<bool, Error> {
        self.retrying("looking a device key up", async || read::knows_key(self, key).await).await
    }
}

#[async_trait]
impl Ledger for Database {
    async fn load(&self, wanted: Vec<Wanted>) -> Result<Vec<Loaded>, Error> {
        self.retrying("loading lanes", async || read::load(self, &wanted).await).await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, Error> {
        let (committed, woken) =
            self.retrying("committing to the ledger", async || commit::commit(self, &commits).await).await?;
        self.signals().committed(woken);
        Ok(committed)
    }
}

#[async_trait]
impl LedgerOperator for Database {
    async fn force(&self, device: DeviceId, at: UnixMillis) -> Result<usize, Error> {
        self.change_lanes(device, Command::Force { at }).await
    }

    async fn close(&self, device: DeviceId, lane: LaneId, at: UnixMillis) -> Result<bool, Error> {
        Ok(self.change_lanes(device, Command::Close { lane, at }).await? > 0)
    }

    async fn hold(&self, device: DeviceId, until: UnixMillis) -> Result<usize, Error> {
        self.change_lanes(device, Command::Hold { until }).await
    }

    async fn relocate(&self, version: VersionId, from: &str, to: &str) -> Result<bool, Error> {
        let (version, from, to) = (version.as_bytes().as_slice(), rows::text(from), rows::text(to));
        let params: [Param<'_>; 3] = [&version, &from, &to];
        let sql = "UPDATE issued SET vault_ref = $3 WHERE version = $1 AND vault_ref = $2 RETURNING 1";
        self.retrying("noting where a version is", async || {
            let moved = self.at_once(Mode::Told, &[(sql, &params)]).await?;
            Ok(moved.iter().flatten().next().is_some())
        })
        .await
    }

    async fn release(&self, device: DeviceId) -> Result<usize, Error> {
        self.change_lanes(device, Command::Release).await
    }
}

impl Database {
    /// Does a command to the lanes of a device. Returns how many it was for.
    async fn change_lanes(&self, device: DeviceId, command: Command) -> Result<usize, Error> {
        self.retrying("changing lanes", async || lanes::change(self, device, command).await).await
    }
}

/// The name under which an effect is remembered.
type Mark = [u8; 16];

/// The name under which an effect is remembered: half a hash is plenty, and keeps the rows small.
fn mark_of((key, mark): &(KeyHash, MessageMark)) -> Mark {
    let digest: [u8; 32] =
        Sha256::new_with_prefix(key.as_bytes()).chain_update(mark.as_bytes()).finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(digest.split_at(16).0);
    half
}
