//! Notices what other processes write to the file.
//!
//! SQLite has no wake-ups between processes, but the kernel tells who asks (inotify) when the log is written to. That is
//! some time before the commit can be seen: the disk has to confirm it first. So a thread compares `PRAGMA data_version`,
//! which changes whenever another connection commits, soon after each write and then less and less often; and only while
//! somebody waits: a process in which nobody waits does nothing at all. What changed is read from the file, so that nobody
//! is woken for nothing.

mod log;
mod news;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

use self::log::Log;
use self::news::News;
use crate::open;
use crate::signals::Signals;

/// How long one look is after another at least. Those after a write wait 1 ms, and then each twice as long as the last:
/// a commit is seen after no more than twice the time that the disk took to confirm it.
const SOON: Duration = Duration::from_millis(1);

/// How often the file is looked at if the kernel tells of writes, whether it does or not.
const SELDOM: Duration = Duration::from_millis(250);

/// The thread and how many wait on it.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    /// Closed to make the thread look up.
    stop: Option<io::PipeWriter>,
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
    /// nobody waits yet. Without a kernel that tells of writes, the file is looked at once in `every`.
    pub(crate) fn start(
        path: &Path,
        connection: Connection,
        every: Duration,
        signals: Arc<Signals>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (stopped, stop) = io::pipe()?;
        let version = version(&connection);
        // The log is there from the first read on.
        let log = Log::watch(&open::log_of(path), stopped);
        let watch = Watch {
            news: News::since_now(&connection),
            version,
            connection,
            seldom: if log.is_told() { SELDOM } else { every },
            log,
            pause: Duration::ZERO,
            written: false,
            signals,
            shared: Arc::clone(&shared),
        };
        let thread =
            std::thread::Builder::new().name("keyturn-watch".to_owned()).spawn(move || watch.run())?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
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
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to stop.
            drop(thread.join());
        }
    }
}

struct Watch {
    connection: Connection,
    version: Option<i64>,
    news: News,
    log: Log,
    /// The time from one look to the next if nobody writes.
    pause: Duration,
    /// The longest such time.
    seldom: Duration,
    /// Whether the last rest ended with a write.
    written: bool,
    signals: Arc<Signals>,
    shared: Arc<Shared>,
}

impl Watch {
    fn run(mut self) {
        while self.is_awaited() {
            self.look();
            self.rest();
        }
    }

    /// Sleeps while nobody waits; false when it is over.
    fn is_awaited(&mut self) -> bool {
        let mut state = self.shared.lock();
        while state.waiting == 0 && !state.stopped {
            // A commit may be under way whose beginning nobody looked out for.
            self.pause = Duration::ZERO;
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }

    /// Wakes whom what was committed since the last look concerns.
    fn look(&mut self) {
        let version = version(&self.connection);
        // A version that cannot be read might be a new one.
        if version.is_none() || version != self.version {
            self.news.ring(&self.connection, &self.signals);
        }
        self.version = version;
    }

    /// Waits for the next write, or until the file is worth a look all the same.
    fn rest(&mut self) {
        if self.written {
            // Writes that come closer than this are looked at together.
            self.log.leave_alone(SOON);
        }
        self.written = self.log.written_within(self.pause);
        self.pause = match self.pause {
            _ if self.written => Duration::ZERO,
            Duration::ZERO => SOON,
            pause => pause.saturating_mul(2).min(self.seldom),
        };
    }
}

fn version(connection: &Connection) -> Option<i64> {
    connection.prepare_cached("PRAGMA data_version").ok()?.query_row([], |row| row.get(0)).ok()
}
