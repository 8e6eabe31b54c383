//! The roster of a directory elsewhere.
//!
//! Nothing here waits for the disk: a power loss takes a tail of what was filed together with the place after it, and that
//! is read again.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, ObjectId};
use keyturn_ports::Error;
use keyturn_ports::directory::Listed;
use keyturn_ports::roster::{
    Change, Changed, Entry, Next, Roster, Standing, Turn, Write, filed, listed, objects,
};
use keyturn_ports::shipping::Holder;
use rusqlite::{OptionalExtension as _, Row};

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

/// A reading from the beginning, with no page filed yet and nobody at it before, is a new round.
const TAKE: &str = "UPDATE roster_feed SET holder = ?1, held_until = ?3, begun_at = coalesce(begun_at, ?2), \
 round = round + (begun_at IS NULL AND place IS NULL), \
 whole = CASE WHEN begun_at IS NULL THEN place IS NULL ELSE whole END \
 WHERE (begun_at IS NOT NULL OR due_at <= ?2) AND (holder IS NULL OR holder = ?1 OR held_until <= ?2) \
 RETURNING step, place";

const HELD: &str = "SELECT round, whole FROM roster_feed WHERE holder = ?1 AND step = ?2";

const FIND: &str = "SELECT device, record, gone FROM roster WHERE object = ?1";

const STORE: &str = "INSERT INTO roster (object, device, record, gone, round, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
 ON CONFLICT (object) DO UPDATE SET device = excluded.device, record = excluded.record, gone = excluded.gone, \
 round = excluded.round, changed = CASE WHEN ?7 THEN excluded.changed ELSE changed END";

const MORE: &str = "UPDATE roster_feed SET step = step + 1, place = ?1, held_until = ?2";

const DONE: &str = "UPDATE roster_feed SET step = step + 1, place = ?1, read_at = begun_at, begun_at = NULL, \
 whole = 0, due_at = ?2, holder = NULL, held_until = 0";

const RESTART: &str = "UPDATE roster_feed SET step = step + 1, place = NULL, begun_at = NULL, whole = 0, due_at = ?1, held_until = ?2";

const SWEEP: &str = "UPDATE roster SET gone = 1, changed = ?2 WHERE round < ?1 AND gone = 0";

const LIST: &str = "SELECT device, max(record), count(*) FROM roster \
 WHERE gone = 0 AND device IS NOT NULL AND device > ?1 GROUP BY device ORDER BY device LIMIT ?2";

