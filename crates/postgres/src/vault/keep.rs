//! Looking after master keys: which versions are sealed under which, and sealing them anew under the first.

use std::collections::BTreeMap;

use async_trait::async_trait;
use keyturn_domain::ids::{LaneId, VersionId};
use keyturn_ports::Error;
use keyturn_ports::vault::{Census, Checked, Resealed, VaultKeeper};
use keyturn_schemas::vault::{self as seal, KeyId, MasterKeys};
use tokio_postgres::Row;

use super::SealedVault;
use crate::database::{Database, Mode};
use crate::failure::Failure;
use crate::rows;

const RESEAL: &str = "UPDATE vault_versions AS v SET sealed = g.sealed \
 FROM unnest($1::bigint[], $2::bytea[]) AS g (id, sealed) WHERE v.id = g.id RETURNING v.id";

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
            .retrying("counting the versions of each master key", async || {
                census(&self.database, &keys).await
            })
            .await
    }

    async fn check(&self, after: u64, limit: usize) -> Result<Checked, Error> {
        let keys = self.keys.now();
        let sql = "SELECT id, version, lane, sealed FROM vault_versions WHERE id > $1 ORDER BY id LIMIT $2";
        self.database
            .retrying("opening password versions", async || {
                let page = self.database.read(sql, &[&rows::place(after), &rows::count(limit)]).await?;
                let page = stored(&page)?;
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
        self.database
            .retrying("sealing password versions anew", async || {
                reseal(&self.database, &keys, after, limit).await
            })
            .await
    }
}

async fn reseal(
    database: &Database,
    keys: &MasterKeys,
    after: u64,
    limit: usize,
) -> Result<Resealed, Failure> {
    let sql =
        "SELECT id, version, lane, sealed FROM vault_versions WHERE id > $1 ORDER BY id LIMIT $2 FOR UPDATE";
    let (work, found) =
        database.begin(Mode::Told, &[(sql, &[&rows::place(after), &rows::count(limit)])]).await?;
    let page = match stored(found.first().map_or(&[], Vec::as_slice)) {
        Ok(page) => page,
        Err(failure) => return Err(work.undo(failure).await),
    };
    let (mut ids, mut values, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for stored in page.iter().filter(|stored| !stored.sealed.starts_with(keys.first().id())) {
        match anew(keys, database, stored) {
            Ok(sealed) => {
                ids.push(stored.id);
                values.push(sealed);
            }
            Err(_) => damaged.push(stored.version),
        }
    }
    work.commit(&[(RESEAL, &[&ids, &values])]).await?;
    Ok(Resealed { last: last(&page), resealed: rows::length(&ids), damaged })
}

fn anew(keys: &MasterKeys, database: &Database, stored: &Stored) -> Result<Vec<u8>, Failure> {
    let bound = seal::bound_to(stored.lane, stored.version);
    let password = seal::open(keys, &bound, &stored.sealed)?;
    Ok(seal::seal(keys.first(), database.entropy(), &bound, password.expose())?)
}

fn stored(page: &[Row]) -> Result<Vec<Stored>, Failure> {
    let one = |row: &Row| {
        let (id, sealed) = (rows::column(row, 0)?, rows::column(row, 3)?);
        Ok(Stored { id, version: rows::version(row, 1)?, lane: rows::lane(row, 2)?, sealed })
    };
    page.iter().map(one).collect()
}

fn last(page: &[Stored]) -> Option<u64> {
    page.last().and_then(|stored| u64::try_from(stored.id).ok())
}

async fn census(database: &Database, keys: &MasterKeys) -> Result<Census, Failure> {
    let sql = "SELECT substr(sealed, 1, 8), count(*) FROM vault_versions GROUP BY 1";
    let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for row in &database.read(sql, &[]).await? {
        counts.insert(rows::column(row, 0)?, rows::number(row, 1)?);
    }
    let of = |id: &KeyId| counts.get(id.as_slice()).copied().unwrap_or(0);
    let under: Vec<u64> = keys.ids().map(of).collect();
    let unknown = counts.values().sum::<u64>().saturating_sub(under.iter().sum());
    Ok(Census { under, unknown })
}
