//! The one thread of a process that writes, and what makes its writes cheap: group commit.
//!
//! Writes arrive over a channel. Whatever is waiting, up to [`LARGEST_BATCH`], goes into one transaction, and
//! nobody is answered before that is committed; so the cost of a commit is shared by all who wait for it.
//!
//! # Which commits wait for the disk
//! A write that something outside learns of ([`Durability::Told`]) is committed with `synchronous=FULL`: it is on
//! the disk when its caller is answered. A batch of nothing but internal steps is committed with
//! `synchronous=NORMAL` and does not wait. That is safe because everything is in one file: the write-ahead log
//! holds commits in their order, whichever process made them, and after a power loss SQLite keeps a prefix of
//! them. A later commit that waits for the disk therefore makes every earlier one durable, and what a power loss
//! can take is a tail of internal steps that nobody was told of. Losing those repeats work and nothing else,
//! because the settlement that ends the work is in the tail as well.
//!
//! # What waits for a queue
//! A lease that found nothing stays with the thread ([`Op::waits`]). It is run again within the transaction that puts
//! something on its queue, so that a message is sent and given to a waiting worker by one commit.
//!
//! # A write that fails fails alone
//! If anything in a batch fails or panics, the whole transaction is rolled back and its writes are run again, one
//! transaction each; the error then meets only the write that caused it.

pub(crate) mod op;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use self::op::{Op, Write, run_guarded};
use crate::batch::Batch;
use crate::failure::Failure;
use crate::signals::{Signals, Woken};

/// Beyond this the share of a commit that one write pays is too small to matter, and those at the front of the
/// batch would wait for those at its end.
const LARGEST_BATCH: usize = 512;

/// After a commit of so many writes it is waited for the next as many, for so many moments of this length at most. A sync
/// takes ten times as long.
const MANY: usize = 16;
const MOMENTS: usize = 3;
const MOMENT: Duration = Duration::from_micros(20);

/// How many writes may wait before callers wait to hand theirs over.
const WAITING: usize = 4 * LARGEST_BATCH;

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Durability {
    /// It need not: a power loss repeats the work.
    Internal,
    /// It must: something outside learns of it.
    Told,
}

