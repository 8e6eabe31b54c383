//! Dead letters.

mod jobs;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::dead_letters::{Attempt, DeadLetter, DeadLetterId, DeadLetters, Died, Graveyard};
use keyturn_ports::queue::{DeadReason, NewMessage, QueueName};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::queue::{ATTEMPTS_KEPT, enqueue};
use crate::rows;
use crate::writer::Durability;

macro_rules! letters {
    ($rest:literal) => {
        concat!(
            "SELECT id, queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at ",
            "FROM dead_letters ",
            $rest
        )
    };
}

#[async_trait]
impl DeadLetters for Database {
    async fn list(&self, queue: Option<QueueName>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        self.read("listing dead letters", move |connection| list(connection, queue, limit)).await
    }

    async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        let find = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(letters!("WHERE id = ?1"))?;
            statement.query_row([column(id)], stored).optional()?.map(letter).transpose()
        };
        self.read("finding a dead letter", find).await
    }

    async fn replay(
        &self,
        letters: Vec<(DeadLetterId, QueueName, String)>,
    ) -> Result<Vec<DeadLetterId>, Error> {
        let replay = move |batch: &mut Batch<'_>| {
            let mut moved = Vec::new();
            for (id, onto, body) in &letters {
                if replay_one(batch, *id, *onto, body)?.is_some() {
                    moved.push(*id);
                }
            }
            Ok(moved)
        };
        self.write("replaying dead letters", Durability::Told, replay).await
    }
}

#[async_trait]
impl Graveyard for Database {
    async fn bury(&self, dead: Vec<Died>) -> Result<(), Error> {
        let bury = move |batch: &mut Batch<'_>| dead.iter().try_for_each(|died| bury_one(batch, died));
        self.write("burying messages", Durability::Told, bury).await
    }
}

fn bury_one(batch: &mut Batch<'_>, died: &Died) -> Result<(), Failure> {
    let attempts: Vec<_> = died
        .attempts
        .iter()
        .map(|Attempt { at, error }| StoredAttempt { at: *at, error: error.clone() })
        .collect();
    let attempts =
        serde_json::to_string(&attempts).map_err(|error| Failure::corrupt("a message's attempts", error))?;
    let buried = batch.execute(
        "INSERT INTO dead_letters (queue, request, device, body, reason, attempts, deliveries, enqueued_at, \
         died_at, origin) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        (
            rows::queue_code(died.queue),
            died.message.request.as_bytes(),
            died.message.device.as_bytes(),
            &died.message.body,
            died.reason.as_str(),
            attempts,
            died.deliveries,
            rows::to_column(died.enqueued),
            rows::to_column(died.died),
            &died.origin,
        ),
    )?;
    if buried > 0 {
        batch.count_dead(died.queue, 1);
    }
    Ok(())
}

fn list(connection: &Connection, queue: Option<QueueName>, limit: usize) -> Result<Vec<DeadLetter>, Failure> {
    let limit = rows::count(limit);
    let found: Vec<Stored> = match queue {
        Some(queue) => connection
            .prepare_cached(letters!("WHERE queue = ?1 ORDER BY id DESC LIMIT ?2"))?
            .query_map((rows::queue_code(queue), limit), stored)?
            .collect::<Result<_, _>>()?,
        None => connection
            .prepare_cached(letters!("ORDER BY id DESC LIMIT ?1"))?
            .query_map([limit], stored)?
            .collect::<Result<_, _>>()?,
    };
    found.into_iter().map(letter).collect()
}

