//! The queues.
//!
//! A message is visible from `visible_at` on, which sending sets to now and leasing to the end of the lease. So
//! that a clock that was wrong by much for a while cannot hide messages for good, no lease and no delay is longer
//! than [`LONGEST`], and what claims to become visible later than that is taken to be visible.
//!
//! Whoever leases skips rows that others are just leasing, so workers never wait for each other.

mod lease;
mod send;
mod settle;

use std::time::Duration;

use async_trait::async_trait;
use keyturn_ports::Error;
use keyturn_ports::queue::{Backlog, Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};

pub(crate) use self::send::Batch;
use crate::database::{Database, Mode};
use crate::failure::Failure;
use crate::rows;

/// The longest lease and the longest delay.
const LONGEST: Duration = Duration::from_hours(1);

/// How many of the messages that are not visible are looked at to say how many of them are leased.
const LEASES_COUNTED: i64 = 4096;

#[async_trait]
impl Backlog for Database {
    async fn waiting(
        &self,
        queue: QueueName,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, String)>, Error> {
        let sql = "SELECT id, body FROM messages WHERE queue = $1 AND id > $2 ORDER BY id LIMIT $3";
        let (code, after, limit) =
            (rows::queue_code(queue), after.map_or(i64::MIN, rows::place), rows::count(limit));
        self.retrying("looking at what waits", async || {
            let found = self.read(sql, &[&code, &after, &limit]).await?;
            found.iter().map(|row| Ok((rows::number(row, 0)?, rows::bytes_as_text(row, 1)?))).collect()
        })
        .await
    }
}

#[async_trait]
impl Queue for Database {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        let batch = Batch::of(messages.iter().map(|message| (queue, message)));
        self.retrying("sending messages", async || {
            self.at_once(Mode::Told, &[(Batch::SQL, &batch.params(&self.now_given()))]).await.map(drop)
        })
        .await?;
        self.signals().committed(batch.woken());
        Ok(())
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        self.retrying("leasing messages", async || lease::take(self, queue, max, lease).await).await
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        self.retrying("renewing leases", async || lease::renew(self, queue, &receipts, lease).await).await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        let forward = Batch::of(forward.iter().map(|(queue, message)| (*queue, message)));
        let (void, woken) = self
            .retrying("settling messages", async || settle::settle(self, queue, &settled, &forward).await)
            .await?;
        self.signals().committed(woken);
        Ok(void)
    }

    fn system(&self, _: QueueName) -> &'static str {
        "postgresql"
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        self.retrying("measuring a queue", async || depth(self, queue).await).await
    }

    /// Resolves when a message is visible, as far as this process, another one that uses the database, or the clock
    /// can make it so, and after the time set by [`crate::Limits::look_every`] at the latest.
    async fn arrival(&self, queue: QueueName) {
        let rung = self.signals().of_queue(queue).notified();
        let mut rung = std::pin::pin!(rung);
        // Registered first, looked second: what is sent in between rings.
        rung.as_mut().enable();
        let wait = match self.until_visible(queue).await {
            Ok(Some(wait)) => wait.min(self.look_every()),
            Ok(None) | Err(_) => self.look_every(),
        };
        drop(tokio::time::timeout(wait, rung).await);
    }
}

impl Database {
    /// How long until the next message is visible; None while there is none.
    async fn until_visible(&self, queue: QueueName) -> Result<Option<Duration>, Failure> {
        let sql = "SELECT greatest(visible_at - now_ms($2), 0) FROM messages WHERE queue = $1 \
                   ORDER BY visible_at, id LIMIT 1";
        let found = self.read(sql, &[&rows::queue_code(queue), &self.now_given()]).await?;
        found.first().map(|row| rows::number(row, 0).map(Duration::from_millis)).transpose()
    }
}

async fn depth(database: &Database, queue: QueueName) -> Result<Depth, Failure> {
    // One statement, so that the figures belong together.
    let sql = "SELECT counted.total, counted.dead, \
         (SELECT count(lease) FROM (SELECT lease FROM messages WHERE queue = $1 AND visible_at > now_ms($2) \
          ORDER BY visible_at LIMIT $3) AS hidden), \
         (SELECT enqueued_at FROM messages WHERE queue = $1 ORDER BY id LIMIT 1), counted.sent \
         FROM (SELECT greatest(sum(total), 0)::bigint AS total, greatest(sum(dead), 0)::bigint AS dead, \
               sum(sent)::bigint AS sent \
               FROM queue_counters WHERE queue = $1) AS counted";
    let found =
        database.read(sql, &[&rows::queue_code(queue), &database.now_given(), &LEASES_COUNTED]).await?;
    let row = found.first().ok_or_else(|| Failure::corrupt("a queue's counters", "they are gone"))?;
    let oldest: Option<i64> = rows::column(row, 3)?;
    Ok(Depth {
        total: rows::number(row, 0)?,
        dead: rows::number(row, 1)?,
        leased: rows::number(row, 2)?,
        oldest: oldest.map(|_| rows::time(row, 3)).transpose()?,
        sent: Some(rows::number(row, 4)?),
    })
}