/// The way to the thread that writes. Dropping it finishes what was handed over and closes the connection.
#[derive(Debug)]
pub(crate) struct Writer {
    sender: Option<mpsc::Sender<Box<dyn Op>>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread that writes works with.
pub(crate) struct Tools {
    pub(crate) connection: Connection,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) signals: Arc<Signals>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(tools: Tools) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let committer = Committer::new(tools);
        let thread = std::thread::Builder::new()
            .name("keyturn-write".to_owned())
            .spawn(move || committer.run(receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Runs `work` in a transaction and returns what it returned once that is committed. `work` may be run
    /// again after a rollback, so it must leave alone what it captured.
    pub(crate) async fn write<T, F>(
        &self,
        action: &'static str,
        durability: Durability,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Batch<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let stopped = || Error::new(Kind::Unavailable, action, "the thread that writes has stopped");
        let (reply, answer) = oneshot::channel();
        self.hand_over(action, Box::new(Write::new(action, durability, work, reply))).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Hands a write over that knows itself whom to tell.
    pub(crate) async fn hand_over(&self, action: &'static str, op: Box<dyn Op>) -> Result<(), Error> {
        let stopped = || Error::new(Kind::Unavailable, action, "the thread that writes has stopped");
        self.sender.as_ref().ok_or_else(stopped)?.send(op).await.map_err(|_| stopped())
    }

    /// A way to hand writes over that does not keep the thread alive.
    pub(crate) fn way(&self) -> Way {
        Way(self.sender.as_ref().map(mpsc::Sender::downgrade))
    }
}

/// See [`Writer::way`].
#[derive(Clone, Debug)]
pub(crate) struct Way(Option<mpsc::WeakSender<Box<dyn Op>>>);

impl Way {
    /// Hands a write over if there is room and the thread is there: for what can be done without.
    pub(crate) fn try_hand_over(&self, op: Box<dyn Op>) {
        if let Some(sender) = self.0.as_ref().and_then(mpsc::WeakSender::upgrade) {
            drop(sender.try_send(op));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has answered nobody, and they know by that.
            drop(thread.join());
        }
    }
}

struct Committer {
    tools: Tools,
    level: Option<Durability>,
    suspect: bool,
    /// Those that were run, found nothing, and wait for a queue.
    parked: Vec<Box<dyn Op>>,
}

/// A transaction that is committed.
struct Done {
    woken: Woken,
    /// The numbers of those that were parked and have been run in it.
    parked: Vec<usize>,
}

/// Where an attempt at a transaction ended.
enum Stop {
    /// Before any work: it would end there for every write alike.
    Begin(Failure),
    /// In one of the writes, or at the commit.
    Work(Failure),
    /// In the one of this number of those that were parked.
    Parked(usize, Failure),
}

impl Stop {
    fn failure(&self) -> &Failure {
        match self {
            Self::Begin(failure) | Self::Work(failure) | Self::Parked(_, failure) => failure,
        }
    }
}

impl Committer {
    fn new(tools: Tools) -> Self {
        Self { tools, level: None, suspect: false, parked: Vec::new() }
    }

    fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn Op>>) {
        let mut batch = Vec::with_capacity(LARGEST_BATCH);
        let mut last = 0;
        while waiting.blocking_recv_many(&mut batch, LARGEST_BATCH) > 0 {
            gather(&mut waiting, &mut batch, last);
            last = batch.len();
            self.commit(&mut batch);
            self.parked.retain(|op| op.waits().is_some());
            self.parked.extend(batch.drain(..).filter(|op| op.waits().is_some()));
        }
    }

    fn commit(&mut self, ops: &mut [Box<dyn Op>]) {
        match self.attempt(ops) {
            Ok(Done { woken, parked }) => {
                self.tools.signals.ring(&woken);
                for number in parked {
                    if let Some(op) = self.parked.get_mut(number) {
                        op.answer(&Ok(()));
                    }
                }
                answer(ops, &Ok(()));
            }
            Err(Stop::Parked(number, failure)) => {
                answer(&mut [self.parked.swap_remove(number)], &Err(failure));
                self.commit(ops);
            }
            Err(Stop::Work(_)) if ops.len() > 1 => {
                for op in ops {
                    self.commit(std::slice::from_mut(op));
                }
            }
            Err(Stop::Begin(failure) | Stop::Work(failure)) => answer(ops, &Err(failure)),
        }
    }

    /// Runs writes in one transaction, and in the same one those that wait for what they sent.
    fn attempt(&mut self, ops: &mut [Box<dyn Op>]) -> Result<Done, Stop> {
        self.begin(ops).map_err(Stop::Begin)?;
        self.work(ops).inspect_err(|stop| {
            self.suspect |= stop.failure().lost_sync();
            // Some failures have rolled back already; there is nothing left to undo then.
            drop(self.tools.connection.execute_batch("ROLLBACK"));
        })
    }

    fn begin(&mut self, ops: &[Box<dyn Op>]) -> Result<(), Failure> {
        self.clear_suspicion()?;
        let level = ops.iter().map(|op| op.durability()).max().unwrap_or(Durability::Told);
        if self.level != Some(level) {
            self.level = None;
            let switch = match level {
                Durability::Internal => "PRAGMA synchronous=NORMAL",
                Durability::Told => "PRAGMA synchronous=FULL",
            };
            self.tools.connection.prepare_cached(switch)?.execute([])?;
            self.level = Some(level);
        }
        Ok(self.tools.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)?)
    }

    fn work(&mut self, ops: &mut [Box<dyn Op>]) -> Result<Done, Stop> {
        let now = self.tools.clock.now();
        let mut batch = Batch::new(&self.tools.connection, now, &*self.tools.entropy);
        for op in ops {
            run_guarded(&mut **op, &mut batch).map_err(Stop::Work)?;
        }
        let mut parked = Vec::new();
        for (number, op) in self.parked.iter_mut().enumerate() {
            if op.waits().is_some_and(|queue| batch.woken.rings(queue)) {
                run_guarded(&mut **op, &mut batch).map_err(|failure| Stop::Parked(number, failure))?;
                parked.push(number);
            }
        }
        let woken = batch.finish().map_err(Stop::Work)?;
        let commit = || self.tools.connection.prepare_cached("COMMIT")?.execute([]);
        commit().map_err(|error| Stop::Work(error.into()))?;
        Ok(Done { woken, parked })
    }

    /// After a failed sync the kernel holds pages for clean that never reached the disk, and a later sync would
    /// say yes without writing them. Copying the whole log into the file writes and syncs everything afresh;
    /// until that has worked nothing may be committed.
    fn clear_suspicion(&mut self) -> Result<(), Failure> {
        if self.suspect {
            let busy: bool =
                self.tools.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            if busy {
                let detail = "the disk failed to confirm a write, and the log could not be copied yet";
                return Err(Failure::new(Kind::Unavailable, detail));
            }
            self.suspect = false;
        }
        Ok(())
    }
}

/// Waits a moment for those who are about to come back: whoever was answered by the last commit and writes again would
/// otherwise wait for two syncs, the one that begins with the first of them and their own. Only where that many were
/// answered that the moment is little beside what it saves.
#[expect(clippy::disallowed_methods, reason = "a thread of ours, which has nothing else to do")]
fn gather(waiting: &mut mpsc::Receiver<Box<dyn Op>>, batch: &mut Vec<Box<dyn Op>>, last: usize) {
    for _ in 0..MOMENTS {
        let syncs = batch.iter().any(|op| op.durability() == Durability::Told);
        if !syncs || last < MANY || batch.len() >= last / 4 * 3 {
            return;
        }
        std::thread::sleep(MOMENT);
        while batch.len() < LARGEST_BATCH
            && let Ok(op) = waiting.try_recv()
        {
            batch.push(op);
        }
    }
}

fn answer(ops: &mut [Box<dyn Op>], outcome: &Result<(), Failure>) {
    for op in ops {
        op.answer(outcome);
    }
}

#[cfg(test)]
mod tests;
