//! Jobs of forced rotations.
//!
//! Devices are asked in the order of their places, so the first one that was not asked is found by how many were.
//! Whoever steps holds the job's row, so several who step one job take turns.

use std::num::NonZeroU32;

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::Command;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::rotations::{Job, JobId, NewJob, Rotations, Step};
use tokio_postgres::Row;

use super::lanes;
use crate::audit;
use crate::database::{Database, Mode, Param, Work};
use crate::failure::Failure;
use crate::rows;

macro_rules! jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, at, actor, reason, selection, per_minute, devices, asked, last FROM rotation_jobs ",
            $rest
        )
    };
}

const BEGIN: &str = "INSERT INTO rotation_jobs (at, actor, reason, selection, per_minute, devices, asked) \
 VALUES ($1, $2, $3, $4, $5, $6, 0) RETURNING id";

const LIST: &str = "INSERT INTO rotation_job_devices (job, place, device) \
 SELECT $1, place - 1, device FROM unnest($2::bytea[]) WITH ORDINALITY AS g (device, place)";

const NEXT: &str = "SELECT device FROM rotation_job_devices WHERE job = $1 AND place = $2";

const ASKED: &str = "UPDATE rotation_job_devices SET asked_at = $3 WHERE job = $1 AND place = $2";

const COUNT: &str = "UPDATE rotation_jobs SET asked = asked + 1, last = $2 WHERE id = $1";

#[async_trait]
impl Rotations for Database {
    async fn minted_since(&self, since: UnixMillis) -> Result<Vec<DeviceId>, Error> {
        let sql = "SELECT DISTINCT l.device FROM issued AS i JOIN lanes AS l ON l.lane = i.lane \
                   WHERE i.minted_at >= $1 ORDER BY l.device";
        self.retrying("looking for versions", async || {
            let found = self.read(sql, &[&rows::to_column(since)]).await?;
            found.iter().map(|row| rows::device(row, 0)).collect()
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

    async fn devices_of(&self, id: JobId) -> Result<Vec<(DeviceId, Option<UnixMillis>)>, Error> {
        let sql = "SELECT device, asked_at FROM rotation_job_devices WHERE job = $1 ORDER BY place";
        self.retrying("listing the devices of a job", async || {
            let found = self.read(sql, &[&number(id)]).await?;
            found.iter().map(|row| Ok((rows::device(row, 0)?, rows::optional_time(row, 1)?))).collect()
        })
        .await
    }

    async fn step(&self, id: JobId, at: UnixMillis, actor: &str) -> Result<Step, Error> {
        self.retrying("asking a device for a rotation", async || {
            let held = jobs!("WHERE id = $1 FOR UPDATE");
            let (work, found) = self.begin(Mode::Told, &[(held, &[&number(id)])]).await?;
            let job = found.first().and_then(|rows| rows.first()).map(stored).transpose();
            match step(&work, job, at, actor).await {
                Ok(step) => work.commit(&[]).await.map(|_| step),
                Err(failure) => Err(work.undo(failure).await),
            }
        })
        .await
    }
}

async fn begin(database: &Database, job: &NewJob) -> Result<JobId, Failure> {
    let NewJob { row, selection, per_minute, devices } = job;
    let per_minute = per_minute.map(|per_minute| i64::from(per_minute.get()));
    let params: [Param<'_>; 6] = [
        &rows::to_column(row.at),
        &rows::text(&row.actor),
        &rows::text(&row.reason),
        &rows::text(selection),
        &per_minute,
        &rows::count(devices.len()),
    ];
    let (work, found) = database.begin(Mode::Told, &[(BEGIN, &params)]).await?;
    let done = async {
        let id: i64 = found
            .iter()
            .flatten()
            .next()
            .map_or_else(|| Err(Failure::outrun()), |row| rows::column(row, 0))?;
        let devices: Vec<&[u8]> = devices.iter().map(|device| device.as_bytes().as_slice()).collect();
        work.run(&[(LIST, &[&id, &devices])]).await?;
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
    at: UnixMillis,
    actor: &str,
) -> Result<Step, Failure> {
    let Some(job) = job?.filter(|job| !job.is_finished()) else {
        return Ok(Step::Finished);
    };
    if let Some(ready) = job.not_before().filter(|ready| at < *ready) {
        return Ok(Step::NotBefore(ready));
    }
    let (id, place, when) = (number(job.id), rows::place(job.asked), rows::to_column(at));
    let next = work.run(&[(NEXT, &[&id, &place])]).await?;
    let next = next.iter().flatten().next();
    let missing = || Failure::corrupt(format!("job {id}"), "it lists fewer devices than it has");
    let device = rows::device(next.ok_or_else(missing)?, 0)?;
    // The lanes come before the audit, whose lock everybody waits for.
    let open = lanes::change_within(work, device, Command::Force { at }).await?;
    work.run(&[(ASKED, &[&id, &place, &when]), (COUNT, &[&id, &when])]).await?;
    let row = NewRow {
        at,
        actor: actor.to_owned(),
        action: Action::RotationForced,
        device: Some(device),
        reason: job.reason,
        detail: format!("job {id}"),
    };
    audit::append_within(work.session()?, &row).await?;
    Ok(Step::Asked { device, lanes: open })
}

fn stored(row: &Row) -> Result<Job, Failure> {
    let per_minute: Option<i64> = rows::column(row, 5)?;
    Ok(Job {
        id: JobId(rows::number(row, 0)?),
        at: rows::time(row, 1)?,
        actor: rows::column(row, 2)?,
        reason: rows::column(row, 3)?,
        selection: rows::column(row, 4)?,
        per_minute: per_minute.and_then(|stored| NonZeroU32::new(u32::try_from(stored).ok()?)),
        devices: rows::number(row, 6)?,
        asked: rows::number(row, 7)?,
        last: rows::optional_time(row, 8)?,
    })
}

fn number(id: JobId) -> i64 {
    rows::place(id.0)
}
