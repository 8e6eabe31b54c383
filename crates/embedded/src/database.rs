//! The handle on the file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::schema::Schema;
use rusqlite::Connection;

use crate::batch::Batch;
use crate::epoch;
use crate::failure::Failure;
use crate::lookups::Lookups;
use crate::open::{self, OpenError};
use crate::readers::Readers;
use crate::signals::Signals;
use crate::watcher::{Means, Watcher};
use crate::writer::{Durability, Tools, Writer};

/// How to open a file.
#[derive(Clone)]
pub struct OpenOptions {
    pub(crate) path: PathBuf,
    pub(crate) beside: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    look_every: Duration,
    readers: usize,
    effects: Durability,
}

impl OpenOptions {
    /// Opens, or creates, the file at `path`. Leases, delays and expiry go by `clock`.
    pub fn new(path: impl Into<PathBuf>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let path = path.into();
        let beside = epoch::beside(&path);
        let (look_every, readers) = (Duration::from_millis(20), 4);
        Self { path, beside, clock, entropy, look_every, readers, effects: Durability::Internal }
    }

    /// Where the epoch is kept that no backup may have. Beside the file, with `.epoch` behind its name, by default.
    pub fn epoch_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.beside = path.into();
        self
    }

    /// How often to look, while somebody waits, whether another process wrote, where they cannot tell each other: no
    /// socket can be made beside the file. 20 ms by default.
    pub fn look_every(mut self, every: Duration) -> Self {
        self.look_every = every.max(Duration::from_millis(1));
        self
    }

    /// At most this many reads at once. 4 by default; each costs a connection with its cache of 1 MiB.
    pub fn readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// Whether messages are settled on another engine. What they led to is then on the disk before that engine is told
    /// that they are done with; it would not give them out again. They are not by default: what a power loss takes of
    /// the effects it takes of the settlements too.
    pub fn settled_elsewhere(mut self, elsewhere: bool) -> Self {
        self.effects = if elsewhere { Durability::Told } else { Durability::Internal };
        self
    }
}

/// An open file. Clones share it; the last one to go finishes what was handed over and closes it, which can take
/// as long as a commit.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    beside: PathBuf,
    schema: Schema,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    signals: Arc<Signals>,
    watcher: Watcher,
    readers: Readers,
    lookups: Lookups,
    effects: Durability,
    writer: Writer,
    /// Let go last: the lock that says that the file is in use.
    _held: File,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the file, creating or migrating it where needed. Blocks: a small file is checked as a whole.
    pub fn open(options: OpenOptions) -> Result<Self, OpenError> {
        let OpenOptions { path, beside, clock, entropy, look_every, readers, effects } = options;
        let held = open::hold(&path)?;
        let (connection, schema) = open::writing(&path, &beside, clock.now(), &*entropy, open::Use::Work)?;
        let signals = Arc::new(Signals::default());
        let threads = |source| OpenError::Threads { path: path.clone(), source };
        let means = Means {
            connection: open::watching(&path)?,
            signals: Arc::clone(&signals),
            clock: Arc::clone(&clock),
            entropy: &*entropy,
            every: look_every,
        };
        let watcher = Watcher::start(&path, means).map_err(threads)?;
        let tools = Tools {
            connection,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            signals: Arc::clone(&signals),
            others: watcher.others(),
        };
        let writer = Writer::start(tools).map_err(threads)?;
        let readers = Readers::new(path.clone(), readers);
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                beside,
                schema,
                clock,
                entropy,
                signals,
                watcher,
                readers,
                lookups: Lookups::default(),
                effects,
                writer,
                _held: held,
            }),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Which schema it had when it was opened.
    pub fn schema(&self) -> Schema {
        self.inner.schema
    }

    /// Where its epoch is.
    pub(crate) fn beside(&self) -> &Path {
        &self.inner.beside
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.inner.clock.now()
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.inner.entropy
    }

    pub(crate) fn signals(&self) -> &Signals {
        &self.inner.signals
    }

    pub(crate) fn watcher(&self) -> &Watcher {
        &self.inner.watcher
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.inner.readers
    }

    /// How what messages lead to is committed.
    pub(crate) fn effects(&self) -> Durability {
        self.inner.effects
    }

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.inner.lookups
    }

    /// Runs `work` in the next transaction; see [`Writer::write`].
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
        self.inner.writer.write(action, durability, work).await
    }

    /// As [`Database::write`], for so many messages; see [`Writer::write_few`].
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
        self.inner.writer.write_few(messages, action, durability, work).await
    }

    /// The thread that writes.
    pub(crate) fn writer(&self) -> &Writer {
        &self.inner.writer
    }

    /// Runs `work` on a connection that only reads; see [`Readers::read`].
    pub(crate) async fn read<T, F>(&self, action: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.inner.readers.read(action, work).await
    }

    /// As [`Database::read`], for so many rows by their keys; see [`Readers::read_few`].
    pub(crate) async fn read_few<T, F>(&self, rows: usize, action: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.inner.readers.read_few(rows, action, work).await
    }
}
