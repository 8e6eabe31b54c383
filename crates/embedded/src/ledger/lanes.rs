//! Lanes and their rows.

use keyturn_domain::ids::{DeviceId, KeyHash, LaneId};
use keyturn_domain::label::Label;
use keyturn_domain::lane::Lane;
use keyturn_ports::Kind;
use keyturn_ports::ledger::{MARKS_REMEMBERED, Stored};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{Mark, place};
use crate::batch::Batch;
use crate::epoch::Generation;
use crate::failure::Failure;
use crate::rows;

/// Every lane of a device, in the order in which they were opened. Those not heard for certain since the file was
/// restored say so.
pub(super) fn of_device(
    connection: &Connection,
    device: DeviceId,
    generation: Generation,
) -> Result<Vec<Stored<Lane>>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT lane, revision, state, device, generation FROM lanes \
         WHERE id BETWEEN ?1 AND ?2 AND device = ?3 ORDER BY id",
    )?;
    let (first, last) = place::of(device).into_inner();
    let found = statement.query_map((first, last, device.as_bytes()), LaneText::of)?;
    found.map(|text| text?.lane(generation)).collect()
}

/// A lane's row, without its state.
#[derive(Debug, Default)]
pub(super) struct Known {
    id: i64,
    /// 0 if there is no such lane.
    pub(super) revision: u64,
    pub(super) generation: i64,
    /// The newest of its events.
    pub(super) event: Option<i64>,
    marks: Vec<u8>,
    labels: (Option<String>, Option<String>),
}

/// What is known of a lane.
pub(super) fn known(connection: &Connection, device: DeviceId, lane: LaneId) -> Result<Known, Failure> {
    let (first, last) = place::of(device).into_inner();
    let found = connection
        .prepare_cached(
            "SELECT id, revision, generation, event, marks, serial, host FROM lanes \
             WHERE id BETWEEN ?1 AND ?2 AND lane = ?3 AND device = ?4",
        )?
        .query_row((first, last, lane.as_bytes(), device.as_bytes()), |row| {
            Ok(Known {
                id: row.get(0)?,
                revision: rows::number(row, 1)?,
                generation: row.get(2)?,
                event: row.get(3)?,
                marks: row.get(4)?,
                labels: (row.get(5)?, row.get(6)?),
            })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// The newest event of each lane of a device.
pub(super) fn newest_events(connection: &Connection, device: DeviceId) -> Result<Vec<i64>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT event FROM lanes WHERE id BETWEEN ?1 AND ?2 AND device = ?3 AND event IS NOT NULL",
    )?;
    let (first, last) = place::of(device).into_inner();
    let found = statement.query_map((first, last, device.as_bytes()), |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Whether any lane is the key's.
pub(super) fn knows_key(connection: &Connection, key: KeyHash) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM lanes WHERE key = ?1")?;
    Ok(statement.exists([key.to_string()])?)
}

impl Known {
    /// Whether one of the last messages of the lane had this mark.
    pub(super) fn used(&self, mark: Mark) -> bool {
        self.marks.chunks_exact(mark.len()).any(|used| used == mark)
    }

    /// Notes the mark of a message, and forgets the oldest.
    pub(super) fn note(&mut self, mark: Mark) {
        self.marks.truncate((MARKS_REMEMBERED - 1) * mark.len());
        self.marks.splice(..0, mark);
    }
}

/// Stores a lane in place of what is known of it, which the caller has compared. The columns looked up by are
/// repeated from the lane here and nowhere else.
pub(super) fn replace(
    batch: &Batch<'_>,
    lane: &Lane,
    known: &Known,
    generation: Generation,
) -> Result<(), Failure> {
    let id = lane.key.id();
    let state = serde_json::to_string(lane).map_err(|error| Failure::corrupt(format!("lane {id}"), error))?;
    let next = i64::try_from(known.revision.saturating_add(1)).unwrap_or(i64::MAX);
    // A lane that is not heard for certain keeps the generation in which it was, so that it is known by it.
    let heard = if lane.restored.is_some() { known.generation } else { generation.number };
    let outstanding = lane.outstanding.map(|dated| *dated.version.as_bytes());
    let changing = (next, heard, known.event, &known.marks, outstanding, state);
    let labels = (label(&lane.about.serial), label(&lane.about.host));
    if known.revision == 0 {
        return open(batch, lane, changing, labels);
    }
    let (revision, generation, event, marks, outstanding, state) = changing;
    let updated = batch.execute(
        "UPDATE lanes SET revision = ?1, generation = ?2, event = ?3, marks = ?4, outstanding = ?5, state = ?6 \
         WHERE id = ?7",
        (revision, generation, event, marks, outstanding, state, known.id),
    )?;
    if updated != 1 {
        return Err(Failure::corrupt(format!("lane {id}"), "its row is gone since it was looked at"));
    }
    // Naming a column rewrites its index, whether it changes or not.
    if labels != known.labels {
        batch.execute(
            "UPDATE lanes SET serial = ?1, host = ?2 WHERE id = ?3",
            (labels.0, labels.1, known.id),
        )?;
    }
    Ok(())
}

type Changing<'a> = (i64, i64, Option<i64>, &'a Vec<u8>, Option<[u8; 16]>, String);

fn open(
    batch: &Batch<'_>,
    lane: &Lane,
    (revision, generation, event, marks, outstanding, state): Changing<'_>,
    (serial, host): (Option<String>, Option<String>),
) -> Result<(), Failure> {
    let (id, device, key) = (lane.key.id(), lane.key.device, lane.key.key.to_string());
    let (first, last) = place::of(device).into_inner();
    let newest: Option<i64> = batch
        .prepare("SELECT max(id) FROM lanes WHERE id BETWEEN ?1 AND ?2")?
        .query_row((first, last), |row| row.get(0))?;
    let place = newest.map_or(first, |newest| newest + 1);
    if place > last {
        return Err(Failure::new(Kind::Denied, format!("device {device} has too many lanes")));
    }
    batch.execute(
        "INSERT INTO lanes (id, lane, device, revision, generation, event, marks, outstanding, serial, host, state, \
         key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        (
            place,
            id.as_bytes(),
            device.as_bytes(),
            revision,
            generation,
            event,
            marks,
            outstanding,
            serial,
            host,
            state,
            key,
        ),
    )?;
    Ok(())
}

/// A label as it is looked up; devices that have none need no place in the index.
fn label(label: &Label) -> Option<String> {
    Some(rows::folded(label.as_str())).filter(|label| !label.is_empty())
}

struct LaneText {
    lane: LaneId,
    revision: u64,
    state: String,
    device: DeviceId,
    generation: i64,
}

impl LaneText {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            lane: rows::lane(row, 0)?,
            revision: rows::number(row, 1)?,
            state: row.get(2)?,
            device: rows::device(row, 3)?,
            generation: row.get(4)?,
        })
    }

    fn lane(self, generation: Generation) -> Result<Stored<Lane>, Failure> {
        let what = || format!("lane {}", self.lane);
        let mut value: Lane =
            serde_json::from_str(&self.state).map_err(|error| Failure::corrupt(what(), error))?;
        // A state filed under another lane or device would show one device's password under another's name.
        if value.key.id() != self.lane || value.key.device != self.device {
            return Err(Failure::corrupt(what(), "it belongs to another lane or device"));
        }
        if let Some(at) = generation.restored.filter(|_| self.generation != generation.number) {
            value.restore(at);
        }
        Ok(Stored { value, revision: self.revision })
    }
}
