//! Lanes and their rows.

use keyturn_domain::ids::DeviceId;
use keyturn_domain::label::Label;
use keyturn_domain::lane::Lane;
use keyturn_ports::ledger::Stored;
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;

/// A lane as its row has it: lane, revision, state, device.
pub(super) fn lane(row: &Row) -> Result<Stored<Lane>, Failure> {
    let (id, device) = (rows::lane(row, 0)?, rows::device(row, 3)?);
    let what = || format!("lane {id}");
    let value: Lane =
        serde_json::from_str(rows::column(row, 2)?).map_err(|error| Failure::corrupt(what(), error))?;
    // A state filed under another lane or device would show one device's password under another's name.
    if value.key.id() != id || value.key.device != device {
        return Err(Failure::corrupt(what(), "it belongs to another lane or device"));
    }
    Ok(Stored { value, revision: rows::number(row, 1)? })
}

/// Lanes to be stored, as the columns of a statement. What is looked up by is repeated from the lane here and
/// nowhere else.
#[derive(Default)]
pub(super) struct Columns {
    lanes: Vec<Vec<u8>>,
    devices: Vec<Vec<u8>>,
    revisions: Vec<i64>,
    outstanding: Vec<Option<Vec<u8>>>,
    serials: Vec<Option<String>>,
    hosts: Vec<Option<String>>,
    keys: Vec<String>,
    states: Vec<String>,
}

impl Columns {
    pub(super) const INSERT: &str = "INSERT INTO lanes \
         (lane, device, revision, outstanding, serial, host, key, state) \
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::text[], $6::text[], \
             $7::text[], $8::text[]) \
         ON CONFLICT (lane) DO NOTHING RETURNING id";

    /// Whoever updates holds the row, and knows its revision.
    pub(super) const UPDATE: &str = "UPDATE lanes AS l SET revision = g.revision, outstanding = g.outstanding, \
             serial = g.serial, host = g.host, state = g.state \
         FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::text[], $6::text[], $7::text[], \
             $8::text[]) AS g (lane, device, revision, outstanding, serial, host, key, state) \
         WHERE l.lane = g.lane AND l.device = g.device AND l.key = g.key RETURNING l.id";

    /// Adds a lane that is to have this revision.
    pub(super) fn push(&mut self, lane: &Lane, revision: u64) -> Result<(), Failure> {
        let id = lane.key.id();
        let state =
            serde_json::to_string(lane).map_err(|error| Failure::corrupt(format!("lane {id}"), error))?;
        self.lanes.push(id.as_bytes().to_vec());
        self.devices.push(lane.key.device.as_bytes().to_vec());
        self.revisions.push(rows::place(revision));
        self.outstanding.push(lane.outstanding.map(|dated| dated.version.as_bytes().to_vec()));
        self.serials.push(label(&lane.about.serial));
        self.hosts.push(label(&lane.about.host));
        self.keys.push(lane.key.key.to_string());
        self.states.push(state);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn params(&self) -> [Param<'_>; 8] {
        [
            &self.lanes,
            &self.devices,
            &self.revisions,
            &self.outstanding,
            &self.serials,
            &self.hosts,
            &self.keys,
            &self.states,
        ]
    }
}

/// A label as it is looked up; devices that have none need no place in the index.
fn label(label: &Label) -> Option<String> {
    Some(rows::folded(label.as_str())).filter(|label| !label.is_empty())
}

/// Changes the lanes of a device for which `change` returns true.
pub(super) async fn change(
    database: &Database,
    device: DeviceId,
    change: &(impl Fn(&mut Lane) -> bool + Sync),
) -> Result<usize, Failure> {
    let sql = "SELECT lane, revision, state, device FROM lanes WHERE device = $1 ORDER BY lane FOR UPDATE";
    let device = device.as_bytes().as_slice();
    let (work, found) = database.begin(Mode::Told, &[(sql, &[&device])]).await?;
    let mut columns = Columns::default();
    for row in found.iter().flatten() {
        let mut stored = lane(row)?;
        if change(&mut stored.value) {
            columns.push(&stored.value, stored.revision.saturating_add(1))?;
        }
    }
    let updated = work.commit(&[(Columns::UPDATE, &columns.params())]).await?;
    Ok(updated.iter().flatten().count())
}
