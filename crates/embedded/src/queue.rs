//! The queues.
//!
//! A message is one row, written when it is sent and deleted when it is done, and while it is in work or waits to be
//! tried again a second, small one beside it that says who has it. New messages are given out in the order of their
//! numbers, and the queue remembers how far that got. So sending touches the end of one tree, leasing reads from
//! where it stopped, and what leasing and settling rewrite are trees as small as what is in flight: all of it costs
//! the same however many messages there are.
//!
//! A new message is visible at once. One that was given out is visible again from `visible_at` on, which is the end
//! of the lease or of a delay. So that a wall clock that was wrong by much for a while cannot hide messages for good,
//! no lease and no delay is longer than [`LONGEST`], and what claims to become visible later than that is taken to
//! be visible.

mod lease;
mod next;
mod settle;
mod sql;

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::queue::{Backlog, Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use rusqlite::{Connection, OptionalExtension as _};

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

pub(crate) use self::settle::ATTEMPTS_KEPT;
use self::sql::per_queue;

const SETTLING: &str = "settling messages";

/// The longest lease and the longest delay.
const LONGEST: Duration = Duration::from_hours(1);

/// Those who wait for a message look again after this long, whatever happened: it bounds what a wall clock that
/// was set can cost them. Everything else wakes them sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So many messages that are done with wait for somebody else's transaction. More are worth one of their own.
const RIDING: usize = 16;

/// How many of the messages that are not visible are looked at to say how many of them are leased.
const LEASES_COUNTED: usize = 4096;

#[async_trait]
impl Backlog for Database {
    async fn waiting(
        &self,
        queue: QueueName,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, String)>, Error> {
        let after = after.map_or(i64::MIN, |after| i64::try_from(after).unwrap_or(i64::MAX));
        self.read("looking at what waits", move |connection| {
            let sql = per_queue!(queue, "SELECT id, body FROM queue_", " WHERE id > ?1 ORDER BY id LIMIT ?2");
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement
                .query_map((after, rows::count(limit)), |row| Ok((rows::number(row, 0)?, row.get(1)?)))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }
}

#[async_trait]
impl Queue for Database {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        let send = move |batch: &mut Batch<'_>| {
            messages.iter().try_for_each(|message| enqueue(batch, queue, message))
        };
        self.write("sending messages", Durability::Told, send).await
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        let take = move |batch: &mut Batch<'_>| lease::take(batch, queue, max, lease);
        self.write("leasing messages", Durability::Internal, take).await
    }

    async fn next(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        next::next(self, queue, max, lease).await
    }

    async fn renew(
        &self,
        queue: QueueName,
        receipts: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        let renew = move |batch: &mut Batch<'_>| lease::renew(batch, queue, &receipts, lease);
        self.write("renewing leases", Durability::Internal, renew).await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        let messages = settled.len().max(forward.len());
        let no_news = forward.is_empty() && settled.iter().all(|(_, how)| *how == Settlement::Complete);
        let settle = move |batch: &mut Batch<'_>| {
            for (onto, message) in &forward {
                enqueue(batch, *onto, message)?;
            }
            settle::settle(batch, queue, &settled)
        };
        if no_news && messages <= RIDING {
            return self.writer().ride(messages, SETTLING, settle).await;
        }
        self.write_few(messages, SETTLING, Durability::Internal, settle).await
    }

    fn system(&self, _: QueueName) -> &'static str {
        "sqlite"
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        let now = self.now();
        self.read("measuring a queue", move |connection| depth(connection, queue, now)).await
    }

    /// Resolves when a message is visible, as far as this process, a process that shares the file or the clock can
    /// make it so, and after a second at the latest.
    async fn arrival(&self, queue: QueueName) {
        let rung = self.signals().of_queue(queue).notified();
        let mut rung = std::pin::pin!(rung);
        // Registered first, looked second: what is sent in between rings.
        rung.as_mut().enable();
        let _watched = self.watcher().wait();
        let next = self.read("looking at a queue", move |connection| next_visible(connection, queue)).await;
        let wait = match next {
            Ok(Some(at)) => at.since(self.now()).min(LOOK_AGAIN),
            Ok(None) | Err(_) => LOOK_AGAIN,
        };
        // A zero wait resolves at once. So does a ring; which of the two it was does not matter.
        drop(tokio::time::timeout(wait, rung).await);
    }
}

