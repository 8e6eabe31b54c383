//! The epoch: what tells a database that was restored from a backup from one that went on.
//!
//! The table `epoch` says where the database is: the identifier of its cluster, the timeline of the cluster's log, the
//! database, and the table itself, by the number the server gave it. None of these can be chosen by whoever restores
//! a backup, and all of them are asked for with every connection that is made, and from time to time:
//!
//! | what was done | what differs |
//! |---|---|
//! | a dump was read into a database | the table's number |
//! | a recovery to a point in time, a standby was promoted | the timeline |
//! | moved to another cluster, `pg_upgrade` | the identifier |
//!
//! A promoted standby may lack what was told to devices unless it was a synchronous one, so it is taken for restored as
//! well. That is the safe side: devices are heard anew, and until then what is shown of them is only more. Not noticed
//! are a file-level copy, such as a snapshot of the server's disk, that is started as it is on the timeline it had, and
//! a dump of rows alone that is read into tables that stay: whoever does that has to say so.

use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::{Action, NewRow};
use tokio_postgres::Row;
use tracing::error;

use crate::arrival;
use crate::audit;
use crate::database::{Database, Mode};
use crate::failure::Failure;
use crate::pool::{Dialer, Session, Use};
use crate::rows;

/// The generation, as [`Generation::of`] reads it.
pub(crate) const GENERATION: &str = "SELECT generation, restored_at FROM epoch";

/// Of all who notice at once, one draws the new epoch, and the others find nothing left to do.
const RENEW_IF_ELSEWHERE: &str = "UPDATE epoch SET place = place_now(), generation = generation + 1, \
 restored_at = now_ms($1) WHERE place <> place_now() RETURNING restored_at";

const RENEW: &str = "UPDATE epoch SET place = place_now(), generation = generation + 1, \
 restored_at = now_ms($1) RETURNING restored_at";

/// How often the store was restored, and when last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    /// Lanes stored under another one have not been heard for certain since.
    pub(crate) number: i64,
    /// None if it never was.
    pub(crate) restored: Option<UnixMillis>,
}

impl Generation {
    /// What [`GENERATION`] found.
    pub(crate) fn of(found: &[Row]) -> Result<Self, Failure> {
        let row = found.first().ok_or_else(|| Failure::corrupt("the epoch", "it is gone"))?;
        Ok(Self { number: rows::column(row, 0)?, restored: rows::optional_time(row, 1)? })
    }
}

const COMPARE: &str =
    "SELECT place, place_now(), (SELECT state FROM arrival WHERE state <> 'arrived') FROM epoch";

/// Compares where the database is with where it says that it is, and draws a new epoch where they differ. Refuses one
/// whose state is not all there.
pub(crate) async fn settle(session: &Session, dialer: &Dialer) -> Result<(), Failure> {
    let now = dialer.now_given();
    let compare = session.prepare(COMPARE).await?;
    let found = session.client().query_one(&compare, &[]).await?;
    let (was, is): (String, String) = (rows::column(&found, 0)?, rows::column(&found, 1)?);
    if rows::column::<Option<&str>>(&found, 2)?.is_some() && dialer.use_of() != Use::Arrival {
        return Err(Failure::denied(arrival::NOT_THERE));
    }
    if was == is {
        return Ok(());
    }
    session.client().batch_execute("BEGIN").await?;
    match renew(session, now, &format!("it was at {was} and is at {is}")).await {
        Ok(renewed) => {
            session.client().batch_execute("COMMIT").await?;
            if renewed {
                error!(
                    was,
                    is, "the database was restored from a backup, or moved; every device is heard anew"
                );
                metrics::counter!("keyturn_store_restored_total").increment(1);
            }
            Ok(())
        }
        Err(failure) => {
            session.client().batch_execute("ROLLBACK").await?;
            Err(failure)
        }
    }
}

async fn renew(session: &Session, now: Option<i64>, detail: &str) -> Result<bool, Failure> {
    let renew = session.prepare(RENEW_IF_ELSEWHERE).await?;
    let renewed = session.client().query_opt(&renew, &[&now]).await?;
    let Some(row) = renewed else { return Ok(false) };
    audit::append_within(session, &noted(rows::time(&row, 0)?, "keyturn", "", detail)).await?;
    Ok(true)
}

fn noted(at: UnixMillis, actor: &str, reason: &str, detail: &str) -> NewRow {
    NewRow {
        at,
        actor: actor.to_owned(),
        action: Action::StoreRestored,
        device: None,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
    }
}

impl Database {
    /// Takes the store for restored from now on: for an operator who put back what nothing can notice, and for one
    /// who put versions back into the vault that the ledger may not know.
    pub async fn declare_restored(&self, actor: &str, reason: &str, detail: &str) -> Result<(), Error> {
        self.retrying("drawing a new epoch", async || {
            let (work, found) = self.begin(Mode::Told, &[(RENEW, &[&self.now_given()])]).await?;
            let done = async {
                let row = found.first().and_then(|rows| rows.first()).ok_or_else(Failure::outrun)?;
                let row = noted(rows::time(row, 0)?, actor, reason, detail);
                audit::append_within(work.session()?, &row).await
            };
            match done.await {
                Ok(()) => work.commit(&[]).await.map(drop),
                Err(failure) => Err(work.undo(failure).await),
            }
        })
        .await
    }

    /// Looks whether the database is where it was.
    pub(crate) async fn look_for_restore(&self) -> Result<(), Error> {
        self.retrying("looking whether the database was restored", async || {
            settle(&*self.lend().await?, self.dialer()).await
        })
        .await
    }
}
