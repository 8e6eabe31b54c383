//! Jobs on dead letters.

use std::num::NonZeroU32;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::dead_letters::jobs::{Act, Job, JobId, Jobs, Move, NewJob, Step};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{column, remove, replay_one, since};
use crate::audit;
use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

macro_rules! jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, at, actor, act, reason, selection, per_minute, letters, done, moved, last ",
            "FROM letter_jobs ",
            $rest
        )
    };
}

#[async_trait]
impl Jobs for Database {
    async fn before(&self, id: Option<DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        self.read("listing dead letters", move |connection| since(connection, id, limit)).await
    }

    async fn begin(&self, job: NewJob) -> Result<JobId, Error> {
        let begin = move |batch: &mut Batch<'_>| begin(batch, &job);
        self.write("beginning a job", Durability::Told, begin).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, Error> {
        self.read("reading a job", move |connection| one(connection, id)).await
    }

    async fn jobs(&self, limit: usize) -> Result<Vec<Job>, Error> {
        self.read("listing jobs", move |connection| {
            let mut statement = connection.prepare_cached(jobs!("ORDER BY id DESC LIMIT ?1"))?;
            let found = statement.query_map([rows::count(limit)], stored)?;
            found.map(|row| job(row?)).collect()
        })
        .await
    }

    async fn pending(&self, id: JobId, limit: usize) -> Result<Vec<DeadLetterId>, Error> {
        self.read("listing the letters of a job", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT letter FROM letter_job_letters WHERE job = ?1 ORDER BY letter LIMIT ?2",
            )?;
            let read = |row: &Row<'_>| Ok(DeadLetterId(rows::number(row, 0)?));
            let found = statement.query_map((number(id), rows::count(limit)), read)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn step(
        &self,
        id: JobId,
        at: UnixMillis,
        actor: &str,
        moves: Vec<(DeadLetterId, Move)>,
    ) -> Result<Step, Error> {
        let actor = actor.to_owned();
        let step = move |batch: &mut Batch<'_>| step(batch, id, at, &actor, &moves);
        self.write("moving dead letters", Durability::Told, step).await
    }
}

fn begin(batch: &Batch<'_>, job: &NewJob) -> Result<JobId, Failure> {
    let NewJob { row, act, selection, per_minute, letters } = job;
    batch.execute(
        "INSERT INTO letter_jobs (at, actor, act, reason, selection, per_minute, letters, done, moved) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 0)",
        (
            rows::to_column(row.at),
            &row.actor,
            act.as_str(),
            &row.reason,
            selection,
            per_minute.map(NonZeroU32::get),
        ),
    )?;
    let id = batch.last_id();
    for letter in letters {
        batch.execute(
            "INSERT OR IGNORE INTO letter_job_letters (job, letter) VALUES (?1, ?2)",
            (id, column(*letter)),
        )?;
    }
    batch.execute(
        "UPDATE letter_jobs SET letters = (SELECT count(*) FROM letter_job_letters WHERE job = ?1) WHERE id = ?1",
        [id],
    )?;
    audit::append(batch, &NewRow { detail: format!("job {id}: {}", row.detail), ..row.clone() })?;
    Ok(JobId(u64::try_from(id).unwrap_or_default()))
}

fn step(
    batch: &mut Batch<'_>,
    id: JobId,
    at: UnixMillis,
    actor: &str,
    moves: &[(DeadLetterId, Move)],
) -> Result<Step, Failure> {
    let Some(job) = one(batch.connection(), id)?.filter(|job| !job.is_finished()) else {
        return Ok(Step::Finished);
    };
    if let Some(ready) = job.not_before().filter(|ready| at < *ready) {
        return Ok(Step::NotBefore(ready));
    }
    let most = if job.per_minute.is_some() { 1 } else { u64::MAX };
    let (mut done, mut moved) = (0_u64, 0_u64);
    for (letter, to) in moves {
        if done >= most {
            break;
        }
        let taken = batch.execute(
            "DELETE FROM letter_job_letters WHERE job = ?1 AND letter = ?2",
            (number(id), column(*letter)),
        )?;
        if taken > 0 {
            done += 1;
            moved += u64::from(settle(batch, &job, *letter, to, at, actor)?);
        }
    }
    batch.execute(
        "UPDATE letter_jobs SET done = done + ?2, moved = moved + ?3, last = ?4 WHERE id = ?1",
        (number(id), signed(done), signed(moved), rows::to_column(at)),
    )?;
    Ok(Step::Done(done))
}

/// Moves one letter or takes it away, with its audit row. Returns whether it was there and is not any more.
fn settle(
    batch: &mut Batch<'_>,
    job: &Job,
    letter: DeadLetterId,
    to: &Move,
    at: UnixMillis,
    actor: &str,
) -> Result<bool, Failure> {
    let gone = match (job.act, to) {
        (Act::Replay, Move::To(queue, body)) => replay_one(batch, letter, *queue, body)?,
        (Act::Discard, Move::Away) => remove(batch, letter)?,
        _ => None,
    };
    let Some((queue, request, device)) = gone else { return Ok(false) };
    let action = match job.act {
        Act::Replay => Action::DeadLettersReplayed,
        Act::Discard => Action::DeadLettersDiscarded,
    };
    let row = NewRow {
        at,
        actor: actor.to_owned(),
        action,
        device: Some(device),
        reason: job.reason.clone(),
        detail: format!("job {}: dead letter {} of {queue}, message {request}", job.id.0, letter.0),
    };
    audit::append(batch, &row)?;
    Ok(true)
}

fn one(connection: &Connection, id: JobId) -> Result<Option<Job>, Failure> {
    let found =
        connection.prepare_cached(jobs!("WHERE id = ?1"))?.query_row([number(id)], stored).optional()?;
    found.map(job).transpose()
}

/// A job as its row has it: one column is yet to be understood.
fn stored(row: &Row<'_>) -> rusqlite::Result<(Job, String)> {
    let last: Option<i64> = row.get(10)?;
    let job = Job {
        id: JobId(rows::number(row, 0)?),
        at: rows::time(row, 1)?,
        actor: row.get(2)?,
        act: Act::Replay,
        reason: row.get(4)?,
        selection: row.get(5)?,
        per_minute: row.get::<_, Option<u32>>(6)?.and_then(NonZeroU32::new),
        letters: rows::number(row, 7)?,
        done: rows::number(row, 8)?,
        moved: rows::number(row, 9)?,
        last: last.is_some().then(|| rows::time(row, 10)).transpose()?,
    };
    Ok((job, row.get(3)?))
}

fn job((job, act): (Job, String)) -> Result<Job, Failure> {
    let known = [Act::Replay, Act::Discard].into_iter().find(|known| known.as_str() == act);
    let unknown = || Failure::corrupt(format!("job {}", job.id.0), format!("unknown act «{act}»"));
    Ok(Job { act: known.ok_or_else(unknown)?, ..job })
}

fn number(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
