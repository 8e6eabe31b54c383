//! Applying the effect of a message, whole or not at all.

use keyturn_domain::ids::{LaneId, RequestId};
use keyturn_domain::lane::Lane;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::{Commit, Committed, Issued, NewEvent};
use keyturn_ports::{Kind, ledger::History};
use rusqlite::OptionalExtension as _;

use super::lanes::{self, Known};
use super::{Mark, mark_of};
use crate::batch::Batch;
use crate::epoch::Generation;
use crate::failure::Failure;
use crate::queue::enqueue;
use crate::rows;

/// Applies one element. Everything that can stop it is looked at before anything is written, because the
/// elements of a batch share a transaction. A mark that other bytes used is a conflict, not a repetition: the
/// caller loads again and then sees [`History::MarkReused`].
pub(super) fn apply(batch: &mut Batch<'_>, commit: &Commit) -> Result<Committed, Failure> {
    let (connection, mark) = (batch.connection(), mark_of(&commit.mark));
    let lane = commit.lane.as_ref().map(|stored| (&stored.value, stored.revision));
    let mut known = match lane {
        Some((lane, _)) => lanes::known(connection, lane.key.device, lane.key.id())?,
        None => Known::default(),
    };
    match history(connection, commit.nonce, mark, commit.request, &known)? {
        History::Done => return Ok(Committed::Duplicate),
        History::MarkReused => return Ok(Committed::Conflict),
        History::Unseen => {}
    }
    let generation = Generation::now(connection)?;
    if let Some((lane, revision)) = lane
        && (known.revision != revision || is_outdated(lane, &known, generation))
    {
        return Ok(Committed::Conflict);
    }
    for issued in &commit.issued {
        issue(batch, lane.map(|(lane, _)| lane.key.id()), issued)?;
    }
    batch.execute(
        "INSERT INTO effects (nonce_ms, mark, request) VALUES (?1, ?2, ?3)",
        (rows::to_column(commit.nonce), mark, commit.request.as_bytes()),
    )?;
    for event in &commit.events {
        note(batch, event, lane.is_some(), &mut known)?;
    }
    if let Some((lane, _)) = lane {
        known.note(mark);
        lanes::replace(batch, lane, &known, generation)?;
    }
    for (queue, message) in &commit.outbox {
        enqueue(batch, *queue, message)?;
    }
    Ok(Committed::Applied)
}

/// Whether a lane was decided on before the file was found to be restored: it takes itself for heard, and what it
/// heard is older.
fn is_outdated(lane: &Lane, known: &Known, generation: Generation) -> bool {
    let Some(restored) = generation.restored else { return false };
    let heard_since = lane.last.is_some_and(|last| last.received > restored);
    known.generation != generation.number && lane.restored != Some(restored) && !heard_since
}

/// What happened before to the message, or to another with its mark.
pub(super) fn history(
    connection: &rusqlite::Connection,
    nonce: UnixMillis,
    mark: Mark,
    request: RequestId,
    lane: &Known,
) -> Result<History, Failure> {
    let found = connection
        .prepare_cached("SELECT request FROM effects WHERE nonce_ms = ?1 AND mark = ?2")?
        .query_row((rows::to_column(nonce), mark), |row| rows::request(row, 0))
        .optional()?;
    Ok(match found {
        Some(done) if done == request => History::Done,
        Some(_) => History::MarkReused,
        None if lane.used(mark) => History::MarkReused,
        None => History::Unseen,
    })
}

fn issue(batch: &Batch<'_>, lane: Option<LaneId>, issued: &Issued) -> Result<(), Failure> {
    let homeless = || Failure::new(Kind::Denied, format!("version {} is issued to no lane", issued.version));
    batch.execute(
        "INSERT INTO issued (version, lane, vault_ref, minted_at) VALUES (?1, ?2, ?3, ?4)",
        (
            issued.version.as_bytes(),
            lane.ok_or_else(homeless)?.as_bytes(),
            &issued.vault_ref,
            rows::to_column(batch.now),
        ),
    )?;
    Ok(())
}

/// Notes a fact, at the head of its lane's chain if it has a lane.
fn note(batch: &Batch<'_>, event: &NewEvent, chained: bool, lane: &mut Known) -> Result<(), Failure> {
    let what = serde_json::to_string(&event.what).map_err(|error| Failure::corrupt("an event", error))?;
    batch.execute(
        "INSERT INTO events (event, at, device, request, what, chained, previous) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            event.id.as_bytes(),
            rows::to_column(event.at),
            event.device.as_bytes(),
            event.request.as_bytes(),
            what,
            chained,
            lane.event.filter(|_| chained),
        ),
    )?;
    if chained {
        lane.event = Some(batch.last_id());
    }
    Ok(())
}
