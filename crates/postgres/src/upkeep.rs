//! Forgetting, a few rows of each table at a time, from their old ends. Rows that another process is just forgetting
//! are skipped.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::upkeep::{Before, Forgotten, Upkeep};
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;

/// A message's nonce is older than the place it takes on a queue: by the nonce's life and by what it waited on the
/// queues before. This is more than both.
const ON_THE_WAY: Duration = Duration::from_hours(24);

const ACCEPTED: &str = "DELETE FROM accepted WHERE (nonce_ms, request) IN (SELECT nonce_ms, request FROM accepted \
 WHERE nonce_ms < $1 ORDER BY nonce_ms LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";

const EFFECTS: &str = "DELETE FROM effects WHERE (nonce_ms, mark) IN (SELECT nonce_ms, mark FROM effects \
 WHERE nonce_ms < $1 ORDER BY nonce_ms LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";

/// Facts are stored in the order of their times, but for clocks that differ: the oldest rows are looked at, and the
/// first that is young enough ends it.
const EVENTS: &str = "DELETE FROM events WHERE id IN ( \
 SELECT id FROM events WHERE id <= $3 AND id < coalesce( \
     (SELECT min(id) FROM (SELECT id, at FROM events ORDER BY id LIMIT $2) AS oldest WHERE at >= $1), \
     (SELECT max(id) FROM events)) \
 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";

const RESULTS: &str = "DELETE FROM results WHERE request IN (SELECT request FROM results \
 WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";

#[async_trait]
impl Upkeep for Database {
    async fn forget(&self, before: Before, limit: usize) -> Result<Forgotten, Error> {
        self.retrying("forgetting what is old", async || forget(self, before, limit).await).await
    }

    async fn dead_since(&self, before: UnixMillis) -> Result<u64, Error> {
        let sql = "SELECT count(*) FROM dead_letters WHERE died_at < $1";
        self.retrying("counting old dead letters", async || {
            let found = self.read(sql, &[&rows::to_column(before)]).await?;
            found.first().map_or(Ok(0), |row| rows::number(row, 0))
        })
        .await
    }

    /// There is nothing to note: that the database was put back shows in where it is.
    async fn mark(&self) -> Result<(), Error> {
        self.look_for_restore().await
    }
}

async fn forget(database: &Database, before: Before, limit: usize) -> Result<Forgotten, Failure> {
    let oldest = database.read("SELECT min(enqueued_at) FROM dead_letters", &[]).await?;
    let oldest = oldest.first().map(|row| rows::optional_time(row, 0)).transpose()?.flatten();
    let effects = oldest.map_or(before.effects, |at| before.effects.min(at.minus(ON_THE_WAY)));
    let limit = rows::count(limit);
    let through = before.events_through.map_or(i64::MAX, rows::place);
    let run = async |sql: &'static str, params: &[Param<'_>]| {
        let deleted: Vec<Vec<Row>> = database.at_once(Mode::Internal, &[(sql, params)]).await?;
        Ok::<_, Failure>(deleted.first().map_or(0, |rows| rows::length(rows)))
    };
    let delete = async |sql, before: UnixMillis| run(sql, &[&rows::to_column(before), &limit]).await;
    Ok(Forgotten {
        accepted: delete(ACCEPTED, before.accepted).await?,
        effects: delete(EFFECTS, effects).await?,
        events: run(EVENTS, &[&rows::to_column(before.events), &limit, &through]).await?,
        results: delete(RESULTS, before.results).await?,
    })
}