/// At most `limit` letters before the one with this number, newest first.
fn since(
    connection: &Connection,
    id: Option<DeadLetterId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, Failure> {
    let before = id.map_or(i64::MAX, column);
    let found: Vec<Stored> = connection
        .prepare_cached(letters!("WHERE id < ?1 ORDER BY id DESC LIMIT ?2"))?
        .query_map((before, rows::count(limit)), stored)?
        .collect::<Result<_, _>>()?;
    found.into_iter().map(letter).collect()
}

/// Which queue a letter died on, which message it was, and whose.
type Removed = (QueueName, RequestId, DeviceId);

/// Moves a letter onto a queue; none if it is gone.
fn replay_one(
    batch: &mut Batch<'_>,
    id: DeadLetterId,
    onto: QueueName,
    body: &str,
) -> Result<Option<Removed>, Failure> {
    let removed = remove(batch, id)?;
    if let Some((_, request, device)) = removed {
        enqueue(batch, onto, &NewMessage { request, device, body: body.to_owned() })?;
    }
    Ok(removed)
}

/// Takes a letter away; none if it is gone.
fn remove(batch: &mut Batch<'_>, id: DeadLetterId) -> Result<Option<Removed>, Failure> {
    let found = batch
        .prepare("SELECT queue, request, device FROM dead_letters WHERE id = ?1")?
        .query_row([column(id)], |row| {
            Ok((rows::queue(row, 0)?, rows::request(row, 1)?, rows::device(row, 2)?))
        })
        .optional()?;
    if let Some((from, ..)) = found {
        batch.execute("DELETE FROM dead_letters WHERE id = ?1", [column(id)])?;
        batch.count_dead(from, -1);
    }
    Ok(found)
}

/// The attempts of a message that dies of `error`, as its dead letter keeps them.
pub(crate) fn attempts(
    batch: &Batch<'_>,
    queue: QueueName,
    message: i64,
    error: &str,
) -> Result<String, Failure> {
    let mut statement = batch.prepare(
        "SELECT failed_at, error FROM queue_attempts WHERE queue = ?1 AND message = ?2 \
         ORDER BY attempt DESC LIMIT ?3",
    )?;
    let earlier = statement.query_map((rows::queue_code(queue), message, ATTEMPTS_KEPT - 1), |row| {
        Ok(StoredAttempt { at: rows::time(row, 0)?, error: row.get(1)? })
    })?;
    let mut attempts = earlier.collect::<Result<Vec<_>, _>>()?;
    attempts.reverse();
    attempts.push(StoredAttempt { at: batch.now, error: error.to_owned() });
    serde_json::to_string(&attempts).map_err(|error| Failure::corrupt("a message's attempts", error))
}

#[derive(Serialize, Deserialize)]
struct StoredAttempt {
    at: UnixMillis,
    error: String,
}

/// A letter as its row has it: two columns are yet to be understood.
struct Stored {
    letter: DeadLetter,
    reason: String,
    attempts: String,
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let letter = DeadLetter {
        id: DeadLetterId(rows::number(row, 0)?),
        queue: rows::queue(row, 1)?,
        message: NewMessage {
            request: rows::request(row, 2)?,
            device: rows::device(row, 3)?,
            body: row.get(4)?,
        },
        reason: DeadReason::Undecodable,
        attempts: Vec::new(),
        deliveries: rows::number(row, 7)?,
        enqueued: rows::time(row, 8)?,
        died: rows::time(row, 9)?,
    };
    Ok(Stored { letter, reason: row.get(5)?, attempts: row.get(6)? })
}

fn letter(stored: Stored) -> Result<DeadLetter, Failure> {
    let Stored { mut letter, reason, attempts } = stored;
    let what = || format!("dead letter {}", letter.id.0);
    let known = DeadReason::ALL.into_iter().find(|known| known.as_str() == reason);
    let reason = known.ok_or_else(|| Failure::corrupt(what(), format!("unknown reason «{reason}»")))?;
    let attempts: Vec<StoredAttempt> =
        serde_json::from_str(&attempts).map_err(|error| Failure::corrupt(what(), error))?;
    letter.reason = reason;
    letter.attempts = attempts.into_iter().map(|StoredAttempt { at, error }| Attempt { at, error }).collect();
    Ok(letter)
}

fn column(id: DeadLetterId) -> i64 {
    i64::try_from(id.0).unwrap_or(i64::MAX)
}
