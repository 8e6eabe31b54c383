//! The epoch: what tells a store that was restored from a backup from one that went on.
//!
//! The file has an epoch, 128 random bits, and a mark that counts up from time to time. A second file beside it, in
//! no backup, has the epoch too, and a mark that was durable in the store before. Whoever opens the store compares
//! them, alone, before anybody reads or writes:
//!
//! | store | beside it | |
//! |---|---|---|
//! | no epoch | no file | a new store: an epoch is drawn |
//! | the same epoch, a mark as high or higher | | the same store |
//! | anything else | | restored: a new epoch is drawn, and the audit says so |
//!
//! So a store is also taken for restored when it was copied to another machine, or when the second file was lost.
//! That is the safe side: devices are heard anew, and until then what is shown of them is only more.
//!
//! Backups that `keyturn backup` makes carry no epoch that could match. The mark is for copies made by other means:
//! one in place of the store is noticed if the store went on for two marks after it was made. A copy of both files
//! at one instant, such as a snapshot of the whole machine, is not noticed; whoever restores one has to say so.

mod beside;

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::{Action, NewRow};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tracing::error;

use self::beside::{Beside, Outside};
use crate::audit;
use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::open::OpenError;
use crate::rows;
use crate::writer::Durability;

/// The mark counts up no more often than this when the store is opened: operators' commands open it too.
const MARK_EVERY: Duration = Duration::from_mins(1);

/// 128 random bits.
type Epoch = [u8; 16];

/// Where a store puts its second file, unless it is told: its own name with `.epoch` behind it.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".epoch");
    name.into()
}

/// What the store says.
struct Inside {
    /// Of another length in a backup.
    epoch: Vec<u8>,
    mark: u64,
    marked: UnixMillis,
}

/// What became of the store since it was last open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    New,
    Same,
    Restored,
}

fn past(inside: Option<&Inside>, outside: &Outside) -> Past {
    match (inside, outside) {
        (None, Outside::Missing) => Past::New,
        (Some(inside), Outside::Says(says)) if inside.epoch == says.epoch && inside.mark >= says.mark => {
            Past::Same
        }
        _ => Past::Restored,
    }
}

