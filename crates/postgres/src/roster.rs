//! The roster of a directory elsewhere.
//!
//! Whoever files a page holds the one row of `roster_feed` until the commit, so that steps are committed in their order.
//! A crash of the server may take a tail of what was filed together with the place after it; that is read again.

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
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;

const LISTING: &str = "listing devices";

/// A reading from the beginning, with no page filed yet and nobody at it before, is a new round.
const TAKE: &str = "UPDATE roster_feed SET holder = $1, held_until = now_ms($3) + $2, \
 begun_at = coalesce(begun_at, now_ms($3)), \
 round = round + CASE WHEN begun_at IS NULL AND place IS NULL THEN 1 ELSE 0 END, \
 whole = CASE WHEN begun_at IS NULL THEN place IS NULL ELSE whole END \
 WHERE (begun_at IS NOT NULL OR due_at <= now_ms($3)) \
 AND (holder IS NULL OR holder = $1 OR held_until <= now_ms($3)) RETURNING step, place";

/// Whoever else files or takes waits here.
const HELD: &str = "SELECT round, whole FROM roster_feed WHERE holder = $1 AND step = $2 FOR UPDATE";

const FIND: &str = "SELECT object, device, record, gone FROM roster WHERE object = ANY ($1::bytea[])";

const STORE: &str = "INSERT INTO roster AS r (object, device, record, gone, round, changed) \
 SELECT object, device, record, gone, $5, $6 \
 FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::bool[]) AS g (object, device, record, gone) \
 ON CONFLICT (object) DO UPDATE SET device = excluded.device, record = excluded.record, gone = excluded.gone, \
 round = excluded.round, changed = CASE WHEN excluded.object = ANY ($7::bytea[]) THEN excluded.changed ELSE r.changed END";

const MORE: &str = "UPDATE roster_feed SET step = step + 1, place = $1, held_until = now_ms($3) + $2";

const DONE: &str = "UPDATE roster_feed SET step = step + 1, place = $1, read_at = begun_at, begun_at = NULL, \
 whole = false, due_at = now_ms($3) + $2, holder = NULL, held_until = 0";

const RESTART: &str = "UPDATE roster_feed SET step = step + 1, place = NULL, begun_at = NULL, whole = false, \
 due_at = now_ms($2), held_until = now_ms($2) + $1";

const SWEEP: &str = "UPDATE roster SET gone = true, changed = $2 WHERE round < $1 AND NOT gone";

/// Held by nobody who could take it anew: it is free when the pause is over.
const GIVE_BACK: &str =
    "UPDATE roster_feed SET holder = '\\x00'::bytea, held_until = now_ms($3) + $2 WHERE holder = $1";

/// One statement, so that it is of one moment.
const CHANGED: &str = "SELECT f.step, f.read_at, r.device FROM roster_feed AS f LEFT JOIN LATERAL \
 (SELECT device FROM roster WHERE changed > $1 AND device IS NOT NULL LIMIT $2) AS r ON true";

const STANDING: &str = "SELECT step, read_at, \
 (SELECT count(DISTINCT device) FROM roster WHERE NOT gone) FROM roster_feed";

const LIST: &str = "SELECT device, max(record), count(*) FROM roster \
 WHERE NOT gone AND device > $1 GROUP BY device ORDER BY device LIMIT $2";

