//! Jobs on dead letters. Whoever steps holds the job's row, so several who step one job take turns.

use std::num::NonZeroU32;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::dead_letters::jobs::{Act, Job, JobId, Jobs, Move, NewJob, Step};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use tokio_postgres::Row;

use super::{REPLAY, letter};
use crate::audit;
use crate::database::{Database, Mode, Param, Work};
use crate::failure::Failure;
use crate::rows;
use crate::signals::Woken;

macro_rules! jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, at, actor, act, reason, selection, per_minute, letters, done, moved, last ",
            "FROM letter_jobs ",
            $rest
        )
    };
}

const BEGIN: &str = "INSERT INTO letter_jobs (at, actor, act, reason, selection, per_minute, letters, done, moved) \
 SELECT $1, $2, $3, $4, $5, $6, count(DISTINCT letter), 0, 0 FROM unnest($7::bigint[]) AS g (letter) RETURNING id";

const LIST: &str = "INSERT INTO letter_job_letters (job, letter) \
 SELECT DISTINCT $1::bigint, letter FROM unnest($2::bigint[]) AS g (letter)";

const TAKE: &str = "DELETE FROM letter_job_letters WHERE job = $1 AND letter = $2 RETURNING letter";

const DISCARD: &str = "WITH gone AS (DELETE FROM dead_letters WHERE id = $1 RETURNING id, queue, request, device), \
 counted AS ( \
     UPDATE queue_counters AS c SET dead = c.dead - 1 FROM gone \
     WHERE c.slot = pg_backend_pid() % 64 AND c.queue = gone.queue) \
 SELECT id, queue, request, device FROM gone";

const COUNT: &str = "UPDATE letter_jobs SET done = done + $2, moved = moved + $3, last = $4 WHERE id = $1";

#[async_trait]
impl Jobs for Database {
    async fn before(&self, id: Option<DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let (before, limit) = (id.map_or(i64::MAX, |id| rows::place(id.0)), rows::count(limit));
        self.retrying("listing dead letters", async || {
            let sql = "SELECT id, queue, request, device, body, reason, attempts::text, deliveries, enqueued_at, \
                       died_at FROM dead_letters WHERE id < $1 ORDER BY id DESC LIMIT $2";
            self.read(sql, &[&before, &limit]).await?.iter().map(letter).collect()
        })
        .await
    }

