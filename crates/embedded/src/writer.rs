//! The one connection of a process that writes, and what makes its writes cheap: group commit.
//!
//! Writes arrive over a channel at a thread. Whatever is waiting, up to [`LARGEST_BATCH`], goes into one transaction, and
//! nobody is answered before that is committed; so the cost of a commit is shared by all who wait for it.
//!
//! # A few messages while nobody else writes
//! A write of a few messages that does not wait for the disk takes less than the way to the thread and back. It is
//! committed where it is asked for ([`Writer::write_few`]), unless others write as well.
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
//! # What rides
//! That a message is done with is no news for anybody, and if it is forgotten, work is repeated that has no effect any
//! more. So it need not have a transaction of its own ([`Writer::ride`]): it is written with whatever comes next, or after
//! [`RIDE`] if nothing does. Its caller is answered when it is committed, as always.
//!
//! # A write that fails fails alone
//! If anything in a batch fails or panics, the whole transaction is rolled back and its writes are run again, one
//! transaction each; the error then meets only the write that caused it.

mod committer;
pub(crate) mod op;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use self::committer::Committer;
use self::op::{Op, Write};
use crate::batch::Batch;
use crate::bells::Others;
use crate::failure::Failure;
use crate::signals::Signals;

/// Beyond this the share of a commit that one write pays is too small to matter, and those at the front of the
/// batch would wait for those at its end.
const LARGEST_BATCH: usize = 512;

/// After a sync for [`SOME`] writes or more it is waited for others before the next one, until there are [`MANY`] or three
/// quarters of what the last one was for, whichever is more, for so many moments of this length at most: as long as a few
/// syncs of a fast disk.
const SOME: usize = 3;
const MANY: usize = 12;
const MOMENTS: usize = 20;
const MOMENT: Duration = Duration::from_micros(100);

/// So many messages are written in less than the 100 microseconds that an async thread may be kept busy.
const FEW: usize = 2;

/// How long a write waits for somebody else's transaction. Between two of them there are some milliseconds where a hundred
/// rotations are made in a second, and a lease runs for thousands of times as long.
const RIDE: Duration = Duration::from_millis(10);

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
pub(crate) struct Writer {
    sender: Option<mpsc::Sender<Box<dyn Op>>>,
    thread: Option<JoinHandle<()>>,
    committer: Arc<Mutex<Committer>>,
}

/// What writes are made with.
pub(crate) struct Tools {
    pub(crate) connection: Connection,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) signals: Arc<Signals>,
    /// The other processes, if they can be told.
    pub(crate) others: Option<Arc<Others>>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(tools: Tools) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let committer = Committer::new(tools).map_err(io::Error::other)?;
        let committer = Arc::new(Mutex::new(committer));
        let shared = Arc::clone(&committer);
        let thread = std::thread::Builder::new()
            .name("keyturn-write".to_owned())
            .spawn(move || write_all(&shared, receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread), committer })
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
        self.write_few(usize::MAX, action, durability, work).await
    }

    /// As [`Writer::write`], for work on so many messages: a few are written here and now, if nobody else writes.
    pub(crate) async fn write_few<T, F>(
        &self,
        messages: usize,
        action: &'static str,
        durability: Durability,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Batch<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let op = Box::new(Write::new(action, durability, work, reply));
        if messages <= FEW && durability == Durability::Internal {
            self.hand_over(action, op).await?;
        } else {
            self.send(action, op).await?;
        }
        answer.await.map_err(|_| stopped(action))?
    }

    /// As [`Writer::write_few`], in the next transaction that somebody else needs: for what is [`Durability::Internal`] and no
    /// news.
    pub(crate) async fn ride<T, F>(&self, messages: usize, action: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Batch<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, mut answer) = oneshot::channel();
        let write = Write::new(action, Durability::Internal, work, reply).riding(messages);
        self.hand_over(action, Box::new(write)).await?;
        let answered = if let Ok(answered) = tokio::time::timeout(RIDE, &mut answer).await {
            answered
        } else {
            self.write_few(0, action, Durability::Internal, |_| Ok(())).await?;
            answer.await
        };
        answered.map_err(|_| stopped(action))?
    }

    /// Sees to a write that knows itself whom to tell, is short and does not wait for the disk.
    pub(crate) async fn hand_over(&self, action: &'static str, op: Box<dyn Op>) -> Result<(), Error> {
        match self.try_here(op) {
            Some(op) => self.send(action, op).await,
            None => Ok(()),
        }
    }

    /// Commits it here and now, or returns it.
    fn try_here(&self, op: Box<dyn Op>) -> Option<Box<dyn Op>> {
        let idle = self.sender.as_ref().is_some_and(|sender| sender.capacity() == WAITING);
        if !idle {
            return Some(op);
        }
        let mut committer = match self.committer.try_lock() {
            Ok(committer) => committer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(op),
        };
        committer.try_take(op)
    }

    async fn send(&self, action: &'static str, op: Box<dyn Op>) -> Result<(), Error> {
        let sender = self.sender.as_ref().ok_or_else(|| stopped(action))?;
        sender.send(op).await.map_err(|_| stopped(action))
    }

    /// A way to hand writes over that does not keep the thread alive.
    pub(crate) fn way(&self) -> Way {
        Way(self.sender.as_ref().map(mpsc::Sender::downgrade))
    }
}

fn stopped(action: &'static str) -> Error {
    Error::new(Kind::Unavailable, action, "the thread that writes has stopped")
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

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// What the thread does: everything that is handed over, until nobody can hand anything over.
fn write_all(committer: &Mutex<Committer>, mut waiting: mpsc::Receiver<Box<dyn Op>>) {
    let mut batch = Vec::with_capacity(LARGEST_BATCH);
    while waiting.blocking_recv_many(&mut batch, LARGEST_BATCH) > 0 {
        gather(committer, &mut waiting, &mut batch);
        let mut committer = lock(committer);
        committer.take(&mut batch);
        committer.tidy();
    }
    lock(committer).leave();
}

fn lock(committer: &Mutex<Committer>) -> MutexGuard<'_, Committer> {
    committer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before a sync waits for those who are about to need one: they would otherwise wait for the next, and for this one
/// before. Only where that many were answered by the last sync that the wait is little beside what it saves. What does not
/// wait for the disk is committed meanwhile.
#[expect(clippy::disallowed_methods, reason = "a thread of ours, which has nothing else to do")]
fn gather(
    committer: &Mutex<Committer>,
    waiting: &mut mpsc::Receiver<Box<dyn Op>>,
    batch: &mut Vec<Box<dyn Op>>,
) {
    let last = lock(committer).last_synced();
    let enough = if last < SOME { 0 } else { MANY.max(last / 4 * 3) };
    for _ in 0..MOMENTS {
        let told = batch.iter().filter(|op| op.durability() == Durability::Told).count();
        if told == 0 || told >= enough {
            return;
        }
        if told < batch.len() {
            let steps = batch.extract_if(.., |op| op.durability() == Durability::Internal);
            lock(committer).take(&mut steps.collect());
        }
        std::thread::sleep(MOMENT);
        while batch.len() < LARGEST_BATCH
            && let Ok(op) = waiting.try_recv()
        {
            batch.push(op);
        }
    }
}

#[cfg(test)]
mod tests;
