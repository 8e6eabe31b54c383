//! Connections that only read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::failure::Failure;
use crate::open;

const PANICKED: &str = "the read panicked; this is a defect";

/// A few connections, opened when first needed and kept. Reads run on the runtime's blocking threads and never
/// wait for the writer; each sees everything whose write has been answered.
#[derive(Debug)]
pub(crate) struct Readers {
    permits: Arc<Semaphore>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// At most `size` connections to the file at `path`.
    pub(crate) fn new(path: PathBuf, size: usize) -> Self {
        let pool = Pool { path, idle: Mutex::new(Vec::new()) };
        Self { permits: Arc::new(Semaphore::new(size.max(1))), pool: Arc::new(pool) }
    }

    /// Runs `work` on one of the connections.
    pub(crate) async fn read<T, F>(&self, action: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        let closed = || Error::new(Kind::Unavailable, action, "the database is closing");
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let pool = Arc::clone(&self.pool);
        let reading = tokio::task::spawn_blocking(move || {
            let done = pool.with(work);
            drop(permit);
            done
        });
        match reading.await {
            Ok(done) => done.map_err(|failure| failure.during(action)),
            Err(ended) if ended.is_panic() => Err(Error::new(Kind::Unavailable, action, PANICKED)),
            Err(_) => Err(closed()),
        }
    }
}

/// So many rows are found by their keys in less than the 100 microseconds that an async thread may be kept busy: a read
/// never waits for a write. One that the disk has to be asked for takes longer.
const FEW: usize = 2;

impl Readers {
    /// As [`Readers::read`], for so many rows by their keys: a few are read here and now. The way to another thread and
    /// back takes several times as long.
    pub(crate) async fn read_few<T, F>(&self, rows: usize, action: &'static str, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        if rows > FEW {
            return self.read(action, work).await;
        }
        match self.try_here(action, work) {
            Ok(done) => done,
            Err(work) => self.read(action, work).await,
        }
    }

    /// Runs `work` here and now, or returns it if that would have to wait.
    pub(crate) fn try_here<T, F>(&self, action: &'static str, work: F) -> Result<Result<T, Error>, F>
    where
        F: FnOnce(&Connection) -> Result<T, Failure>,
    {
        let Ok(permit) = self.permits.try_acquire() else { return Err(work) };
        let Some(connection) = self.pool.idle() else { return Err(work) };
        // A connection that a panic drops out of is not put back.
        let Ok((done, connection)) = catch_unwind(AssertUnwindSafe(|| (work(&connection), connection)))
        else {
            return Ok(Err(Error::new(Kind::Unavailable, action, PANICKED)));
        };
        self.pool.lock().push(connection);
        drop(permit);
        Ok(done.map_err(|failure| failure.during(action)))
    }
}

impl Pool {
    /// One that is open and not in use.
    fn idle(&self) -> Option<Connection> {
        self.lock().pop()
    }

    /// A connection that a panic drops out of is not put back, so a damaged one is never used again.
    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let connection = match self.idle() {
            Some(connection) => connection,
            None => open::reading(&self.path)?,
        };
        let done = work(&connection);
        self.lock().push(connection);
        done
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
