//! Moving what is in the file to another engine, while nobody uses it.
//!
//! The file says that the state leaves it before the first row is read for that, and from then on nobody opens it for
//! work: two stores that both go on would be two truths. It says so for good when the whole state is elsewhere. Nothing
//! is taken out of it.

mod rows;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::Error;
use keyturn_ports::audit::{NewRow, Verified};
use keyturn_ports::moving::{Page, Row, Standing, Table};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use crate::audit;
use crate::batch::Batch;
use crate::database::OpenOptions;
use crate::epoch;
use crate::failure::Failure;
use crate::open::{self, OpenError, Use};
use crate::schema::{COMPATIBLE_FROM, KNOWS_DEPARTURES};

/// How far the state has left the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The name of the move: 128 random bits, which its destination has as well.
    pub id: [u8; 16],
    /// Where it moves, in words.
    pub to: String,
    /// Whether all of it is there.
    pub ended: bool,
}

/// A file that is held alone, to move what is in it. Blocks wherever it is asked something.
pub struct Departure {
    path: PathBuf,
    beside: PathBuf,
    connection: Connection,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Let go last.
    _held: File,
}

impl std::fmt::Debug for Departure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Departure").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Departure {
    /// Opens the file, which has to exist and which nobody else may have open. Brings its tables up to date, and
    /// settles whether it was restored, as every opening does. One that a later release brought forward is refused, since
    /// what that added would stay behind.
    pub fn open(options: OpenOptions) -> Result<Self, OpenError> {
        let OpenOptions { path, beside, clock, entropy, .. } = options;
        if path.symlink_metadata().is_err() {
            return Err(OpenError::Missing { path });
        }
        let held = open::hold_alone(&path)?;
        let (connection, _) = open::writing(&path, &beside, clock.now(), &*entropy, Use::Departure)?;
        Ok(Self { path, beside, connection, clock, entropy, _held: held })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the state has left; None if it has not begun to.
    pub fn left(&self) -> Result<Option<Left>, Error> {
        told("looking whether the state has left", left(&self.connection))
    }

    /// Has the state leave for `to`, and records it. From now on the file is opened for nothing else.
    pub fn begin(&mut self, to: &str, row: &NewRow) -> Result<Left, Error> {
        let begun = Left { id: self.entropy.bytes(), to: to.to_owned(), ended: false };
        let Left { id, .. } = begun;
        self.change("beginning to move", |batch| {
            batch.execute(
                "INSERT INTO departure (one, id, destination, began_at) VALUES (1, ?1, ?2, ?3)",
                (id, to, crate::rows::to_column(batch.now)),
            )?;
            compatible_from(batch, KNOWS_DEPARTURES.max(COMPATIBLE_FROM))?;
            audit::append(batch, row).map(drop)
        })?;
        Ok(begun)
    }

    /// Says that the whole state is elsewhere.
    pub fn end(&mut self) -> Result<(), Error> {
        self.change("marking the file", |batch| {
            let now = crate::rows::to_column(batch.now);
            batch.execute("UPDATE departure SET ended_at = ?1 WHERE ended_at IS NULL", [now]).map(drop)
        })
    }

    /// Says that the state is here and nowhere else, and records it. `older` if others went on elsewhere meanwhile: then
    /// it is as if the file had been restored.
    pub fn undo(&mut self, row: &NewRow, older: bool) -> Result<(), Error> {
        let beside = self.beside.clone();
        self.change("undoing the move", |batch| {
            batch.execute("DELETE FROM departure", ())?;
            compatible_from(batch, COMPATIBLE_FROM)?;
            audit::append(batch, row)?;
            if older {
                epoch::renew(batch, &beside, &row.actor, &row.reason, &row.detail)?;
            }
            Ok(())
        })
    }

    /// At most `limit` rows of a table that come after the one named so.
    pub fn page(&self, table: Table, after: Option<&Row>, limit: u32) -> Result<Page, Error> {
        told("reading what is to move", rows::page(&self.connection, table, after, limit))
    }

    /// How many rows a table has.
    pub fn count(&self, table: Table) -> Result<u64, Error> {
        told("counting what is to move", rows::count(&self.connection, table))
    }

    /// What there is beside rows.
    pub fn standing(&self) -> Result<Standing, Error> {
        told("reading what is to move", rows::standing(&self.connection))
    }

    /// Checks the chain of the audit.
    pub fn verify_audit(&self) -> Result<Verified, Error> {
        told("checking the audit", audit::verify(&self.connection))
    }

    /// One transaction, on the disk when it returns.
    fn change(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&Batch<'_>) -> Result<(), Failure>,
    ) -> Result<(), Error> {
        let (now, entropy) = (self.clock.now(), Arc::clone(&self.entropy));
        let changed = || {
            self.connection.pragma_update(None, "synchronous", "FULL")?;
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            work(&Batch::new(&transaction, now, &*entropy))?;
            Ok(transaction.commit()?)
        };
        told(action, changed())
    }
}

/// Refuses a file that the state has left, or is leaving.
pub(crate) fn refuse(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let path = path.to_owned();
    let found = left(connection);
    let found = found
        .map_err(|failure| OpenError::Corrupt { path: path.clone(), detail: failure.detail().to_owned() });
    match found? {
        None => Ok(()),
        Some(Left { to, ended: false, .. }) => Err(OpenError::Leaving { path, to }),
        Some(Left { to, ended: true, .. }) => Err(OpenError::Gone { path, to }),
    }
}

fn left(connection: &Connection) -> Result<Option<Left>, Failure> {
    let sql = "SELECT id, destination, ended_at IS NOT NULL FROM departure";
    let left = |row: &rusqlite::Row<'_>| Ok(Left { id: row.get(0)?, to: row.get(1)?, ended: row.get(2)? });
    Ok(connection.query_row(sql, [], left).optional()?)
}

fn compatible_from(batch: &Batch<'_>, schema: u32) -> Result<(), Failure> {
    let sql = "UPDATE meta SET value = CAST(?1 AS TEXT) WHERE key = 'compatible_from'";
    batch.execute(sql, [schema]).map(drop)
}

fn told<T>(action: &'static str, done: Result<T, Failure>) -> Result<T, Error> {
    done.map_err(|failure| failure.during(action))
}