#[async_trait]
impl Roster for Database {
    async fn take(&self, holder: Holder, lasts: Duration) -> Result<Option<Turn>, Error> {
        let (holder, lasts, now) = (holder.as_bytes().as_slice(), rows::span(lasts), self.now_given());
        let params: [Param<'_>; 3] = [&holder, &lasts, &now];
        self.retrying("taking the turn to read devices", async || {
            let taken = self.at_once(Mode::Internal, &[(TAKE, &params)]).await?;
            let turn = |row| Ok(Turn { step: rows::number(row, 0)?, place: rows::column(row, 1)? });
            taken.iter().flatten().next().map(turn).transpose()
        })
        .await
    }

    async fn file(
        &self,
        holder: Holder,
        step: u64,
        changes: Vec<Change>,
        next: Next,
        lasts: Duration,
    ) -> Result<bool, Error> {
        self.retrying("filing devices", async || file(self, holder, step, &changes, &next, lasts).await).await
    }

    async fn give_back(&self, holder: Holder, pause: Duration) -> Result<(), Error> {
        let (holder, pause, now) = (holder.as_bytes().as_slice(), rows::span(pause), self.now_given());
        let params: [Param<'_>; 3] = [&holder, &pause, &now];
        self.retrying("giving the turn back", async || {
            self.at_once(Mode::Internal, &[(GIVE_BACK, &params)]).await.map(drop)
        })
        .await
    }

    async fn changed(&self, after: u64, limit: usize) -> Result<Changed, Error> {
        let (after, bound) = (rows::place(after), rows::count(limit.saturating_add(1)));
        self.retrying("looking which devices changed", async || {
            let found = self.read(CHANGED, &[&after, &bound]).await?;
            let first = found.first().ok_or_else(|| Failure::corrupt("the roster", "its row is gone"))?;
            let (step, read) = (rows::number(first, 0)?, rows::optional_time(first, 1)?);
            let device = |row: &Row| {
                let there = rows::column::<Option<&[u8]>>(row, 2)?.is_some();
                there.then(|| rows::device(row, 2)).transpose()
            };
            let devices =
                found.iter().filter_map(|row| device(row).transpose()).collect::<Result<Vec<_>, _>>()?;
            Ok(Changed { step, read, devices: Some(devices).filter(|devices| devices.len() <= limit) })
        })
        .await
    }

    async fn standing(&self) -> Result<Standing, Error> {
        self.retrying("looking how far devices were read", async || {
            let found = self.read(STANDING, &[]).await?;
            let row = found.first().ok_or_else(|| Failure::corrupt("the roster", "its row is gone"))?;
            let (step, devices) = (rows::number(row, 0)?, rows::number(row, 2)?);
            Ok(Standing { step, read: rows::optional_time(row, 1)?, devices })
        })
        .await
    }

    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error> {
        let after = after.map_or(Vec::new(), |device| device.as_bytes().to_vec());
        self.retrying(LISTING, async || {
            let found = self.read(LIST, &[&after, &rows::count(limit)]).await?;
            let one = |row: &Row| {
                let id = rows::device(row, 0)?;
                let corrupt = |why| Failure::corrupt(format!("the record of device {id}"), why);
                let record = listed(id, &rows::column::<String>(row, 1)?, rows::number(row, 2)?);
                Ok(Listed { id, record: record.map_err(|why| corrupt(why).during(LISTING)) })
            };
            found.iter().map(one).collect()
        })
        .await
    }
}

async fn file(
    database: &Database,
    holder: Holder,
    step: u64,
    changes: &[Change],
    next: &Next,
    lasts: Duration,
) -> Result<bool, Failure> {
    let (holder, at) = (holder.as_bytes().as_slice(), rows::place(step));
    let objects: Vec<Vec<u8>> = objects(changes).iter().map(|object| object.as_bytes().to_vec()).collect();
    let first: [(&'static str, &[Param<'_>]); 2] = [(HELD, &[&holder, &at]), (FIND, &[&objects])];
    let (work, found) = database.begin(Mode::Internal, &first).await?;
    let held = match held(&found) {
        Ok(held) => held,
        Err(failure) => return Err(work.undo(failure).await),
    };
    let Some((round, whole, found)) = held else { return work.commit(&[]).await.map(|_| false) };
    let columns = Columns::of(filed(&found, changes.to_vec()));
    let (this, now) = (at.saturating_add(1), database.now_given());
    let store = columns.params(&round, &this);
    let (sweep, lasts): ([Param<'_>; 2], i64) = ([&round, &this], rows::span(lasts));
    let (place, pause) = match next {
        Next::More(place) => (place.as_str(), lasts),
        Next::Done(place, every) => (place.as_str(), rows::span(*every)),
        Next::Restart => ("", lasts),
    };
    let (moved, restarted): ([Param<'_>; 3], [Param<'_>; 2]) = ([&place, &pause, &now], [&pause, &now]);
    let mut last: Vec<(&'static str, &[Param<'_>])> = vec![(STORE, &store)];
    match next {
        Next::More(_) => last.push((MORE, &moved)),
        Next::Restart => last.push((RESTART, &restarted)),
        Next::Done(..) => {
            if whole {
                last.push((SWEEP, &sweep));
            }
            last.push((DONE, &moved));
        }
    }
    work.commit(&last).await.map(|_| true)
}

/// The round, whether it is a whole one, and what is there of the objects; none if somebody else has the turn.
#[expect(clippy::type_complexity, reason = "it is taken apart where it is called")]
fn held(found: &[Vec<Row>]) -> Result<Option<(i64, bool, BTreeMap<ObjectId, Entry>)>, Failure> {
    let Some(row) = found.first().and_then(|rows| rows.first()) else { return Ok(None) };
    let (round, whole) = (rows::column(row, 0)?, rows::column(row, 1)?);
    let entries = found.get(1).into_iter().flatten().map(entry).collect::<Result<_, _>>()?;
    Ok(Some((round, whole, entries)))
}

fn entry(row: &Row) -> Result<(ObjectId, Entry), Failure> {
    let object = rows::identifier(row, 0, |bytes| bytes.try_into().ok().map(ObjectId::from_bytes))?;
    let there = rows::column::<Option<&[u8]>>(row, 1)?.is_some();
    let device = there.then(|| rows::device(row, 1)).transpose()?;
    Ok((object, Entry { device, record: rows::column(row, 2)?, gone: rows::column(row, 3)? }))
}

/// Objects, as the columns of a statement.
#[derive(Default)]
struct Columns {
    objects: Vec<Vec<u8>>,
    devices: Vec<Option<Vec<u8>>>,
    records: Vec<String>,
    gone: Vec<bool>,
    changed: Vec<Vec<u8>>,
}

impl Columns {
    fn of(writes: BTreeMap<ObjectId, Write>) -> Self {
        let mut columns = Self::default();
        for (object, Write { entry, differs }) in writes {
            let object = object.as_bytes().to_vec();
            columns.changed.extend(differs.then(|| object.clone()));
            columns.objects.push(object);
            columns.devices.push(entry.device.map(|device| device.as_bytes().to_vec()));
            columns.records.push(rows::text(&entry.record));
            columns.gone.push(entry.gone);
        }
        columns
    }

    fn params<'a>(&'a self, round: &'a i64, step: &'a i64) -> [Param<'a>; 7] {
        let Self { objects, devices, records, gone, changed } = self;
        [objects, devices, records, gone, round, step, changed]
    }
}
