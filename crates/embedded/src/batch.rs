//! What a write may use while its transaction is open.

use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::QueueName;
use rusqlite::{CachedStatement, Connection, Params};

use crate::failure::Failure;
use crate::rows;
use crate::signals::{PerQueue, Woken};

/// One transaction and everything in it. The writes of several callers share a batch, one after the other.
pub(crate) struct Batch<'a> {
    connection: &'a Connection,
    /// The time of the batch.
    pub(crate) now: UnixMillis,
    /// Where lease tokens come from.
    pub(crate) entropy: &'a dyn Entropy,
    /// Who is to be woken once it is committed.
    pub(crate) woken: Woken,
    counts: PerQueue<Count>,
}

/// What a batch does to the row of a queue. Kept in memory until the end, so that a batch rewrites that row once,
/// however many messages it moves.
#[derive(Clone, Copy, Default)]
struct Count {
    total: i64,
    dead: i64,
    /// The number of the last message that was sent, once somebody asked.
    last: Option<i64>,
}

impl<'a> Batch<'a> {
    /// A batch on a connection whose transaction has begun.
    pub(crate) fn new(connection: &'a Connection, now: UnixMillis, entropy: &'a dyn Entropy) -> Self {
        Self { connection, now, entropy, woken: Woken::default(), counts: PerQueue::default() }
    }

    /// A statement, compiled once per connection.
    pub(crate) fn prepare(&self, sql: &'static str) -> Result<CachedStatement<'a>, Failure> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) fn execute(&self, sql: &'static str, params: impl Params) -> Result<usize, Failure> {
        Ok(self.prepare(sql)?.execute(params)?)
    }

    /// The row number given to the last row inserted.
    pub(crate) fn last_id(&self) -> i64 {
        self.connection.last_insert_rowid()
    }

    /// The connection, for reading in the same transaction.
    pub(crate) fn connection(&self) -> &'a Connection {
        self.connection
    }

    /// Counts messages that came to or left a queue.
    pub(crate) fn count(&mut self, queue: QueueName, by: i64) {
        self.counts.of_mut(queue).total += by;
    }

    /// Counts dead letters that came or left.
    pub(crate) fn count_dead(&mut self, queue: QueueName, by: i64) {
        self.counts.of_mut(queue).dead += by;
    }

    /// The number for the next message of a queue; `last` finds the last one that was given.
    pub(crate) fn number(
        &mut self,
        queue: QueueName,
        last: impl FnOnce(&Self) -> Result<i64, Failure>,
    ) -> Result<i64, Failure> {
        let before = match self.counts.of_mut(queue).last {
            Some(number) => number,
            None => last(self)?,
        };
        let number =
            before.checked_add(1).ok_or_else(|| Failure::corrupt("a queue", "no numbers are left"))?;
        self.counts.of_mut(queue).last = Some(number);
        Ok(number)
    }

    /// Writes the counts down and ends the batch; the commit is up to the caller.
    pub(crate) fn finish(self) -> Result<Woken, Failure> {
        for queue in QueueName::ALL {
            let Count { total, dead, .. } = *self.counts.of(queue);
            if (total, dead) != (0, 0) {
                self.execute(
                    "UPDATE queue_counters SET total = total + ?2, dead = dead + ?3 WHERE queue = ?1",
                    (rows::queue_code(queue), total, dead),
                )?;
            }
        }
        Ok(self.woken)
    }
}
