//! Jobs of forced rotations.
//!
//! Devices are asked in the order of their places, so the first one that was not asked is found by how many were.

use std::num::NonZeroU32;

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::Command;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::rotations::{Job, JobId, NewJob, Rotations, Step};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::change_lanes;
use crate::audit;
use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

macro_rules! jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, at, actor, reason, selection, per_minute, devices, asked, last FROM rotation_jobs ",
            $rest
        )
    };
}

#[async_trait]
impl Rotations for Database {
    async fn minted_since(&self, since: UnixMillis) -> Result<Vec<DeviceId>, Error> {
        self.read("looking for versions", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT DISTINCT lanes.device FROM issued JOIN lanes ON lanes.lane = issued.lane \
                 WHERE issued.minted_at >= ?1 ORDER BY lanes.device",
            )?;
            let found = statement.query_map([rows::to_column(since)], |row| rows::device(row, 0))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
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
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn devices_of(&self, id: JobId) -> Result<Vec<(DeviceId, Option<UnixMillis>)>, Error> {
        self.read("listing the devices of a job", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT device, asked_at FROM rotation_job_devices WHERE job = ?1 ORDER BY place",
            )?;
            let read = |row: &Row<'_>| Ok((rows::device(row, 0)?, optional_time(row, 1)?));
            let found = statement.query_map([number(id)], read)?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn step(&self, id: JobId, at: UnixMillis, actor: &str) -> Result<Step, Error> {
        let actor = actor.to_owned();
        let step = move |batch: &mut Batch<'_>| step(batch, id, at, &actor);
        self.write("asking a device for a rotation", Durability::Told, step).await
    }
}

fn begin(batch: &Batch<'_>, job: &NewJob) -> Result<JobId, Failure> {
    let NewJob { row, selection, per_minute, devices } = job;
    batch.execute(
        "INSERT INTO rotation_jobs (at, actor, reason, selection, per_minute, devices, asked) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
        (
            rows::to_column(row.at),
            &row.actor,
            &row.reason,
            selection,
            per_minute.map(NonZeroU32::get),
            rows::count(devices.len()),
        ),
    )?;
    let id = batch.last_id();
    for (place, device) in devices.iter().enumerate() {
        batch.execute(
            "INSERT INTO rotation_job_devices (job, place, device) VALUES (?1, ?2, ?3)",
            (id, rows::count(place), device.as_bytes()),
        )?;
    }
    audit::append(batch, &NewRow { detail: format!("job {id}: {}", row.detail), ..row.clone() })?;
    Ok(JobId(u64::try_from(id).unwrap_or_default()))
}

fn step(batch: &mut Batch<'_>, id: JobId, at: UnixMillis, actor: &str) -> Result<Step, Failure> {
    let Some(job) = one(batch.connection(), id)?.filter(|job| !job.is_finished()) else {
        return Ok(Step::Finished);
    };
    if let Some(ready) = job.not_before().filter(|ready| at < *ready) {
        return Ok(Step::NotBefore(ready));
    }
    let place = i64::try_from(job.asked).unwrap_or(i64::MAX);
    let device = batch
        .prepare("SELECT device FROM rotation_job_devices WHERE job = ?1 AND place = ?2")?
        .query_row((number(id), place), |row| rows::device(row, 0))?;
    let row = NewRow {
        at,
        actor: actor.to_owned(),
        action: Action::RotationForced,
        device: Some(device),
        reason: job.reason,
        detail: format!("job {}", id.0),
    };
    audit::append(batch, &row)?;
    let open = change_lanes(batch, device, Command::Force { at })?;
    batch.execute(
        "UPDATE rotation_job_devices SET asked_at = ?3 WHERE job = ?1 AND place = ?2",
        (number(id), place, rows::to_column(at)),
    )?;
    batch.execute(
        "UPDATE rotation_jobs SET asked = asked + 1, last = ?2 WHERE id = ?1",
        (number(id), rows::to_column(at)),
    )?;
    Ok(Step::Asked { device, lanes: open })
}

fn one(connection: &Connection, id: JobId) -> Result<Option<Job>, Failure> {
    Ok(connection.prepare_cached(jobs!("WHERE id = ?1"))?.query_row([number(id)], stored).optional()?)
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: JobId(rows::number(row, 0)?),
        at: rows::time(row, 1)?,
        actor: row.get(2)?,
        reason: row.get(3)?,
        selection: row.get(4)?,
        per_minute: row.get::<_, Option<u32>>(5)?.and_then(NonZeroU32::new),
        devices: rows::number(row, 6)?,
        asked: rows::number(row, 7)?,
        last: optional_time(row, 8)?,
    })
}

fn optional_time(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<UnixMillis>> {
    let stored: Option<i64> = row.get(at)?;
    stored.is_some().then(|| rows::time(row, at)).transpose()
}

fn number(id: JobId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}
