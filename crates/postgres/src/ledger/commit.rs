//! Applying the effects of messages, each whole or not at all.
//!
//! The elements of a batch share a transaction of three trips: one holds the lanes and asks what took effect before,
//! then each element is decided upon here, in order, as if it were alone, and the other two store what is left. What
//! another replica does meanwhile either waits for the lanes, or shows as a row that cannot be inserted any more; then
//! the whole is begun anew, and decided upon what the other one left.

use std::collections::{BTreeMap, HashMap};

use keyturn_domain::ids::{LaneId, RequestId};
use keyturn_domain::lane::Lane;
use keyturn_ports::Kind;
use keyturn_ports::ledger::{Commit, Committed, History, Issued, NewEvent};
use keyturn_ports::queue::{NewMessage, QueueName};
use tokio_postgres::Row;

use super::lanes::{Columns, Known};
use super::read::Effects;
use super::{Mark, mark_of, read};
use crate::database::{Database, Param, Work};
use crate::epoch::{GENERATION, Generation};
use crate::failure::Failure;
use crate::queue::Batch;
use crate::rows;
use crate::schema::locks;
use crate::signals::Woken;

/// In one order everywhere, so that batches do not hold what the other one waits for.
const HOLD: &str = "SELECT lane, revision, generation, marks FROM lanes WHERE lane = ANY($1::bytea[]) ORDER BY lane FOR UPDATE";

const REMEMBER: &str = "INSERT INTO effects (nonce_ms, mark, request) \
 SELECT nonce_ms, mark, request FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS g (nonce_ms, mark, request) \
 ORDER BY nonce_ms, mark \
 ON CONFLICT DO NOTHING RETURNING 1";

const ISSUE: &str = "INSERT INTO issued (version, lane, vault_ref, minted_at) \
 SELECT version, lane, vault_ref, now_ms($1) \
 FROM unnest($2::bytea[], $3::bytea[], $4::text[]) AS g (version, lane, vault_ref)";

const LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

const NOTE: &str = "INSERT INTO events (event, at, device, request, what) \
 SELECT event, at, device, request, what \
 FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[], $5::text[]) \
     WITH ORDINALITY AS g (event, at, device, request, what, place) ORDER BY place";

/// Applies a batch. Returns what became of each element, and who is to be woken.
pub(super) async fn commit(
    database: &Database,
    commits: &[Commit],
) -> Result<(Vec<Committed>, Woken), Failure> {
    let lanes: Vec<Vec<u8>> = commits
        .iter()
        .filter_map(|one| one.lane.as_ref())
        .map(|stored| stored.value.key.id().as_bytes().to_vec())
        .collect();
    let marks: Vec<Vec<u8>> = commits.iter().map(|one| mark_of(&one.mark).to_vec()).collect();
    let nonces: Vec<i64> = commits.iter().map(|one| rows::to_column(one.nonce)).collect();
    let first: [(&'static str, &[Param<'_>]); 3] =
        [(HOLD, &[&lanes]), (read::EFFECTS, &[&nonces, &marks]), (GENERATION, &[])];
    let (work, found) = database.begin(database.effects(), &first).await?;
    match decide(&found, commits) {
        Err(failure) => Err(work.undo(failure).await),
        Ok((plan, committed)) => {
            let woken = plan.outbox_batch().woken();
            plan.store(database, work).await?;
            Ok((committed, woken))
        }
    }
}

fn decide<'a>(found: &[Vec<Row>], commits: &'a [Commit]) -> Result<(Plan<'a>, Vec<Committed>), Failure> {
    let [held, effects, generation] = found else {
        return Err(Failure::outrun());
    };
    let known = |row: &Row| Ok((rows::lane(row, 0)?, Known::of(row, [1, 2, 3])?));
    let mut plan = Plan {
        generation: Generation::of(generation)?,
        known: held.iter().map(known).collect::<Result<_, Failure>>()?,
        effects: read::took_effect(effects)?,
        new_effects: Vec::new(),
        lanes: BTreeMap::new(),
        opened: Vec::new(),
        issued: Vec::new(),
        events: Vec::new(),
        outbox: Vec::new(),
    };
    let committed = commits.iter().map(|one| plan.apply(one)).collect::<Result<_, _>>()?;
    Ok((plan, committed))
}

/// What a batch is to leave behind.
struct Plan<'a> {
    generation: Generation,
    /// What is known of each lane as it stands at this point of the batch.
    known: HashMap<LaneId, Known>,
    /// What took effect up to this point of the batch.
    effects: Effects,
    new_effects: Vec<(i64, Mark, RequestId)>,
    /// The last state of each lane.
    lanes: BTreeMap<LaneId, &'a Lane>,
    /// New lanes, in the order in which they are opened.
    opened: Vec<LaneId>,
    issued: Vec<(LaneId, &'a Issued)>,
    events: Vec<&'a NewEvent>,
    outbox: Vec<&'a (QueueName, NewMessage)>,
}

/// Whether a lane was decided on before the database was found to be restored: it takes itself for heard, and what it
/// heard is older.
fn is_outdated(lane: &Lane, known: &Known, generation: Generation) -> bool {
    let Some(restored) = generation.restored else { return false };
    let heard_since = lane.last.is_some_and(|last| last.received > restored);
    known.generation != generation.number && lane.restored != Some(restored) && !heard_since
}