    async fn begin(&self, job: NewJob) -> Result<JobId, Error> {
        self.retrying("beginning a job", async || begin(self, &job).await).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, Error> {
        self.retrying("reading a job", async || {
            self.read(jobs!("WHERE id = $1"), &[&number(id)]).await?.first().map(stored).transpose()
        })
        .await
    }

    async fn jobs(&self, limit: usize) -> Result<Vec<Job>, Error> {
        self.retrying("listing jobs", async || {
            let found = self.read(jobs!("ORDER BY id DESC LIMIT $1"), &[&rows::count(limit)]).await?;
            found.iter().map(stored).collect()
        })
        .await
    }

    async fn pending(&self, id: JobId, limit: usize) -> Result<Vec<DeadLetterId>, Error> {
        let sql = "SELECT letter FROM letter_job_letters WHERE job = $1 ORDER BY letter LIMIT $2";
        self.retrying("listing the letters of a job", async || {
            let found = self.read(sql, &[&number(id), &rows::count(limit)]).await?;
            found.iter().map(|row| rows::number(row, 0).map(DeadLetterId)).collect()
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
        let woken = moves.iter().fold(Woken::NOBODY, |all, (_, to)| match to {
            Move::To(queue, _) => all.and(Woken::queue(*queue)),
            Move::Away | Move::Stay => all,
        });
        let now = self.now_given();
        let step = self.retrying("moving dead letters", async || {
            let held = jobs!("WHERE id = $1 FOR UPDATE");
            let (work, found) = self.begin(Mode::Told, &[(held, &[&number(id)])]).await?;
            let job = found.first().and_then(|rows| rows.first()).map(stored).transpose();
            match step(&work, job, now, at, actor, &moves).await {
                Ok(step) => work.commit(&[]).await.map(|_| step),
                Err(failure) => Err(work.undo(failure).await),
            }
        });
        let step = step.await?;
        self.signals().committed(woken);
        Ok(step)
    }
}

async fn begin(database: &Database, job: &NewJob) -> Result<JobId, Failure> {
    let NewJob { row, act, selection, per_minute, letters } = job;
    let per_minute = per_minute.map(|per_minute| i64::from(per_minute.get()));
    let letters: Vec<i64> = letters.iter().map(|letter| rows::place(letter.0)).collect();
    let params: [Param<'_>; 7] = [
        &rows::to_column(row.at),
        &rows::text(&row.actor),
        &act.as_str(),
        &rows::text(&row.reason),
        &rows::text(selection),
        &per_minute,
        &letters,
    ];
    let (work, found) = database.begin(Mode::Told, &[(BEGIN, &params)]).await?;
    let done = async {
        let first = found.iter().flatten().next();
        let id: i64 = first.map_or_else(|| Err(Failure::outrun()), |row| rows::column(row, 0))?;
        work.run(&[(LIST, &[&id, &letters])]).await?;
        let row = NewRow { detail: format!("job {id}: {}", row.detail), ..row.clone() };
        audit::append_within(work.session()?, &row).await?;
        Ok(JobId(id.cast_unsigned()))
    };
    match done.await {
        Ok(id) => work.commit(&[]).await.map(|_| id),
        Err(failure) => Err(work.undo(failure).await),
    }
}

async fn step(
    work: &Work,
    job: Result<Option<Job>, Failure>,
    now: Option<i64>,
    at: UnixMillis,
    actor: &str,
    moves: &[(DeadLetterId, Move)],
) -> Result<Step, Failure> {
    let Some(job) = job?.filter(|job| !job.is_finished()) else {
        return Ok(Step::Finished);
    };
    if let Some(ready) = job.not_before().filter(|ready| at < *ready) {
        return Ok(Step::NotBefore(ready));
    }
    let most = if job.per_minute.is_some() { 1 } else { u64::MAX };
    let (mut done, mut audited) = (0_u64, Vec::new());
    for (letter, to) in moves {
        if done >= most {
            break;
        }
        let taken = work.run(&[(TAKE, &[&number(job.id), &rows::place(letter.0)])]).await?;
        if taken.iter().flatten().next().is_some() {
            done += 1;
            audited.extend(settle(work, &job, *letter, to, now, at, actor).await?);
        }
    }
    let moved = rows::count(audited.len());
    work.run(&[(COUNT, &[&number(job.id), &rows::place(done), &moved, &rows::to_column(at)])]).await?;
    // The audit comes last: everybody waits for its lock.
    for row in audited {
        audit::append_within(work.session()?, &row).await?;
    }
    Ok(Step::Done(done))
}

/// Moves one letter or takes it away. Returns the audit row of that, or none if it is not there or stays.
async fn settle(
    work: &Work,
    job: &Job,
    letter: DeadLetterId,
    to: &Move,
    now: Option<i64>,
    at: UnixMillis,
    actor: &str,
) -> Result<Option<NewRow>, Failure> {
    let id = rows::place(letter.0);
    let gone = match (job.act, to) {
        (Act::Replay, Move::To(queue, body)) => {
            let (ids, onto, bodies) = (vec![id], vec![rows::queue_code(*queue)], vec![body.as_bytes()]);
            work.run(&[(REPLAY, &[&now, &ids, &onto, &bodies])]).await?
        }
        (Act::Discard, Move::Away) => work.run(&[(DISCARD, &[&id])]).await?,
        _ => return Ok(None),
    };
    let Some(row) = gone.iter().flatten().next() else { return Ok(None) };
    let (queue, request, device) = (rows::queue(row, 1)?, rows::request(row, 2)?, rows::device(row, 3)?);
    let action = match job.act {
        Act::Replay => Action::DeadLettersReplayed,
        Act::Discard => Action::DeadLettersDiscarded,
    };
    Ok(Some(NewRow {
        at,
        actor: actor.to_owned(),
        action,
        device: Some(device),
        reason: job.reason.clone(),
        detail: format!("job {}: dead letter {} of {queue}, message {request}", job.id.0, letter.0),
    }))
}

fn stored(row: &Row) -> Result<Job, Failure> {
    let id = JobId(rows::number(row, 0)?);
    let act: &str = rows::column(row, 3)?;
    let known = [Act::Replay, Act::Discard].into_iter().find(|known| known.as_str() == act);
    let unknown = || Failure::corrupt(format!("job {}", id.0), format!("unknown act «{act}»"));
    let per_minute: Option<i64> = rows::column(row, 6)?;
    Ok(Job {
        id,
        at: rows::time(row, 1)?,
        actor: rows::column(row, 2)?,
        act: known.ok_or_else(unknown)?,
        reason: rows::column(row, 4)?,
        selection: rows::column(row, 5)?,
        per_minute: per_minute.and_then(|stored| NonZeroU32::new(u32::try_from(stored).ok()?)),
        letters: rows::number(row, 7)?,
        done: rows::number(row, 8)?,
        moved: rows::number(row, 9)?,
        last: rows::optional_time(row, 10)?,
    })
}

fn number(id: JobId) -> i64 {
    rows::place(id.0)
}
