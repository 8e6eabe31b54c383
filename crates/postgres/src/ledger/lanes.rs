//! Lanes and their rows.

use keyturn_domain::ids::DeviceId;
use keyturn_domain::label::Label;
use keyturn_domain::lane::{Command, Lane};
use keyturn_ports::ledger::{MARKS_REMEMBERED, Stored};
use tokio_postgres::Row;

use super::Mark;
use crate::database::{Database, Mode, Param, Work};
use crate::epoch::{GENERATION, Generation};
use crate::failure::Failure;
use crate::rows;

/// Selects lanes for [`lane`].
macro_rules! lanes {
    ($rest:literal) => {
        concat!("SELECT lane, revision, state, device, generation, marks FROM lanes ", $rest)
    };
}
pub(super) use lanes;

/// What is known of a lane beside its state.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// 0 if there is no such lane.
    pub(super) revision: u64,
    /// That in which it was last heard for certain.
    pub(super) generation: i64,
    marks: Vec<u8>,
}

impl Known {
    /// As columns that follow each other have it: revision, generation, marks.
    pub(super) fn of(row: &Row, [revision, generation, marks]: [usize; 3]) -> Result<Self, Failure> {
        Ok(Self {
            revision: rows::number(row, revision)?,
            generation: rows::column(row, generation)?,
            marks: rows::column(row, marks)?,
        })
    }

    /// Whether one of the last messages of the lane had this mark.
    pub(super) fn used(&self, mark: Mark) -> bool {
        self.marks.chunks_exact(mark.len()).any(|used| used == mark)
    }

    /// Notes the mark of a message, and forgets the oldest.
    pub(super) fn note(&mut self, mark: Mark) {
        self.marks.truncate((MARKS_REMEMBERED - 1) * mark.len());
        self.marks.splice(..0, mark);
    }

    /// Counts that `lane` is to be stored in this one's place, in this generation.
    pub(super) fn advance(&mut self, lane: &Lane, generation: Generation) {
        self.revision = self.revision.saturating_add(1);
        // A lane that is not heard for certain keeps the generation in which it was, so that it is known by it.
        if lane.restored.is_none() {
            self.generation = generation.number;
        }
    }
}

/// A lane and what is known of it, from a row of [`lanes`]. One not heard for certain since the database was restored
/// says so.
pub(super) fn lane(row: &Row, generation: Generation) -> Result<(Stored<Lane>, Known), Failure> {
    let (id, device) = (rows::lane(row, 0)?, rows::device(row, 3)?);
    let what = || format!("lane {id}");
    let mut value: Lane =
        serde_json::from_str(rows::column(row, 2)?).map_err(|error| Failure::corrupt(what(), error))?;
    // A state filed under another lane or device would show one device's password under another's name.
    if value.key.id() != id || value.key.device != device {
        return Err(Failure::corrupt(what(), "it belongs to another lane or device"));
    }
    let known = Known::of(row, [1, 4, 5])?;
    if let Some(at) = generation.restored.filter(|_| known.generation != generation.number) {
        value.restore(at);
    }
    Ok((Stored { value, revision: known.revision }, known))
}

/// Lanes to be stored, as the columns of a statement. What is looked up by is repeated from the lane here and
/// nowhere else.
#[derive(Default)]
pub(super) struct Columns {
    lanes: Vec<Vec<u8>>,
    devices: Vec<Vec<u8>>,
    revisions: Vec<i64>,
    generations: Vec<i64>,
    marks: Vec<Vec<u8>>,
    outstanding: Vec<Option<Vec<u8>>>,
    serials: Vec<Option<String>>,
    hosts: Vec<Option<String>>,
    keys: Vec<String>,
    states: Vec<String>,
}

