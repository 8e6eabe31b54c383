//! One caller's write: what to do, and whom to tell.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::QueueName;
use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Durability;
use crate::batch::Batch;
use crate::failure::Failure;

/// A write whose types are forgotten, so that all kinds share a batch.
pub(crate) trait Op: Send + fmt::Debug {
    /// Whether its commit waits for the disk.
    fn durability(&self) -> Durability;

    /// Does it. Called again after a rollback.
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Failure>;

    /// Tells the caller how the transaction ended.
    fn answer(&mut self, outcome: &Result<(), Failure>);

    /// The queue it waits for, if it is answered but not done: it is to be run again in the transaction that puts
    /// something there.
    fn waits(&self) -> Option<QueueName> {
        None
    }

    /// Whether it would find nothing, so that it need not be run before something is put on the queue that it waits for.
    fn finds_nothing(&self, _: &Connection, _: UnixMillis) -> bool {
        false
    }

    /// The messages it is about, if it may wait a moment for a transaction that others need, instead of having one of its
    /// own.
    fn rides(&self) -> Option<usize> {
        None
    }
}

/// A write with its types.
pub(crate) struct Write<T, F> {
    action: &'static str,
    durability: Durability,
    work: F,
    done: Option<T>,
    reply: Option<oneshot::Sender<Result<T, Error>>>,
    rides: Option<usize>,
}

impl<T, F> Write<T, F> {
    pub(crate) fn new(
        action: &'static str,
        durability: Durability,
        work: F,
        reply: oneshot::Sender<Result<T, Error>>,
    ) -> Self {
        Self { action, durability, work, done: None, reply: Some(reply), rides: None }
    }

    /// The same, which is about so many messages and may wait for somebody else's transaction.
    pub(crate) fn riding(self, messages: usize) -> Self {
        Self { rides: Some(messages), ..self }
    }
}

impl<T, F> fmt::Debug for Write<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("action", &self.action).finish_non_exhaustive()
    }
}

impl<T: Send, F: FnMut(&mut Batch<'_>) -> Result<T, Failure> + Send> Op for Write<T, F> {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Failure> {
        self.done = Some((self.work)(batch)?);
        Ok(())
    }

    fn answer(&mut self, outcome: &Result<(), Failure>) {
        let answer = match (outcome, self.done.take()) {
            (Ok(()), Some(done)) => Ok(done),
            (Err(failure), _) => Err(failure.during(self.action)),
            (Ok(()), None) => {
                Err(Error::new(Kind::Unavailable, self.action, "it was not run; this is a defect"))
            }
        };
        if let Some(reply) = self.reply.take() {
            // The caller may have stopped waiting; the write happened all the same.
            drop(reply.send(answer));
        }
    }

    fn rides(&self) -> Option<usize> {
        self.rides
    }
}

/// Runs a write so that a panic in it ends as its own failure and not as the end of the thread.
pub(super) fn run_guarded(op: &mut dyn Op, batch: &mut Batch<'_>) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(|| op.run(batch))).unwrap_or_else(|_| {
        Err(Failure::new(Kind::Unavailable, "the write panicked and was undone; this is a defect"))
    })
}
