//! The intake: memory and queue are in one file, so one transaction does both.

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

#[async_trait]
impl Intake for Database {
    async fn accept(&self, submissions: Vec<Submission>) -> Result<Vec<Accepted>, Error> {
        let accept = move |batch: &mut Batch<'_>| {
            submissions.iter().map(|submission| accept_one(batch, submission)).collect()
        };
        self.write("accepting messages", Durability::Told, accept).await
    }

    async fn knows(&self, nonce: UnixMillis, request: RequestId) -> Result<bool, Error> {
        self.read_few(1, "looking an accepted message up", move |connection| {
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
