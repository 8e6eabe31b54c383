//! Lanes and their rows.

use keyturn_domain::ids::{DeviceId, KeyHash, LaneId};
use keyturn_domain::label::Label;
use keyturn_domain::lane::Lane;
use keyturn_ports::ledger::Stored;
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::batch::Batch;
use crate::failure::Failure;
use crate::rows;

/// Every lane of a device, in the order in which they were opened.
pub(super) fn of_device(connection: &Connection, device: DeviceId) -> Result<Vec<Stored<Lane>>, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT lane, revision, state, device FROM lanes WHERE device = ?1 ORDER BY id")?;
    let found = statement.query_map([device.as_bytes()], LaneText::of)?;
    found.map(|text| text?.lane()).collect()
}

/// The revision of a lane; 0 if there is none.
pub(super) fn revision(batch: &Batch<'_>, lane: LaneId) -> Result<u64, Failure> {
    let found = batch
        .prepare("SELECT revision FROM lanes WHERE lane = ?1")?
        .query_row([lane.as_bytes()], |row| rows::number(row, 0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// Whether any lane is the key's.
pub(super) fn knows_key(connection: &Connection, key: KeyHash) -> Result<bool, Failure> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM lanes WHERE key = ?1")?;
    Ok(statement.exists([key.to_string()])?)
}

/// Stores a lane in place of the revision named, which the caller has checked to be the present one. The columns
/// looked up by are repeated from the lane here and nowhere else.
pub(super) fn replace(batch: &Batch<'_>, stored: &Stored<Lane>) -> Result<(), Failure> {
    let Stored { value: lane, revision } = stored;
    let id = lane.key.id();
    let state = serde_json::to_string(lane).map_err(|error| Failure::corrupt(format!("lane {id}"), error))?;
    let next = i64::try_from(revision.saturating_add(1)).unwrap_or(i64::MAX);
    let outstanding = lane.outstanding.map(|dated| *dated.version.as_bytes());
    let (serial, host) = (label(&lane.about.serial), label(&lane.about.host));
    let (device, key) = (lane.key.device, lane.key.key.to_string());
    let columns = (next, outstanding, serial, host, state, id.as_bytes(), device.as_bytes(), key);
    let sql = if *revision == 0 {
        "INSERT INTO lanes (revision, outstanding, serial, host, state, lane, device, key) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    } else {
        // The key is named in the condition so that both statements take the same columns, and is never changed.
        "UPDATE lanes SET revision = ?1, outstanding = ?2, serial = ?3, host = ?4, state = ?5 \
         WHERE lane = ?6 AND device = ?7 AND coalesce(key, ?8) = ?8"
    };
    batch.execute(sql, columns)?;
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
}

impl LaneText {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            lane: rows::lane(row, 0)?,
            revision: rows::number(row, 1)?,
            state: row.get(2)?,
            device: rows::device(row, 3)?,
        })
    }

    fn lane(self) -> Result<Stored<Lane>, Failure> {
        let what = || format!("lane {}", self.lane);
        let value: Lane =
            serde_json::from_str(&self.state).map_err(|error| Failure::corrupt(what(), error))?;
        // A state filed under another lane or device would show one device's password under another's name.
        if value.key.id() != self.lane || value.key.device != self.device {
            return Err(Failure::corrupt(what(), "it belongs to another lane or device"));
        }
        Ok(Stored { value, revision: self.revision })
    }
}