/// Puts a message on a queue.
pub(crate) fn enqueue(batch: &mut Batch<'_>, queue: QueueName, message: &NewMessage) -> Result<(), Failure> {
    let number = batch.number(queue, |batch| last_number(batch, queue))?;
    batch.execute(
        per_queue!(
            queue,
            "INSERT INTO queue_",
            " (id, enqueued_at, request, device, body) VALUES (?1, ?2, ?3, ?4, ?5)"
        ),
        (
            number,
            rows::to_column(batch.now),
            message.request.as_bytes(),
            message.device.as_bytes(),
            &message.body,
        ),
    )?;
    batch.count(queue, 1);
    batch.woken.sent(queue, number);
    Ok(())
}

/// The number of the message that was sent last. What is gone was given out before, so `taken` remembers those.
fn last_number(batch: &Batch<'_>, queue: QueueName) -> Result<i64, Failure> {
    let sql = per_queue!(
        queue,
        "SELECT max(taken, coalesce((SELECT max(id) FROM queue_",
        "), 0)) FROM queue_counters WHERE queue = ?1"
    );
    Ok(batch.prepare(sql)?.query_row([rows::queue_code(queue)], |row| row.get(0))?)
}

fn depth(connection: &Connection, queue: QueueName, now: UnixMillis) -> Result<Depth, Failure> {
    // One transaction, so that the figures belong together.
    let snapshot = connection.unchecked_transaction()?;
    let (total, dead) = snapshot
        .prepare_cached("SELECT max(total, 0), max(dead, 0) FROM queue_counters WHERE queue = ?1")?
        .query_row([rows::queue_code(queue)], |row| Ok((rows::number(row, 0)?, rows::number(row, 1)?)))?;
    let leased = snapshot
        .prepare_cached(per_queue!(
            queue,
            "SELECT count(lease) FROM (SELECT lease FROM held_",
            " INDEXED BY held_",
            "_by_visibility WHERE visible_at > ?1 LIMIT ?2)"
        ))?
        .query_row((rows::to_column(now), rows::count(LEASES_COUNTED)), |row| rows::number(row, 0))?;
    let oldest = snapshot
        .prepare_cached(per_queue!(queue, "SELECT enqueued_at FROM queue_", " ORDER BY id LIMIT 1"))?
        .query_row([], |row| rows::time(row, 0))
        .optional()?;
    let sent = snapshot
        .prepare_cached(per_queue!(
            queue,
            "SELECT max(taken, (SELECT coalesce(max(id), 0) FROM queue_",
            ")) FROM queue_counters WHERE queue = ?1"
        ))?
        .query_row([rows::queue_code(queue)], |row| rows::number(row, 0))?;
    Ok(Depth { total, leased, oldest, dead, sent: Some(sent) })
}

/// How a queue stands, for those who wait for a change of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The number of the message that was sent last.
    pub(crate) sent: i64,
    /// When the next of those that were given out before is visible again.
    pub(crate) visible: Option<i64>,
}

/// How `queue` stands.
pub(crate) fn standing(connection: &Connection, queue: QueueName) -> rusqlite::Result<Standing> {
    let sql = per_queue!(
        queue,
        "SELECT max(taken, coalesce((SELECT max(id) FROM queue_",
        "), 0)), (SELECT min(visible_at) FROM held_",
        ") FROM queue_counters WHERE queue = ?1"
    );
    connection
        .prepare_cached(sql)?
        .query_row([rows::queue_code(queue)], |row| Ok(Standing { sent: row.get(0)?, visible: row.get(1)? }))
}

/// When a message is visible next: at the beginning of time if there is a new one.
fn next_visible(connection: &Connection, queue: QueueName) -> Result<Option<UnixMillis>, Failure> {
    let sql = per_queue!(
        queue,
        "SELECT CASE WHEN max(id) > (SELECT taken FROM queue_counters WHERE queue = ?1) THEN 0 \
         ELSE (SELECT min(visible_at) FROM held_",
        ") END FROM queue_",
        ""
    );
    let mut statement = connection.prepare_cached(sql)?;
    let next: Option<i64> = statement.query_row([rows::queue_code(queue)], |row| row.get(0))?;
    Ok(next.map(|at| UnixMillis(u64::try_from(at).unwrap_or(0))))
}