#[async_trait]
impl Roster for Database {
    async fn take(&self, holder: Holder, lasts: Duration) -> Result<Option<Turn>, Error> {
        let take = move |batch: &mut Batch<'_>| {
            let now = rows::to_column(batch.now);
            let turn = batch
                .prepare(TAKE)?
                .query_row((holder.as_bytes(), now, after(now, lasts)), |row| {
                    Ok(Turn { step: rows::number(row, 0)?, place: row.get(1)? })
                })
                .optional()?;
            Ok(turn)
        };
        self.write("taking the turn to read devices", Durability::Internal, take).await
    }

    async fn file(
        &self,
        holder: Holder,
        step: u64,
        changes: Vec<Change>,
        next: Next,
        lasts: Duration,
    ) -> Result<bool, Error> {
        let file = move |batch: &mut Batch<'_>| file(batch, holder, step, &changes, &next, lasts);
        self.write("filing devices", Durability::Internal, file).await
    }

    async fn give_back(&self, holder: Holder, pause: Duration) -> Result<(), Error> {
        let give = move |batch: &mut Batch<'_>| {
            let until = after(rows::to_column(batch.now), pause);
            // Held by nobody who could take it anew: it is free when the pause is over.
            let sql = "UPDATE roster_feed SET holder = x'00', held_until = ?2 WHERE holder = ?1";
            batch.execute(sql, (holder.as_bytes(), until)).map(drop)
        };
        self.write("giving the turn back", Durability::Internal, give).await
    }

    async fn changed(&self, after: u64, limit: usize) -> Result<Changed, Error> {
        self.read("looking which devices changed", move |connection| {
            let sql = "SELECT step, read_at FROM roster_feed";
            let mut changed = connection.prepare_cached(sql)?.query_row([], |row| {
                let read = row.get::<_, Option<i64>>(1)?.map(|_| rows::time(row, 1)).transpose()?;
                Ok(Changed { step: rows::number(row, 0)?, read, devices: None })
            })?;
            let sql = "SELECT device FROM roster WHERE changed > ?1 AND device IS NOT NULL LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let bound = rows::count(limit.saturating_add(1));
            let found = statement.query_map((column(after), bound), |row| rows::device(row, 0))?;
            let found = found.collect::<Result<Vec<_>, _>>()?;
            changed.devices = Some(found).filter(|found| found.len() <= limit);
            Ok(changed)
        })
        .await
    }

    async fn standing(&self) -> Result<Standing, Error> {
        self.read("looking how far devices were read", |connection| {
            let sql = "SELECT step, read_at, \
                       (SELECT count(DISTINCT device) FROM roster WHERE gone = 0) FROM roster_feed";
            let standing = connection.prepare_cached(sql)?.query_row([], |row| {
                let read = row.get::<_, Option<i64>>(1)?.map(|_| rows::time(row, 1)).transpose()?;
                Ok(Standing { step: rows::number(row, 0)?, read, devices: rows::number(row, 2)? })
            })?;
            Ok(standing)
        })
        .await
    }

    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error> {
        let after = after.map_or(Vec::new(), |device| device.as_bytes().to_vec());
        self.read("listing devices", move |connection| {
            let mut statement = connection.prepare_cached(LIST)?;
            let found = statement.query_map((after, rows::count(limit)), |row| {
                Ok((rows::device(row, 0)?, row.get::<_, String>(1)?, rows::number::<u64>(row, 2)?))
            })?;
            let found = found.map(|found| {
                let (id, text, count) = found?;
                let corrupt = |why| Failure::corrupt(format!("the record of device {id}"), why);
                let record = listed(id, &text, count).map_err(|why| corrupt(why).during("listing devices"));
                Ok(Listed { id, record })
            });
            found.collect()
        })
        .await
    }
}

fn file(
    batch: &Batch<'_>,
    holder: Holder,
    step: u64,
    changes: &[Change],
    next: &Next,
    lasts: Duration,
) -> Result<bool, Failure> {
    let held = batch
        .prepare(HELD)?
        .query_row((holder.as_bytes(), column(step)), |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
        })
        .optional()?;
    let Some((round, whole)) = held else { return Ok(false) };
    let this = column(step.saturating_add(1));
    let mut found = BTreeMap::new();
    for object in objects(changes) {
        let entry = batch.prepare(FIND)?.query_row([object.as_bytes()], entry).optional()?;
        found.extend(entry.map(|entry| (object, entry)));
    }
    for (object, write) in filed(&found, changes.to_vec()) {
        store(batch, object, &write, round, this)?;
    }
    let now = rows::to_column(batch.now);
    match next {
        Next::More(place) => batch.execute(MORE, (place, after(now, lasts)))?,
        Next::Restart => batch.execute(RESTART, (now, after(now, lasts)))?,
        Next::Done(place, every) => {
            if whole {
                batch.execute(SWEEP, (round, this))?;
            }
            batch.execute(DONE, (place, after(now, *every)))?
        }
    };
    Ok(true)
}

fn store(batch: &Batch<'_>, object: ObjectId, write: &Write, round: i64, step: i64) -> Result<(), Failure> {
    let Write { entry, differs } = write;
    let device = entry.device.as_ref().map(|device| device.as_bytes().as_slice());
    batch
        .execute(STORE, (object.as_bytes(), device, &entry.record, entry.gone, round, step, differs))
        .map(drop)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let device = row.get::<_, Option<Vec<u8>>>(0)?.map(|_| rows::device(row, 0)).transpose()?;
    Ok(Entry { device, record: row.get(1)?, gone: row.get(2)? })
}

fn column(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

fn after(now: i64, span: Duration) -> i64 {
    now.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
}