impl<'a> Plan<'a> {
    /// One element. A mark that other bytes used is a conflict, not a repetition: the caller loads again and then
    /// sees [`History::MarkReused`].
    fn apply(&mut self, commit: &'a Commit) -> Result<Committed, Failure> {
        let (nonce, mark) = (rows::to_column(commit.nonce), mark_of(&commit.mark));
        let lane = commit.lane.as_ref().map(|stored| (stored.value.key.id(), stored));
        let mut known = lane.and_then(|(id, _)| self.known.get(&id)).cloned().unwrap_or_default();
        match read::history(self.effects.get(&(nonce, mark)), commit.request, known.used(mark)) {
            History::Done => return Ok(Committed::Duplicate),
            History::MarkReused => return Ok(Committed::Conflict),
            History::Unseen => {}
        }
        if let Some((id, stored)) = lane {
            if known.revision != stored.revision || is_outdated(&stored.value, &known, self.generation) {
                return Ok(Committed::Conflict);
            }
            if known.revision == 0 {
                self.opened.push(id);
            }
            self.lanes.insert(id, &stored.value);
            known.note(mark);
            known.advance(&stored.value, self.generation);
            self.known.insert(id, known);
        }
        for issued in &commit.issued {
            let homeless =
                || Failure::new(Kind::Denied, format!("version {} is issued to no lane", issued.version));
            self.issued.push((lane.ok_or_else(homeless)?.0, issued));
        }
        self.effects.insert((nonce, mark), commit.request);
        self.new_effects.push((nonce, mark, commit.request));
        self.events.extend(&commit.events);
        self.outbox.extend(&commit.outbox);
        Ok(Committed::Applied)
    }

    fn outbox_batch(&self) -> Batch {
        Batch::of(self.outbox.iter().map(|(queue, message)| (*queue, message)))
    }

    async fn store(&self, database: &Database, work: Work) -> Result<(), Failure> {
        if self.new_effects.is_empty() {
            return work.commit(&[]).await.map(drop);
        }
        match self.store_all_but_events(database, &work).await {
            Err(failure) => Err(work.undo(failure).await),
            Ok(()) => match self.event_columns() {
                Err(failure) => Err(work.undo(failure).await),
                // The lock is asked for and given back within one trip, so that nobody waits for our network.
                Ok(events) => {
                    work.commit(&[(LOCK, &[&locks::EVENTS]), (NOTE, &events.params())]).await.map(drop)
                }
            },
        }
    }

    async fn store_all_but_events(&self, database: &Database, work: &Work) -> Result<(), Failure> {
        let nonces: Vec<i64> = self.new_effects.iter().map(|(nonce, ..)| *nonce).collect();
        let marks: Vec<&[u8]> = self.new_effects.iter().map(|(_, mark, _)| mark.as_slice()).collect();
        let requests: Vec<&[u8]> =
            self.new_effects.iter().map(|(.., request)| request.as_bytes().as_slice()).collect();
        let (mut new, mut changed) = (Columns::default(), Columns::default());
        // By device, so that two batches seldom wait for what the other one opened; a device's lanes keep their order.
        let mut opened: Vec<_> = self.opened.iter().filter_map(|id| self.lanes.get_key_value(id)).collect();
        opened.sort_by_key(|(_, lane)| lane.key.device);
        let kept = self.lanes.iter().filter(|(id, _)| !self.opened.contains(id));
        let known = |id| self.known.get(id).ok_or_else(Failure::outrun);
        for (id, lane) in opened {
            new.push(lane, known(id)?)?;
        }
        for (id, lane) in kept {
            changed.push(lane, known(id)?)?;
        }
        let now = database.now_given();
        let versions: Vec<&[u8]> =
            self.issued.iter().map(|(_, one)| one.version.as_bytes().as_slice()).collect();
        let lanes: Vec<&[u8]> = self.issued.iter().map(|(lane, _)| lane.as_bytes().as_slice()).collect();
        let refs: Vec<&str> = self.issued.iter().map(|(_, one)| one.vault_ref.as_str()).collect();
        let issued: [Param<'_>; 4] = [&now, &versions, &lanes, &refs];
        let outbox = self.outbox_batch();
        let stored = work
            .run(&[
                (REMEMBER, &[&nonces, &marks, &requests]),
                (Columns::INSERT, &new.params()),
                (Columns::UPDATE, &changed.params()),
                (ISSUE, &issued),
                (Batch::SQL, &outbox.params(&now)),
            ])
            .await?;
        let counts: Vec<usize> = stored.iter().take(3).map(Vec::len).collect();
        match counts.as_slice() {
            [effects, inserted, _] if *effects != marks.len() || *inserted != new.len() => {
                Err(Failure::outrun())
            }
            // The rows were held, so nobody can have changed them.
            [.., updated] if *updated != changed.len() => {
                Err(Failure::corrupt("a lane", "its row has another device or key than its state"))
            }
            _ => Ok(()),
        }
    }

    fn event_columns(&self) -> Result<EventColumns<'a>, Failure> {
        let mut columns = EventColumns::default();
        for event in &self.events {
            let what =
                serde_json::to_string(&event.what).map_err(|error| Failure::corrupt("an event", error))?;
            columns.ids.push(event.id.as_bytes());
            columns.ats.push(rows::to_column(event.at));
            columns.devices.push(event.device.as_bytes());
            columns.requests.push(event.request.as_bytes());
            columns.whats.push(what);
        }
        Ok(columns)
    }
}

#[derive(Default)]
struct EventColumns<'a> {
    ids: Vec<&'a [u8]>,
    ats: Vec<i64>,
    devices: Vec<&'a [u8]>,
    requests: Vec<&'a [u8]>,
    whats: Vec<String>,
}

impl EventColumns<'_> {
    fn params(&self) -> [Param<'_>; 5] {
        [&self.ids, &self.ats, &self.devices, &self.requests, &self.whats]
    }
}
