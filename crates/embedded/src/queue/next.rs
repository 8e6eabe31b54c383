//! Waiting for messages: a lease that stays with the thread that writes until there is something to lease.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{Leased, QueueName, Settlement};
use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{LONGEST, LOOK_AGAIN, lease, per_queue, settle};
use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::op::{Op, Write};
use crate::writer::{Durability, Way};

const ACTION: &str = "waiting for messages";

/// What there is.
enum Found {
    /// These.
    Messages(Vec<Leased>),
    /// Nothing, but something becomes visible then, which is soon.
    Soon(UnixMillis),
}

/// Leases up to `max` messages when there are some, or returns after a second at the latest.
pub(super) async fn next(
    database: &Database,
    queue: QueueName,
    max: usize,
    lease: Duration,
) -> Result<Vec<Leased>, Error> {
    let mut rung = pin!(database.signals().of_queue(queue).notified());
    let mut others = pin!(database.signals().of_others(queue).notified());
    // Registered first, looked second: what is sent in between rings.
    rung.as_mut().enable();
    others.as_mut().enable();
    let _watched = database.watcher().wait();
    let (reply, told) = oneshot::channel();
    let back = Back { way: database.writer().way(), queue };
    let waiter = Waiter { queue, max, lease, found: None, reply: Some(reply), back: back.clone() };
    database.writer().hand_over(ACTION, Box::new(waiter)).await?;
    let mut answer = Answer { told, back };
    let found = tokio::select! {
        biased;
        found = &mut answer.told => found,
        () = others => return Ok(Vec::new()),
        () = tokio::time::sleep(LOOK_AGAIN) => return Ok(Vec::new()),
    };
    match found {
        Ok(Ok(Found::Messages(messages))) => Ok(messages),
        Ok(Ok(Found::Soon(at))) => {
            drop(tokio::time::timeout(at.since(database.now()), rung).await);
            Ok(Vec::new())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(Kind::Unavailable, ACTION, "the thread that writes has stopped")),
    }
}

/// A lease that waits.
struct Waiter {
    queue: QueueName,
    max: usize,
    lease: Duration,
    /// What the open transaction found; nothing if it has to wait.
    found: Option<Found>,
    /// None once it was answered.
    reply: Option<oneshot::Sender<Result<Found, Error>>>,
    back: Back,
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Op for Waiter {
    fn durability(&self) -> Durability {
        Durability::Internal
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Failure> {
        self.found = None;
        if self.waits().is_none() {
            return Ok(());
        }
        let messages = lease::take(batch, self.queue, self.max, self.lease)?;
        self.found = if messages.is_empty() {
            soon(batch, self.queue)?.map(Found::Soon)
        } else {
            Some(Found::Messages(messages))
        };
        Ok(())
    }

    fn answer(&mut self, outcome: &Result<(), Failure>) {
        let answer = match (outcome, self.found.take()) {
            (Ok(()), Some(found)) => Ok(found),
            (Ok(()), None) => return,
            (Err(failure), _) => Err(failure.during(ACTION)),
        };
        if let Some(reply) = self.reply.take()
            && let Err(Ok(Found::Messages(messages))) = reply.send(answer)
        {
            self.back.give(messages);
        }
    }

    /// Unless it would find messages, or nothing now and something soon.
    fn finds_nothing(&self, connection: &Connection, now: UnixMillis) -> bool {
        let sql = per_queue!(
            self.queue,
            "SELECT taken, (SELECT max(id) FROM queue_",
            "), (SELECT min(visible_at) FROM held_",
            "), (SELECT max(visible_at) FROM held_",
            ") FROM queue_counters WHERE queue = ?1"
        );
        let standing = connection.prepare_cached(sql).and_then(|mut statement| {
            statement.query_row([rows::queue_code(self.queue)], |row| {
                let (last, held): (Option<i64>, [Option<i64>; 2]) = (row.get(1)?, [row.get(2)?, row.get(3)?]);
                Ok((row.get::<_, i64>(0)?, last, held))
            })
        });
        let (soon, far) = (rows::to_column(now.plus(LOOK_AGAIN)), rows::to_column(now.plus(LONGEST)));
        match standing {
            Ok((taken, last, [first_held, last_held])) => {
                last.is_none_or(|last| last <= taken)
                    && first_held.is_none_or(|at| at > soon)
                    && last_held.is_none_or(|at| at <= far)
            }
            // Whoever runs it learns why.
            Err(_) => false,
        }
    }

    fn waits(&self) -> Option<QueueName> {
        self.reply.as_ref().filter(|reply| !reply.is_closed()).map(|_| self.queue)
    }
}

/// When something becomes visible that was given out before, if that is soon.
fn soon(batch: &Batch<'_>, queue: QueueName) -> Result<Option<UnixMillis>, Failure> {
    let sql = per_queue!(queue, "SELECT min(visible_at) FROM held_", "");
    let at: Option<i64> = batch.prepare(sql)?.query_row([], |row| row.get(0))?;
    let at = at.map(|at| UnixMillis(u64::try_from(at).unwrap_or(0)));
    Ok(at.filter(|at| *at <= batch.now.plus(LOOK_AGAIN)))
}

/// The answer to a lease that waits. What it has when it is dropped goes back to the queue.
struct Answer {
    told: oneshot::Receiver<Result<Found, Error>>,
    back: Back,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.told.close();
        if let Ok(Ok(Found::Messages(messages))) = self.told.try_recv() {
            self.back.give(messages);
        }
    }
}

/// The way back for messages that were leased for somebody who has gone. If it is closed, their leases run out.
#[derive(Clone)]
struct Back {
    way: Way,
    queue: QueueName,
}

impl Back {
    fn give(&self, messages: Vec<Leased>) {
        let queue = self.queue;
        let released: Vec<_> =
            messages.into_iter().map(|leased| (leased.receipt, Settlement::Release)).collect();
        let release = move |batch: &mut Batch<'_>| settle::settle(batch, queue, &released);
        let (reply, _) = oneshot::channel();
        self.way.try_hand_over(Box::new(Write::new(
            "releasing messages",
            Durability::Internal,
            release,
            reply,
        )));
    }
}
