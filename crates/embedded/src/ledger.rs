//! The ledger of lanes.
//!
//! Its outbox is the queues themselves: they are tables of the same file, so the transaction that stores an
//! effect sends its messages, and nothing has to carry them over later.

mod commit;
mod lanes;
mod place;
mod read;
mod rotations;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, KeyHash, LaneId, MessageMark, VersionId};
use keyturn_domain::lane::{Command, Lane};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::ledger::{Commit, Committed, Event, Ledger, LedgerOperator, LedgerReader, Loaded, Wanted};
use sha2::{Digest as _, Sha256};

use crate::batch::Batch;
use crate::database::Database;
use crate::epoch::Generation;
use crate::failure::Failure;
use crate::writer::Durability;

#[async_trait]
impl LedgerReader for Database {
    async fn lanes(&self, device: DeviceId) -> Result<Vec<Lane>, Error> {
        self.read("reading the lanes of a device", move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let generation = Generation::now(&snapshot)?;
            Ok(lanes::of_device(&snapshot, device, generation)?
                .into_iter()
                .map(|stored| stored.value)
                .collect())
        })
        .await
    }

    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<DeviceId>, Error> {
        self.read("listing devices with lanes", move |connection| read::devices(connection, after, limit))
            .await
    }

    async fn labelled(&self, label: &str) -> Result<Vec<DeviceId>, Error> {
        let label = label.to_owned();
        self.read("looking a label up", move |connection| read::labelled(connection, &label)).await
    }

    async fn timeline(&self, device: DeviceId, limit: usize) -> Result<Vec<Event>, Error> {
        self.read("reading a timeline", move |connection| read::timeline(connection, device, limit)).await
    }

    async fn events(&self, after: u64, limit: usize) -> Result<Vec<(u64, Event)>, Error> {
        self.read("reading the facts of all devices", move |connection| {
            read::events(connection, after, limit)
        })
        .await
    }

    async fn vault_ref(&self, version: VersionId) -> Result<Option<String>, Error> {
        self.read("looking a version up", move |connection| read::vault_ref(connection, version)).await
    }

    async fn restored(&self) -> Result<Option<UnixMillis>, Error> {
        self.read("asking when the ledger was restored", |connection| {
            Ok(Generation::now(connection)?.restored)
        })
        .await
    }

    async fn knows_key(&self, key: KeyHash) -> Result<bool, Error> {
        self.read_few(1, "looking a device key up", move |connection| lanes::knows_key(connection, key)).await
    }
}

#[async_trait]
impl Ledger for Database {
    async fn load(&self, wanted: Vec<Wanted>) -> Result<Vec<Loaded>, Error> {
        self.read_few(wanted.len(), "loading lanes", move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            wanted.iter().map(|wanted| read::load(&snapshot, wanted)).collect()
        })
        .await
    }

    async fn commit(&self, commits: Vec<Commit>) -> Result<Vec<Committed>, Error> {
        let messages = commits.len();
        let apply = move |batch: &mut Batch<'_>| {
            commits.iter().map(|element| commit::apply(batch, element)).collect()
        };
        self.write_few(messages, "committing to the ledger", self.effects(), apply).await
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
        let (from, to) = (from.to_owned(), to.to_owned());
        let relocate = move |batch: &mut Batch<'_>| {
            let sql = "UPDATE issued SET vault_ref = ?3 WHERE version = ?1 AND vault_ref = ?2";
            Ok(batch.execute(sql, (version.as_bytes(), &from, &to))? > 0)
        };
        self.write("noting where a version is", Durability::Told, relocate).await
    }

    async fn release(&self, device: DeviceId) -> Result<usize, Error> {
        self.change_lanes(device, Command::Release).await
    }
}

impl Database {
    /// Does a command to the lanes of a device. Returns how many it was for.
    async fn change_lanes(&self, device: DeviceId, command: Command) -> Result<usize, Error> {
        let change = move |batch: &mut Batch<'_>| change_lanes(batch, device, command);
        self.write("changing lanes", Durability::Told, change).await
    }
}

/// Does a command to the lanes of a device. Returns how many it was for.
fn change_lanes(batch: &Batch<'_>, device: DeviceId, command: Command) -> Result<usize, Failure> {
    let mut changed = 0;
    let generation = Generation::now(batch.connection())?;
    for mut stored in lanes::of_device(batch.connection(), device, generation)? {
        if command.apply(&mut stored.value) {
            let known = lanes::known(batch.connection(), device, stored.value.key.id())?;
            lanes::replace(batch, &stored.value, &known, generation)?;
            changed += 1;
        }
    }
    Ok(changed)
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
