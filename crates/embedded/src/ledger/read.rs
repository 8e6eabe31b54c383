//! Looking things up in the ledger.

use std::collections::BTreeSet;

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::{Event, Happening, Loaded, Wanted};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{commit, lanes, mark_of};
use crate::epoch::Generation;
use crate::failure::Failure;
use crate::rows;

/// How many devices may share a label before the rest is left out.
const NAMESAKES: usize = 32;

/// What is known when deciding on a message.
pub(super) fn load(connection: &Connection, wanted: &Wanted) -> Result<Loaded, Failure> {
    let generation = Generation::now(connection)?;
    let (mark, known) = (mark_of(&wanted.mark), lanes::known(connection, wanted.device, wanted.lane)?);
    Ok(Loaded {
        lanes: lanes::of_device(connection, wanted.device, generation)?,
        issued: issued(connection, wanted.lane, &wanted.versions)?,
        history: commit::history(connection, wanted.nonce, mark, wanted.request, &known)?,
        restored: generation.restored,
    })
}

fn issued(
    connection: &Connection,
    lane: LaneId,
    versions: &BTreeSet<VersionId>,
) -> Result<BTreeSet<VersionId>, Failure> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM issued WHERE version = ?1 AND lane = ?2")?;
    let mut found = BTreeSet::new();
    for version in versions {
        if statement.exists((version.as_bytes(), lane.as_bytes()))? {
            found.insert(*version);
        }
    }
    Ok(found)
}

/// Devices that have lanes. Walks the index from device to device, so that a device's lanes cost nothing extra.
pub(super) fn devices(
    connection: &Connection,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<Vec<DeviceId>, Failure> {
    let after = after.map_or(Vec::new(), |device| device.as_bytes().to_vec());
    let mut statement = connection
        .prepare_cached("SELECT DISTINCT device FROM lanes WHERE device > ?1 ORDER BY device LIMIT ?2")?;
    let found = statement.query_map((after, rows::count(limit)), |row| rows::device(row, 0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Devices one of whose lanes carries this serial number or host name.
pub(super) fn labelled(connection: &Connection, label: &str) -> Result<Vec<DeviceId>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT device FROM lanes WHERE serial = ?1 UNION SELECT device FROM lanes WHERE host = ?1 \
         ORDER BY device LIMIT ?2",
    )?;
    let found =
        statement.query_map((rows::folded(label), rows::count(NAMESAKES)), |row| rows::device(row, 0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// The newest facts about a device.
pub(super) fn timeline(
    connection: &Connection,
    device: DeviceId,
    limit: usize,
) -> Result<Vec<Event>, Failure> {
    let mut found = without_lane(connection, device, limit)?;
    for head in lanes::newest_events(connection, device)? {
        follow(connection, device, head, limit, &mut found)?;
    }
    found.sort_by_key(|text| std::cmp::Reverse(text.id));
    found.truncate(limit);
    found.into_iter().map(|text| Ok(text.event()?.1)).collect()
}

fn without_lane(connection: &Connection, device: DeviceId, limit: usize) -> Result<Vec<EventText>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT at, request, what, id, device FROM events WHERE device = ?1 AND chained = 0 \
         ORDER BY id DESC LIMIT ?2",
    )?;
    let found = statement.query_map((device.as_bytes(), rows::count(limit)), EventText::of)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Follows a lane's chain to what is forgotten already.
fn follow(
    connection: &Connection,
    device: DeviceId,
    head: i64,
    limit: usize,
    found: &mut Vec<EventText>,
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT at, request, what, id, device, previous FROM events WHERE id = ?1 AND device = ?2",
    )?;
    let mut next = Some(head);
    for _ in 0..limit {
        let Some(id) = next else { break };
        let link = |row: &Row<'_>| Ok((EventText::of(row)?, row.get::<_, Option<i64>>(5)?));
        let Some((text, previous)) = statement.query_row((id, device.as_bytes()), link).optional()? else {
            break;
        };
        found.push(text);
        // A chain goes back in time; anything else is damage, and must not go in circles.
        next = previous.filter(|previous| *previous < id);
    }
    Ok(())
}

/// Facts of all devices in the order in which they were stored.
pub(super) fn events(
    connection: &Connection,
    after: u64,
    limit: usize,
) -> Result<Vec<(u64, Event)>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT at, request, what, id, device FROM events WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let found = statement.query_map((after, rows::count(limit)), EventText::of)?;
    found.map(|text| text?.event()).collect()
}

/// A fact as it is stored, not yet read.
struct EventText {
    at: UnixMillis,
    request: RequestId,
    what: String,
    id: u64,
    device: DeviceId,
}

impl EventText {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            at: rows::time(row, 0)?,
            request: rows::request(row, 1)?,
            what: row.get(2)?,
            id: rows::number(row, 3)?,
            device: rows::device(row, 4)?,
        })
    }

    fn event(self) -> Result<(u64, Event), Failure> {
        let Self { at, request, what, id, device } = self;
        let what: Happening =
            serde_json::from_str(&what).map_err(|error| Failure::corrupt(format!("event {id}"), error))?;
        Ok((id, Event { at, device, request, what }))
    }
}

/// Where the vault keeps a version.
pub(super) fn vault_ref(connection: &Connection, version: VersionId) -> Result<Option<String>, Failure> {
    let found = connection
        .prepare_cached("SELECT vault_ref FROM issued WHERE version = ?1")?
        .query_row([version.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(found)
}
