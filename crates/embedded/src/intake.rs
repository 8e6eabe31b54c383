//! The intake: memory and queue are in one file, so one transaction does both.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::RequestId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::intake::{Accepted, Intake, Submission};
use keyturn_ports::queue::QueueName;

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::queue::enqueue;
use crate::rows;
use crate::writer::Durability;

/// How long an accepted message is remembered after its nonce was given out. Nonces live for minutes, so what
/// comes again after this is refused before anybody asks here.
const REMEMBERED: Duration = Duration::from_hours(24);

#[async_trait]
impl Intake for Database {
    async fn accept(&self, submissions: Vec<Submission>) -> Result<Vec<Accepted>, Error> {
        let accept = move |batch: &mut Batch<'_>| {
            let accepted = submissions.iter().map(|submission| accept_one(batch, submission)).collect();
            forget(batch, submissions.len())?;
            accepted
        };
        self.write("accepting messages", Durability::Told, accept).await
    }

    async fn knows(&self, nonce: UnixMillis, request: RequestId) -> Result<bool, Error> {
        self.read("looking an accepted message up", move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT 1 FROM accepted WHERE nonce_ms = ?1 AND request = ?2")?;
            Ok(statement.exists((rows::to_column(nonce), request.as_bytes()))?)
        })
        .await
    }
}

fn accept_one(batch: &mut Batch<'_>, submission: &Submission) -> Result<Accepted, Failure> {
    let Submission { nonce, message } = submission;
    let remembered = batch.execute(
        "INSERT INTO accepted (nonce_ms, request) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        (rows::to_column(*nonce), message.request.as_bytes()),
    )?;
    if remembered == 0 {
        return Ok(Accepted::Known);
    }
    enqueue(batch, QueueName::Requests, message)?;
    Ok(Accepted::New)
}

/// Forgets two old messages for each new one: the memory shrinks to what it has to hold without anybody having
/// to sweep it, and no caller pays for more than its own.
fn forget(batch: &Batch<'_>, accepted: usize) -> Result<(), Failure> {
    let old = rows::to_column(batch.now.minus(REMEMBERED));
    batch.execute(
        "DELETE FROM accepted WHERE (nonce_ms, request) IN (SELECT nonce_ms, request FROM accepted \
         WHERE nonce_ms < ?1 ORDER BY nonce_ms LIMIT ?2)",
        (old, rows::count(accepted.saturating_mul(2))),
    )?;
    Ok(())
}
