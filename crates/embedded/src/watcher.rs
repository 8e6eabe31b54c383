//! Notices what other processes write to the file.
//!
//! SQLite has no wake-ups between processes. `PRAGMA data_version` changes whenever another connection commits and
//! costs a few microseconds to read, so a thread compares it on a connection of its own every few milliseconds,
//! and only while somebody waits: a process in which nobody waits does nothing at all.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use crate::signals::Signals;

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
    pub(crate) fn start(connection: Connection, every: Duration, signals: Arc<Signals>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watch =
            Watch { seen: version(&connection), connection, every, signals, shared: Arc::clone(&shared) };
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

struct Watch {
    connection: Connection,
    seen: Option<i64>,
    every: Duration,
    signals: Arc<Signals>,
    shared: Arc<Shared>,
}

impl Watch {
    fn run(mut self) {
        while self.next_look() {
            let version = version(&self.connection);
            // A version that cannot be read might be a new one.
            if version.is_none() || version != self.seen {
                self.signals.ring_all();
            }
            self.seen = version;
        }
    }

    /// Sleeps until it is time to look; false when there is nobody left to look for.
    fn next_look(&self) -> bool {
        let mut state = self.shared.lock();
        if state.waiting > 0 && !state.stopped {
            let slept = self.shared.changed.wait_timeout(state, self.every);
            state = slept.unwrap_or_else(PoisonError::into_inner).0;
        }
        while state.waiting == 0 && !state.stopped {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }
}

fn version(connection: &Connection) -> Option<i64> {
    connection.prepare_cached("PRAGMA data_version").ok()?.query_row([], |row| row.get(0)).ok()
}