impl Columns {
    pub(super) const INSERT: &str = "INSERT INTO lanes \
         (lane, device, revision, outstanding, serial, host, key, state, generation, marks) \
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::text[], $6::text[], \
             $7::text[], $8::text[], $9::bigint[], $10::bytea[]) \
         ON CONFLICT (lane) DO NOTHING RETURNING id";

    /// Whoever updates holds the row, and knows its revision.
    pub(super) const UPDATE: &str = "UPDATE lanes AS l SET revision = g.revision, outstanding = g.outstanding, \
             serial = g.serial, host = g.host, state = g.state, generation = g.generation, marks = g.marks \
         FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::text[], $6::text[], $7::text[], \
             $8::text[], $9::bigint[], $10::bytea[]) \
             AS g (lane, device, revision, outstanding, serial, host, key, state, generation, marks) \
         WHERE l.lane = g.lane AND l.device = g.device AND l.key = g.key RETURNING l.id";

    /// Adds a lane of which this is to be known.
    pub(super) fn push(&mut self, lane: &Lane, known: &Known) -> Result<(), Failure> {
        let id = lane.key.id();
        let state =
            serde_json::to_string(lane).map_err(|error| Failure::corrupt(format!("lane {id}"), error))?;
        self.lanes.push(id.as_bytes().to_vec());
        self.devices.push(lane.key.device.as_bytes().to_vec());
        self.revisions.push(rows::place(known.revision));
        self.generations.push(known.generation);
        self.marks.push(known.marks.clone());
        self.outstanding.push(lane.outstanding.map(|dated| dated.version.as_bytes().to_vec()));
        self.serials.push(label(&lane.about.serial));
        self.hosts.push(label(&lane.about.host));
        self.keys.push(lane.key.key.to_string());
        self.states.push(state);
        Ok(())
    }

    /// Whether [`Columns::UPDATE`], which is done to rows that are held, found each of them.
    pub(super) fn all_updated(&self, updated: &[Vec<Row>]) -> Result<(), Failure> {
        if updated.iter().flatten().count() == self.len() {
            return Ok(());
        }
        Err(Failure::corrupt("a lane", "its row has another device or key than its state"))
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn params(&self) -> [Param<'_>; 10] {
        [
            &self.lanes,
            &self.devices,
            &self.revisions,
            &self.outstanding,
            &self.serials,
            &self.hosts,
            &self.keys,
            &self.states,
            &self.generations,
            &self.marks,
        ]
    }
}

/// A label as it is looked up; devices that have none need no place in the index.
fn label(label: &Label) -> Option<String> {
    Some(rows::folded(label.as_str())).filter(|label| !label.is_empty())
}

/// Does a command to the lanes of a device. Returns how many it was for.
pub(super) async fn change(
    database: &Database,
    device: DeviceId,
    command: Command,
) -> Result<usize, Failure> {
    let (work, _) = database.begin(Mode::Told, &[]).await?;
    match change_within(&work, device, command).await {
        Ok(changed) => work.commit(&[]).await.map(|_| changed),
        Err(failure) => Err(work.undo(failure).await),
    }
}

/// The same, in a transaction that does more.
pub(super) async fn change_within(work: &Work, device: DeviceId, command: Command) -> Result<usize, Failure> {
    let held = lanes!("WHERE device = $1 ORDER BY lane FOR UPDATE");
    let device = device.as_bytes().as_slice();
    let found = work.run(&[(held, &[&device]), (GENERATION, &[])]).await?;
    let [lanes, generation] = found.as_slice() else {
        return Err(Failure::outrun());
    };
    let generation = Generation::of(generation)?;
    let mut columns = Columns::default();
    for row in lanes {
        let (mut stored, mut known) = lane(row, generation)?;
        if command.apply(&mut stored.value) {
            known.advance(&stored.value, generation);
            columns.push(&stored.value, &known)?;
        }
    }
    let updated = work.run(&[(Columns::UPDATE, &columns.params())]).await?;
    columns.all_updated(&updated)?;
    Ok(columns.len())
}
