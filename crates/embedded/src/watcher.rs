//! Notices what other processes write to the file.
//!
//! SQLite has no wake-ups between processes. `PRAGMA data_version` changes whenever another connection commits, so
//! a thread compares it on a connection of its own every few milliseconds, and only while somebody waits: a process
//! in which nobody waits does nothing at all.
//!
//! Even that comparison takes and releases locks, so as long as the log's size and time stand still it is made
//! seldom. They change when a commit begins to be written, which is some time before it can be seen, and are only
//! as fine as the kernel's tick; so after each change the comparison is made at every look for a while.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use crate::open;
use crate::signals::Signals;

/// So many looks after the last change of the log every look compares, and after that one in so many does: enough
/// for a disk that takes a second to finish a commit.
const CLOSE_LOOKS: u32 = 50;

/// The thread and how many wait on it.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Watcher {
    /// Starts watching. What was written before this call is not news; what is written after it is, even if
    /// nobody waits yet.
    pub(crate) fn start(
        path: &Path,
        connection: Connection,
        every: Duration,
        signals: Arc<Signals>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watch = Watch {
            seen: version(&connection),
            connection,
            log: open::log_of(path),
            stamp: None,
            quiet_looks: 0,
            every,
            signals,
            shared: Arc::clone(&shared),
        };
        let thread =
            std::thread::Builder::new().name("keyturn-watch".to_owned()).spawn(move || watch.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has the file watched until the value returned is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        let mut state = self.shared.lock();
        state.waiting += 1;
        if state.waiting == 1 {
            self.shared.changed.notify_one();
        }
        Waiting(Arc::clone(&self.shared))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to stop.
            drop(thread.join());
        }
    }
}

/// The log's time and size.
type Stamp = (SystemTime, u64);

struct Watch {
    connection: Connection,
    seen: Option<i64>,
    log: PathBuf,
    stamp: Option<Stamp>,
    quiet_looks: u32,
    every: Duration,
    signals: Arc<Signals>,
    shared: Arc<Shared>,
}

impl Watch {
    fn run(mut self) {
        while self.next_look() {
            if self.may_have_changed() {
                let version = version(&self.connection);
                // A version that cannot be read might be a new one.
                if version.is_none() || version != self.seen {
                    self.signals.ring_all();
                }
                self.seen = version;
            }
        }
    }

    /// Whether a comparison is worth its while. Asks for the log by name and never opens it: closing it again
    /// would drop the locks that SQLite holds on it in this process.
    fn may_have_changed(&mut self) -> bool {
        let stamp = std::fs::metadata(&self.log).and_then(|log| Ok((log.modified()?, log.len()))).ok();
        self.quiet_looks = if stamp == self.stamp { self.quiet_looks.saturating_add(1) } else { 0 };
        self.stamp = stamp;
        self.quiet_looks <= CLOSE_LOOKS || self.quiet_looks.is_multiple_of(CLOSE_LOOKS)
    }

    /// Sleeps until it is time to look; false when there is nobody left to look for.
    fn next_look(&mut self) -> bool {
        let mut state = self.shared.lock();
        if state.waiting > 0 && !state.stopped {
            let slept = self.shared.changed.wait_timeout(state, self.every);
            state = slept.unwrap_or_else(PoisonError::into_inner).0;
        }
        while state.waiting == 0 && !state.stopped {
            // What happened while nobody looked is found by comparing, whatever the log looks like.
            self.quiet_looks = 0;
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }
}

fn version(connection: &Connection) -> Option<i64> {
    connection.prepare_cached("PRAGMA data_version").ok()?.query_row([], |row| row.get(0)).ok()
}
