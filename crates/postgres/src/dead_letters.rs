//! Dead letters.

mod jobs;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::dead_letters::{Attempt, DeadLetter, DeadLetterId, DeadLetters, Died, Graveyard};
use keyturn_ports::queue::{DeadReason, NewMessage, QueueName};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;
use crate::signals::Woken;

macro_rules! letters {
    ($rest:literal) => {
        concat!(
            "SELECT id, queue, request, device, body, reason, attempts::text, deliveries, enqueued_at, died_at ",
            "FROM dead_letters ",
            $rest
        )
    };
}

/// Of several commands that name a letter, the one that deletes it moves it.
const REPLAY: &str = "WITH gone AS ( \
     DELETE FROM dead_letters AS d \
     USING (SELECT DISTINCT ON (id) * FROM unnest($2::bigint[], $3::smallint[], $4::bytea[]) \
            WITH ORDINALITY AS g (id, onto, body, place) ORDER BY id, place) AS g \
     WHERE d.id = g.id RETURNING d.id, d.queue, d.request, d.device, g.onto, g.body, g.place), \
 sent AS ( \
     INSERT INTO messages (queue, visible_at, enqueued_at, deliveries, request, device, body, attempts) \
     SELECT onto, now_ms($1), now_ms($1), 0, request, device, body, '[]' FROM gone ORDER BY place), \
 counted AS ( \
     UPDATE queue_counters AS c SET total = c.total + (SELECT count(*) FROM gone WHERE onto = c.queue), \
         sent = c.sent + (SELECT count(*) FROM gone WHERE onto = c.queue), \
         dead = c.dead - (SELECT count(*) FROM gone WHERE gone.queue = c.queue) \
     WHERE c.slot = pg_backend_pid() % 64) \
 SELECT id, queue, request, device FROM gone ORDER BY place";

/// Written down once under its origin.
const BURY: &str = "WITH buried AS ( \
     INSERT INTO dead_letters (queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at, \
         origin) \
     VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10) ON CONFLICT (origin) DO NOTHING RETURNING queue) \
 UPDATE queue_counters AS c SET dead = c.dead + (SELECT count(*) FROM buried) \
 WHERE c.slot = pg_backend_pid() % 64 AND c.queue = $1";

#[async_trait]
impl DeadLetters for Database {
    async fn list(&self, queue: Option<QueueName>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let limit = rows::count(limit);
        self.retrying("listing dead letters", async || {
            let found = match queue.map(rows::queue_code) {
                Some(queue) => {
                    let sql = letters!("WHERE queue = $1 ORDER BY id DESC LIMIT $2");
                    self.read(sql, &[&queue, &limit]).await?
                }
                None => self.read(letters!("ORDER BY id DESC LIMIT $1"), &[&limit]).await?,
            };
            found.iter().map(letter).collect()
        })
        .await
    }

    async fn find(&self, id: DeadLetterId) -> Result<Option<DeadLetter>, Error> {
        let id = rows::place(id.0);
        self.retrying("finding a dead letter", async || {
            self.read(letters!("WHERE id = $1"), &[&id]).await?.first().map(letter).transpose()
        })
        .await
    }

    async fn replay(
        &self,
        letters: Vec<(DeadLetterId, QueueName, String)>,
    ) -> Result<Vec<DeadLetterId>, Error> {
        let ids: Vec<i64> = letters.iter().map(|(id, ..)| rows::place(id.0)).collect();
        let onto: Vec<i16> = letters.iter().map(|(_, onto, _)| rows::queue_code(*onto)).collect();
        let woken = letters.iter().fold(Woken::NOBODY, |all, (_, onto, _)| all.and(Woken::queue(*onto)));
        let bodies: Vec<Vec<u8>> = letters.into_iter().map(|(.., body)| body.into_bytes()).collect();
        let moved = self
            .retrying("replaying dead letters", async || {
                let now = self.now_given();
                let params: [Param<'_>; 4] = [&now, &ids, &onto, &bodies];
                let moved = self.at_once(Mode::Told, &[(REPLAY, &params)]).await?;
                moved.iter().flatten().map(|row| rows::number(row, 0).map(DeadLetterId)).collect()
            })
            .await?;
        self.signals().committed(woken);
        Ok(moved)
    }
}

#[async_trait]
impl Graveyard for Database {
    async fn bury(&self, dead: Vec<Died>) -> Result<(), Error> {
        for died in &dead {
            self.retrying("burying a message", async || bury(self, died).await).await?;
        }
        Ok(())
    }
}

async fn bury(database: &Database, died: &Died) -> Result<(), Failure> {
    let attempts: Vec<_> = died
        .attempts
        .iter()
        .map(|Attempt { at, error }| StoredAttempt { at: *at, error: rows::text(error) })
        .collect();
    let attempts =
        serde_json::to_string(&attempts).map_err(|error| Failure::corrupt("a message's attempts", error))?;
    let params: [Param<'_>; 10] = [
        &rows::queue_code(died.queue),
        &died.message.request.as_bytes().as_slice(),
        &died.message.device.as_bytes().as_slice(),
        &died.message.body.as_bytes(),
        &died.reason.as_str(),
        &attempts,
        &i64::from(died.deliveries),
        &rows::to_column(died.enqueued),
        &rows::to_column(died.died),
        &died.origin,
    ];
    database.at_once(Mode::Told, &[(BURY, &params)]).await.map(drop)
}

#[derive(Serialize, Deserialize)]
struct StoredAttempt {
    at: UnixMillis,
    error: String,
}

fn letter(row: &Row) -> Result<DeadLetter, Failure> {
    let id = DeadLetterId(rows::number(row, 0)?);
    let what = || format!("dead letter {}", id.0);
    let reason: &str = rows::column(row, 5)?;
    let known = DeadReason::ALL.into_iter().find(|known| known.as_str() == reason);
    let attempts: Vec<StoredAttempt> =
        serde_json::from_str(rows::column(row, 6)?).map_err(|error| Failure::corrupt(what(), error))?;
    Ok(DeadLetter {
        id,
        queue: rows::queue(row, 1)?,
        message: NewMessage {
            request: rows::request(row, 2)?,
            device: rows::device(row, 3)?,
            body: rows::bytes_as_text(row, 4)?,
        },
        reason: known.ok_or_else(|| Failure::corrupt(what(), format!("unknown reason «{reason}»")))?,
        attempts: attempts.into_iter().map(|StoredAttempt { at, error }| Attempt { at, error }).collect(),
        deliveries: rows::number(row, 7)?,
        enqueued: rows::time(row, 8)?,
        died: rows::time(row, 9)?,
    })
}
