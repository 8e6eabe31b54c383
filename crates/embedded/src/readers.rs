//! Connections that only read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::failure::Failure;
use crate::open;

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
            Err(ended) if ended.is_panic() => {
                Err(Error::new(Kind::Unavailable, action, "the read panicked; this is a defect"))
            }
            Err(_) => Err(closed()),
        }
    }
}

impl Pool {
    /// A connection that a panic drops out of is not put back, so a damaged one is never used again.
    fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let idle = self.lock().pop();
        let connection = match idle {
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