/// Compares store and second file, and mends what differs. Everybody else who opens the store waits meanwhile, and
/// finds nothing left to do.
pub(crate) fn settle(
    path: &Path,
    beside: &Path,
    connection: &mut Connection,
    now: UnixMillis,
    entropy: &dyn Entropy,
) -> Result<(), OpenError> {
    let sql = |source| OpenError::from_sqlite(path, source);
    let unusable = |source| OpenError::Epoch { path: beside.to_owned(), source };
    let failed =
        |failure: Failure| OpenError::Restored { path: path.to_owned(), detail: failure.detail().to_owned() };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let outside = Beside::read(beside).map_err(unusable)?;
    let inside = inside(&transaction).map_err(failed)?;
    let batch = Batch::new(&transaction, now, entropy);
    match (past(inside.as_ref(), &outside), inside) {
        (Past::Same, Some(inside)) if now.0.abs_diff(inside.marked.0) < millis(MARK_EVERY) => return Ok(()),
        (Past::Same, Some(_)) => mark(&batch, beside),
        (Past::New, _) | (Past::Same, None) => first(&batch, beside),
        (Past::Restored, _) => {
            let why = outside.why();
            error!(
                database = %path.display(), epoch = %beside.display(), why,
                "the database was restored from a backup, or copied; every device is heard anew"
            );
            metrics::counter!("keyturn_store_restored_total").increment(1);
            renew(&batch, beside, "keyturn", "", why)
        }
    }
    .map_err(failed)?;
    transaction.commit().map_err(sql)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn inside(connection: &Connection) -> Result<Option<Inside>, Failure> {
    let found = connection
        .prepare_cached("SELECT epoch, mark, marked_at FROM epoch")?
        .query_row([], |row| {
            Ok(Inside { epoch: row.get(0)?, mark: rows::number(row, 1)?, marked: rows::time(row, 2)? })
        })
        .optional()?;
    Ok(found)
}

fn first(batch: &Batch<'_>, beside: &Path) -> Result<(), Failure> {
    let epoch: Epoch = batch.entropy.bytes();
    write(beside, epoch, 0)?;
    batch.execute(
        "INSERT INTO epoch (one, epoch, mark, marked_at, generation) VALUES (1, ?1, 1, ?2, 1)",
        (epoch, rows::to_column(batch.now)),
    )?;
    Ok(())
}

/// Draws a new epoch. The second file is written first: if the store's part is not committed after all, the two
/// differ, and the next who opens the store does this once more.
pub(crate) fn renew(
    batch: &Batch<'_>,
    beside: &Path,
    actor: &str,
    reason: &str,
    detail: &str,
) -> Result<(), Failure> {
    let epoch: Epoch = batch.entropy.bytes();
    write(beside, epoch, 0)?;
    batch.execute(
        "INSERT INTO epoch (one, epoch, mark, marked_at, generation, restored_at) VALUES (1, ?1, 1, ?2, 1, ?2) \
         ON CONFLICT (one) DO UPDATE SET epoch = ?1, mark = 1, marked_at = ?2, generation = generation + 1, \
         restored_at = ?2",
        (epoch, rows::to_column(batch.now)),
    )?;
    let row = NewRow {
        at: batch.now,
        actor: actor.to_owned(),
        action: Action::StoreRestored,
        device: None,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
    };
    audit::append(batch, &row).map(drop)
}

/// Counts the mark up. The second file gets the one before, which is durable: so it is never ahead of a store that
/// went on, however the two are interrupted.
fn mark(batch: &Batch<'_>, beside: &Path) -> Result<(), Failure> {
    let Some(Inside { epoch, mark, .. }) = inside(batch.connection())? else { return Ok(()) };
    let epoch = Epoch::try_from(epoch).map_err(|_| Failure::corrupt("the epoch", "it has another length"))?;
    write(beside, epoch, mark)?;
    batch.execute("UPDATE epoch SET mark = mark + 1, marked_at = ?1", [rows::to_column(batch.now)])?;
    Ok(())
}

fn write(beside: &Path, epoch: Epoch, mark: u64) -> Result<(), Failure> {
    Beside { epoch, mark }.write(beside).map_err(|error| {
        let problem = format!("{} cannot be written: {error}", beside.display());
        Failure::new(keyturn_ports::Kind::Unavailable, problem)
    })
}

/// How often the store was restored, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    /// Lanes stored under another one have not been heard for certain since.
    pub(crate) number: i64,
    /// None if it never was.
    pub(crate) restored: Option<UnixMillis>,
}

impl Generation {
    /// The present one, for the transaction that is open.
    pub(crate) fn now(connection: &Connection) -> Result<Self, Failure> {
        let mut statement = connection.prepare_cached("SELECT generation, restored_at FROM epoch")?;
        Ok(statement.query_row([], |row| {
            let restored = row.get::<_, Option<i64>>(1)?.map(|_| rows::time(row, 1)).transpose()?;
            Ok(Self { number: row.get(0)?, restored })
        })?)
    }
}

impl Database {
    /// Takes the store for restored from now on: for an operator who restored both of its files at once, and for
    /// one who put versions back into the vault that the ledger may not know.
    pub async fn declare_restored(&self, actor: &str, reason: &str, detail: &str) -> Result<(), Error> {
        let beside = self.beside().to_owned();
        let (actor, reason, detail) = (actor.to_owned(), reason.to_owned(), detail.to_owned());
        let renew = move |batch: &mut Batch<'_>| renew(batch, &beside, &actor, &reason, &detail);
        self.write("drawing a new epoch", Durability::Told, renew).await
    }

    /// Counts the mark up.
    pub(crate) async fn count_mark(&self) -> Result<(), Error> {
        let beside = self.beside().to_owned();
        let count = move |batch: &mut Batch<'_>| mark(batch, &beside);
        self.write("marking how far the store has come", Durability::Told, count).await
    }
}

/// Takes what could match from a copy of a store, so that it is taken for restored wherever it is opened.
pub(crate) fn strip(copy: &Connection) -> Result<(), rusqlite::Error> {
    copy.execute("UPDATE epoch SET epoch = x'', mark = 0", []).map(drop)
}
