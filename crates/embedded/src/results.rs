//! Results that agents poll.

use async_trait::async_trait;
use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::results::{NewResult, Published, ResultBody, ResultReader, ResultWriter};
use rusqlite::OptionalExtension as _;

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::lookups::look_up;
use crate::rows;
use crate::writer::Durability;

#[async_trait]
impl ResultReader for Database {
    async fn result(&self, request: RequestId) -> Result<Option<ResultBody>, Error> {
        look_up(self, request).await
    }

    async fn publication(&self, request: RequestId) {
        let interest = self.signals().await_result(request);
        let mut rung = std::pin::pin!(interest.bell().notified());
        rung.as_mut().enable();
        let _watched = self.watcher().wait();
        rung.await;
    }
}

#[async_trait]
impl ResultWriter for Database {
    async fn publish(&self, results: Vec<NewResult>) -> Result<Vec<Published>, Error> {
        let carrying = results.iter().any(|result| result.carries.is_some());
        let durability = if carrying { Durability::Told } else { self.effects() };
        let messages = results.len();
        let publish =
            move |batch: &mut Batch<'_>| results.iter().map(|result| publish_one(batch, result)).collect();
        self.write_few(messages, "publishing results", durability, publish).await
    }
}

fn publish_one(batch: &mut Batch<'_>, result: &NewResult) -> Result<Published, Failure> {
    if stands(batch, result.request)? {
        return Ok(Published::Existing);
    }
    if let Some((lane, version)) = result.carries
        && outstanding(batch, lane)? != Some(version)
    {
        return Ok(Published::Superseded);
    }
    let body = match &result.body {
        ResultBody::Signed(body) => Some(body),
        ResultBody::Refused => None,
    };
    batch.execute(
        "INSERT INTO results (request, body, expires_at) VALUES (?1, ?2, ?3)",
        (result.request.as_bytes(), body, rows::to_column(result.expires)),
    )?;
    batch.woken.result(result.request);
    Ok(Published::Stored)
}

/// Whether there is a result for this message; one that has expired makes room.
fn stands(batch: &Batch<'_>, request: RequestId) -> Result<bool, Failure> {
    let found: Option<UnixMillis> = batch
        .prepare("SELECT expires_at FROM results WHERE request = ?1")?
        .query_row([request.as_bytes()], |row| rows::time(row, 0))
        .optional()?;
    if found.is_some_and(|expires| expires <= batch.now) {
        batch.execute("DELETE FROM results WHERE request = ?1", [request.as_bytes()])?;
        return Ok(false);
    }
    Ok(found.is_some())
}

fn outstanding(batch: &Batch<'_>, lane: LaneId) -> Result<Option<VersionId>, Failure> {
    let found = batch
        .prepare("SELECT outstanding FROM lanes WHERE lane = ?1 AND outstanding IS NOT NULL")?
        .query_row([lane.as_bytes()], |row| rows::version(row, 0))
        .optional()?;
    Ok(found)
}
