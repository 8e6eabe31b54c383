//! Notices what other processes write to the file.
//!
//! They tell ([`crate::bells`]). What they could not tell, or what a program wrote that is none of ours, is noticed by a
//! thread that compares `PRAGMA data_version` now and then, which changes whenever another connection commits; and only
//! while somebody waits. What changed is then read from the file, so that nobody is woken for nothing.

mod news;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use rusqlite::Connection;

use self::news::News;
use crate::bells::{self, Bell, Others};
use crate::signals::Signals;

/// How often the file is looked at where the others tell what they write.
const SELDOM: Duration = Duration::from_millis(250);

/// The thread and how many wait on it.
#[derive(Debug)]
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    others: Option<Arc<Others>>,
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

/// What the thread works with.
pub(crate) struct Means<'a> {
    pub(crate) connection: Connection,
    pub(crate) signals: Arc<Signals>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: &'a dyn Entropy,
    /// How often the file is looked at where the others cannot tell what they write.
    pub(crate) every: Duration,
}

impl Watcher {
    /// Starts watching. What was written before this call is not news; what is written after it is, even if
    /// nobody waits yet.
    pub(crate) fn start(path: &Path, means: Means<'_>) -> std::io::Result<Self> {
        let Means { connection, signals, clock, entropy, every } = means;
        let shared = Arc::new(Shared::default());
        let bell = Bell::hang(path, entropy)
            .inspect_err(|error| {
                let every_ms = every.as_millis();
                tracing::warn!(error = %error, every_ms, "other processes cannot tell what they write, and it is looked for");
            })
            .ok();
        let others = bell.as_ref().map(|bell| Arc::clone(bell.others()));
        let watch = Watch {
            version: version(&connection),
            news: News::since_now(&connection),
            connection,
            every: if bell.is_some() { SELDOM } else { every },
            bell,
            looked: clock.monotonic(),
            clock,
            signals,
            shared: Arc::clone(&shared),
        };
        let thread =
            std::thread::Builder::new().name("keyturn-watch".to_owned()).spawn(move || watch.run())?;
        Ok(Self { shared, others, thread: Some(thread) })
    }

    /// The other processes, if they can be told.
    pub(crate) fn others(&self) -> Option<Arc<Others>> {
        self.others.clone()
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
        if let Some(others) = &self.others {
            others.ring_own();
        }
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
    bell: Option<Bell>,
    every: Duration,
    clock: Arc<dyn Clock>,
    /// When the file was last looked at.
    looked: Duration,
    signals: Arc<Signals>,
    shared: Arc<Shared>,
}

impl Watch {
    fn run(mut self) {
        while !self.shared.lock().stopped {
            self.listen();
            if self.shared.lock().waiting > 0
                && self.clock.monotonic().saturating_sub(self.looked) >= self.every
            {
                self.look();
            }
        }
    }

    /// Waits for a bell, or until it is time to look again.
    fn listen(&mut self) {
        match self.bell.as_ref().map(|bell| bell.heard(self.every)) {
            Some(Ok(None)) => {}
            Some(Ok(Some(bells::News::Of(woken)))) => self.signals.ring_of_others(&woken),
            Some(Ok(Some(bells::News::Anything))) => self.signals.ring_all(),
            // A socket that fails tells nothing any more.
            Some(Err(_)) => self.bell = None,
            None => self.rest(),
        }
    }

    /// Sleeps until it is time to look again and somebody waits.
    fn rest(&self) {
        let mut state = self.shared.lock();
        if state.waiting > 0 && !state.stopped {
            state = self
                .shared
                .changed
                .wait_timeout(state, self.every)
                .map_or_else(|e| e.into_inner().0, |(state, _)| state);
        }
        while state.waiting == 0 && !state.stopped {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes whom what was committed since the last look concerns.
    fn look(&mut self) {
        self.looked = self.clock.monotonic();
        let version = version(&self.connection);
        // A version that cannot be read might be a new one.
        if version.is_none() || version != self.version {
            self.news.ring(&self.connection, &self.signals);
        }
        self.version = version;
    }
}

fn version(connection: &Connection) -> Option<i64> {
    connection.prepare_cached("PRAGMA data_version").ok()?.query_row([], |row| row.get(0)).ok()
}
