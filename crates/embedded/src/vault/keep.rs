//! Looking after master keys: which versions are sealed under which, and sealing them anew under the first.

use std::collections::BTreeMap;

use async_trait::async_trait;
use keyturn_domain::ids::{LaneId, VersionId};
use keyturn_ports::Error;
use keyturn_ports::vault::{Census, Checked, Resealed, VaultKeeper};
use rusqlite::Connection;

use keyturn_schemas::vault::{self as seal, KeyId, MasterKeys};

use super::SealedVault;
use crate::batch::Batch;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

/// A version as it is stored.
struct Stored {
    id: i64,
    version: VersionId,
    lane: LaneId,
    sealed: Vec<u8>,
}

#[async_trait]
impl VaultKeeper for SealedVault {
    async fn census(&self) -> Result<Census, Error> {
        let keys = self.keys.now();
        self.database
            .read("counting the versions of each master key", move |connection| census(connection, &keys))
            .await
    }

    async fn check(&self, after: u64, limit: usize) -> Result<Checked, Error> {
        let keys = self.keys.now();
        self.database
            .read("opening password versions", move |connection| {
                let page = page(connection, after, limit)?;
                let fails = |stored: &&Stored| {
                    let bound = seal::bound_to(stored.lane, stored.version);
                    seal::open(&keys, &bound, &stored.sealed).is_err()
                };
                let damaged = page.iter().filter(fails).map(|stored| stored.version).collect();
                Ok(Checked { last: last(&page), opened: rows::length(&page), damaged })
            })
            .await
    }

    async fn reseal(&self, after: u64, limit: usize) -> Result<Resealed, Error> {
        let keys = self.keys.now();
        let reseal = move |batch: &mut Batch<'_>| {
            let page = page(batch.connection(), after, limit)?;
            let mut done = Resealed { last: last(&page), resealed: 0, damaged: Vec::new() };
            for stored in page.iter().filter(|stored| !stored.sealed.starts_with(keys.first().id())) {
                match anew(&keys, batch, stored) {
                    Ok(sealed) => {
                        batch.execute(
                            "UPDATE vault_versions SET sealed = ?2 WHERE id = ?1",
                            (stored.id, sealed),
                        )?;
                        done.resealed += 1;
                    }
                    Err(_) => done.damaged.push(stored.version),
                }
            }
            Ok(done)
        };
        self.database.write("sealing password versions anew", Durability::Told, reseal).await
    }
}

fn anew(keys: &MasterKeys, batch: &Batch<'_>, stored: &Stored) -> Result<Vec<u8>, Failure> {
    let bound = seal::bound_to(stored.lane, stored.version);
    let password = seal::open(keys, &bound, &stored.sealed)?;
    Ok(seal::seal(keys.first(), batch.entropy, &bound, password.expose())?)
}

fn page(connection: &Connection, after: u64, limit: usize) -> Result<Vec<Stored>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT id, version, lane, sealed FROM vault_versions WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let found = statement.query_map((after, rows::count(limit)), |row| {
        let (id, sealed) = (row.get(0)?, row.get(3)?);
        Ok(Stored { id, version: rows::version(row, 1)?, lane: rows::lane(row, 2)?, sealed })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn last(page: &[Stored]) -> Option<u64> {
    page.last().and_then(|stored| u64::try_from(stored.id).ok())
}

fn census(connection: &Connection, keys: &MasterKeys) -> Result<Census, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT substr(sealed, 1, 8), count(*) FROM vault_versions GROUP BY 1")?;
    let found =
        statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, rows::number::<u64>(row, 1)?)))?;
    let counts = found.collect::<Result<BTreeMap<Vec<u8>, u64>, _>>()?;
    let of = |id: &KeyId| counts.get(id.as_slice()).copied().unwrap_or(0);
    let under: Vec<u64> = keys.ids().map(of).collect();
    let unknown = counts.values().sum::<u64>().saturating_sub(under.iter().sum());
    Ok(Census { under, unknown })
}
