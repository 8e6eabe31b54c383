//! Applying the effect of a message, whole or not at all.

use keyturn_domain::ids::{LaneId, RequestId};
use keyturn_ports::ledger::{Commit, Committed, Issued, NewEvent};
use keyturn_ports::{Kind, ledger::History};
use rusqlite::OptionalExtension as _;

use super::{lanes, mark_of};
use crate::batch::Batch;
use crate::failure::Failure;
use crate::queue::enqueue;
use crate::rows;

/// Applies one element. Everything that can stop it is looked at before anything is written, because the
/// elements of a batch share a transaction. A mark that other bytes used is a conflict, not a repetition: the
/// caller loads again and then sees [`History::MarkReused`].
pub(super) fn apply(batch: &mut Batch<'_>, commit: &Commit) -> Result<Committed, Failure> {
    match history(batch.connection(), mark_of(&commit.mark), commit.request)? {
        History::Done => return Ok(Committed::Duplicate),
        History::MarkReused => return Ok(Committed::Conflict),
        History::Unseen => {}
    }
    let lane = commit.lane.as_ref().map(|stored| (stored.value.key.id(), stored));
    if let Some((id, stored)) = lane {
        if lanes::revision(batch, id)? != stored.revision {
            return Ok(Committed::Conflict);
        }
        lanes::replace(batch, stored)?;
    }
    if let Some(issued) = &commit.issued {
        issue(batch, lane.map(|(id, _)| id), issued)?;
    }
    remember(batch, commit)?;
    for event in &commit.events {
        note(batch, event)?;
    }
    for (queue, message) in &commit.outbox {
        enqueue(batch, *queue, message)?;
    }
    Ok(Committed::Applied)
}

/// What happened before to the message, or to another with its mark.
pub(super) fn history(
    connection: &rusqlite::Connection,
    mark: [u8; 16],
    request: RequestId,
) -> Result<History, Failure> {
    let found = connection
        .prepare_cached("SELECT request FROM effects WHERE mark = ?1")?
        .query_row([mark], |row| rows::request(row, 0))
        .optional()?;
    Ok(match found {
        None => History::Unseen,
        Some(done) if done == request => History::Done,
        Some(_) => History::MarkReused,
    })
}

fn remember(batch: &Batch<'_>, commit: &Commit) -> Result<(), Failure> {
    batch.execute(
        "INSERT INTO effects (mark, request) VALUES (?1, ?2)",
        (mark_of(&commit.mark), commit.request.as_bytes()),
    )?;
    Ok(())
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

fn note(batch: &Batch<'_>, event: &NewEvent) -> Result<(), Failure> {
    let what = serde_json::to_string(&event.what).map_err(|error| Failure::corrupt("an event", error))?;
    batch.execute(
        "INSERT INTO events (event, at, device, request, what) VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            event.id.as_bytes(),
            rows::to_column(event.at),
            event.device.as_bytes(),
            event.request.as_bytes(),
            what,
        ),
    )?;
    Ok(())
}
