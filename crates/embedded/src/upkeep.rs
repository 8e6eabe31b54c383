//! Forgetting, a few rows of each table at a time, from their old ends.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::upkeep::{Before, Forgotten, Upkeep};
use rusqlite::{Connection, OptionalExtension as _};

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

/// A message's nonce is older than the place it takes on a queue: by the nonce's life and by what it waited on the
/// queues before. This is more than both.
const ON_THE_WAY: Duration = Duration::from_hours(24);

#[async_trait]
impl Upkeep for Database {
    async fn forget(&self, before: Before, limit: usize) -> Result<Forgotten, Error> {
        let oldest = self.read("looking for the oldest dead letter", oldest_dead_letter).await?;
        let effects = oldest.map_or(before.effects, |at| before.effects.min(at.minus(ON_THE_WAY)));
        let before = Before { effects, ..before };
        let forget = move |batch: &mut Batch<'_>| forget(batch, &before, limit);
        self.write("forgetting what is old", Durability::Internal, forget).await
    }

    async fn dead_since(&self, before: UnixMillis) -> Result<u64, Error> {
        self.read("counting old dead letters", move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT count(*) FROM dead_letters WHERE died_at < ?1")?;
            Ok(statement.query_row([rows::to_column(before)], |row| rows::number(row, 0))?)
        })
        .await
    }

    async fn mark(&self) -> Result<(), Error> {
        self.count_mark().await
    }
}

fn oldest_dead_letter(connection: &Connection) -> Result<Option<UnixMillis>, Failure> {
    let found = connection
        .prepare_cached("SELECT enqueued_at FROM dead_letters ORDER BY enqueued_at LIMIT 1")?
        .query_row([], |row| rows::time(row, 0))
        .optional()?;
    Ok(found)
}

fn forget(batch: &Batch<'_>, before: &Before, limit: usize) -> Result<Forgotten, Failure> {
    let changed = |deleted: usize| u64::try_from(deleted).unwrap_or(u64::MAX);
    let delete = |sql, before| -> Result<u64, Failure> {
        Ok(changed(batch.execute(sql, (rows::to_column(before), rows::count(limit)))?))
    };
    let through = before.events_through.map_or(i64::MAX, |place| i64::try_from(place).unwrap_or(i64::MAX));
    Ok(Forgotten {
        accepted: delete(
            "DELETE FROM accepted WHERE (nonce_ms, request) IN (SELECT nonce_ms, request FROM accepted \
             WHERE nonce_ms < ?1 ORDER BY nonce_ms LIMIT ?2)",
            before.accepted,
        )?,
        effects: delete(
            "DELETE FROM effects WHERE (nonce_ms, mark) IN (SELECT nonce_ms, mark FROM effects \
             WHERE nonce_ms < ?1 ORDER BY nonce_ms LIMIT ?2)",
            before.effects,
        )?,
        // Facts are stored in the order of their times, but for clocks that differ: the oldest rows are looked at, and
        // the first that is young enough ends it. The newest row stays, so that no number is given out twice.
        events: changed(batch.execute(
            "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE id <= ?3 AND id < coalesce(\
             (SELECT id FROM (SELECT id, at FROM events ORDER BY id LIMIT ?2) WHERE at >= ?1 ORDER BY id LIMIT 1), \
             (SELECT max(id) FROM events)) ORDER BY id LIMIT ?2)",
            (rows::to_column(before.events), rows::count(limit), through),
        )?),
        results: delete(
            "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE expires_at <= ?1 \
             ORDER BY expires_at LIMIT ?2)",
            before.results,
        )?,
    })
}
