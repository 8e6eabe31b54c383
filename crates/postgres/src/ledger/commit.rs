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
use keyturn_ports::ledger::{Commit, Committed, History, Issued, NewEvent, Stored};
use keyturn_ports::queue::{NewMessage, QueueName};
use tokio_postgres::Row;

use super::lanes::Columns;
use super::{mark_of, read};
use crate::database::{Database, Mode, Param, Work};
use crate::failure::Failure;
use crate::queue::Batch;
use crate::rows;
use crate::schema::locks;
use crate::signals::Woken;

/// In one order everywhere, so that batches do not hold what the other one waits for.
const HOLD: &str = "SELECT lane, revision FROM lanes WHERE lane = ANY($1::bytea[]) ORDER BY lane FOR UPDATE";

const REMEMBER: &str = "INSERT INTO effects (mark, request) \
 SELECT mark, request FROM unnest($1::bytea[], $2::bytea[]) AS g (mark, request) ORDER BY mark \
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
    let (work, found) =
        database.begin(Mode::Internal, &[(HOLD, &[&lanes]), (read::EFFECTS, &[&marks])]).await?;
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
    let [held, effects] = found else {
        return Err(Failure::outrun());
    };
    let revision = |row: &Row| Ok((rows::lane(row, 0)?, rows::number(row, 1)?));
    let mut plan = Plan {
        revisions: held.iter().map(revision).collect::<Result<_, Failure>>()?,
        effects: read::took_effect(effects)?,
        ..Plan::default()
    };
    let committed = commits.iter().map(|one| plan.apply(one)).collect::<Result<_, _>>()?;
    Ok((plan, committed))
}

/// What a batch is to leave behind.
#[derive(Default)]
struct Plan<'a> {
    /// The revision of each lane as it stands at this point of the batch.
    revisions: HashMap<LaneId, u64>,
    /// What took effect up to this point of the batch.
    effects: HashMap<[u8; 16], RequestId>,
    new_effects: Vec<([u8; 16], RequestId)>,
    /// The last state of each lane, and whether the lane is new.
    lanes: BTreeMap<LaneId, (bool, &'a Stored<Lane>)>,
    issued: Vec<(LaneId, &'a Issued)>,
    events: Vec<&'a NewEvent>,
    outbox: Vec<&'a (QueueName, NewMessage)>,
}

impl<'a> Plan<'a> {
    /// One element. A mark that other bytes used is a conflict, not a repetition: the caller loads again and then
    /// sees [`History::MarkReused`].
    fn apply(&mut self, commit: &'a Commit) -> Result<Committed, Failure> {
        let mark = mark_of(&commit.mark);
        match read::history(self.effects.get(&mark), commit.request) {
            History::Done => return Ok(Committed::Duplicate),
            History::MarkReused => return Ok(Committed::Conflict),
            History::Unseen => {}
        }
        let lane = commit.lane.as_ref().map(|stored| (stored.value.key.id(), stored));
        if let Some((id, stored)) = lane {
            let present = self.revisions.get(&id).copied().unwrap_or(0);
            if present != stored.revision {
                return Ok(Committed::Conflict);
            }
            self.revisions.insert(id, present.saturating_add(1));
            let new = self.lanes.get(&id).map_or(present == 0, |(new, _)| *new);
            self.lanes.insert(id, (new, stored));
        }
        if let Some(issued) = &commit.issued {
            let homeless =
                || Failure::new(Kind::Denied, format!("version {} is issued to no lane", issued.version));
            self.issued.push((lane.ok_or_else(homeless)?.0, issued));
        }
        self.effects.insert(mark, commit.request);
        self.new_effects.push((mark, commit.request));
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
        let (marks, requests): (Vec<&[u8]>, Vec<&[u8]>) = self
            .new_effects
            .iter()
            .map(|(mark, request)| (mark.as_slice(), request.as_bytes().as_slice()))
            .unzip();
        let (mut new, mut changed) = (Columns::default(), Columns::default());
        for (is_new, stored) in self.lanes.values() {
            let columns = if *is_new { &mut new } else { &mut changed };
            columns.push(&stored.value, stored.revision.saturating_add(1))?;
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
                (REMEMBER, &[&marks, &requests]),
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
