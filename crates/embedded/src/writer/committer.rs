//! Transactions: several writes in one, and with them those that wait for what they send.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use keyturn_ports::Kind;
use rusqlite::hooks::Wal;

use super::op::{Op, run_guarded};
use super::{Durability, FEW, LARGEST_BATCH, Tools};
use crate::batch::Batch;
use crate::failure::Failure;
use crate::open::{CHECKPOINT_PAGES, without_patience};
use crate::signals::Woken;

/// So many messages that wait for a transaction are settled in one that is made where it is asked for.
const FEW_RIDING: usize = 2 * FEW;

/// The connection that writes, and what is known about it. One thread at a time has it.
pub(super) struct Committer {
    pub(super) tools: Tools,
    level: Option<Durability>,
    pub(super) suspect: bool,
    /// How many writes the last transaction had.
    last: usize,
    /// How many writes the last sync was for.
    last_synced: usize,
    /// How long the log was after the last commit.
    pages: Arc<AtomicI32>,
    /// Those that found nothing and wait for a queue.
    pub(super) parked: Vec<Box<dyn Op>>,
    /// Those that wait for a transaction that others need.
    pub(super) riders: Vec<Box<dyn Op>>,
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
    pub(super) fn new(mut tools: Tools) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicI32::new(0));
        let told = Arc::clone(&pages);
        // In place of SQLite's own, which copies the log before the commit returns.
        tools.connection.wal_hook(Some(move |_: &mut Wal, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            tools,
            level: None,
            suspect: false,
            last: 0,
            last_synced: 0,
            pages,
            parked: Vec::new(),
            riders: Vec::new(),
        })
    }

    /// How many writes the last sync was for.
    pub(super) fn last_synced(&self) -> usize {
        self.last_synced
    }

    /// Commits a batch, and keeps of it what waits.
    pub(super) fn take(&mut self, batch: &mut Vec<Box<dyn Op>>) {
        let waiting: Vec<_> = batch.extract_if(.., |op| self.finds_nothing(&**op)).collect();
        self.park(waiting);
        if batch.iter().all(|op| op.rides().is_some()) && self.riders.len() + batch.len() < LARGEST_BATCH {
            self.riders.append(batch);
            return;
        }
        self.last = batch.len();
        let synced = batch.iter().filter(|op| op.durability() == Durability::Told).count();
        if synced > 0 {
            self.last_synced = synced;
        }
        batch.append(&mut self.riders);
        self.commit(batch);
        self.park(batch.drain(..));
    }

    /// Commits those that wait for a transaction.
    pub(super) fn leave(&mut self) {
        let mut riders = std::mem::take(&mut self.riders);
        if !riders.is_empty() {
            self.commit(&mut riders);
        }
    }

    /// Commits a write in no more time than its statements take; returns it if that cannot be.
    pub(super) fn try_take(&mut self, op: Box<dyn Op>) -> Option<Box<dyn Op>> {
        if op.rides().is_some() {
            self.riders.push(op);
            return None;
        }
        if self.finds_nothing(&*op) {
            self.park([op]);
            return None;
        }
        // Where many write, each commit is to have many; where the log is long, somebody has to copy it first.
        let riding: usize = self.riders.iter().filter_map(|op| op.rides()).sum();
        if self.last > FEW || riding > FEW_RIDING || self.suspect || self.log_is_long() {
            return Some(op);
        }
        let mut ops = vec![op];
        ops.append(&mut self.riders);
        let outcome = without_patience(|| self.attempt(&mut ops));
        if matches!(outcome, Err(Stop::Begin(_))) {
            let op = ops.swap_remove(0);
            self.riders = ops;
            return Some(op);
        }
        self.last = 1;
        self.end(&mut ops, outcome);
        self.park(ops);
        None
    }

    /// Whether this is a lease that has to wait, as far as a look can tell that costs no transaction.
    fn finds_nothing(&self, op: &dyn Op) -> bool {
        op.waits().is_some() && op.finds_nothing(&self.tools.connection, self.tools.clock.now())
    }

    fn park(&mut self, ops: impl IntoIterator<Item = Box<dyn Op>>) {
        self.parked.retain(|op| op.waits().is_some());
        self.parked.extend(ops.into_iter().filter(|op| op.waits().is_some()));
    }

    fn log_is_long(&self) -> bool {
        self.pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES
    }

    /// Copies the log into the file once it is long enough, as far as nobody reads what is older. What was committed is
    /// answered already.
    pub(super) fn tidy(&mut self) {
        if self.log_is_long() {
            let copied = self.tools.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            self.suspect |= copied.is_err_and(|error| Failure::from(error).lost_sync());
        }
    }

    pub(super) fn commit(&mut self, ops: &mut [Box<dyn Op>]) {
        let outcome = self.attempt(ops);
        self.end(ops, outcome);
    }

    fn end(&mut self, ops: &mut [Box<dyn Op>], outcome: Result<Done, Stop>) {
        match outcome {
            Ok(Done { woken, parked }) => {
                self.tools.signals.ring(&woken);
                if let Some(others) = &self.tools.others {
                    others.ring(&woken);
                }
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

fn answer(ops: &mut [Box<dyn Op>], outcome: &Result<(), Failure>) {
    for op in ops {
        op.answer(outcome);
    }
}
