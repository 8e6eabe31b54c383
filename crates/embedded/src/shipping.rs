//! Cursors: how far the audit and the events were shipped.
//!
//! Holding a cursor is a commit that waits for the disk, and with it every earlier one is there: only then may rows that
//! were read be shown outside. Moving it is none: a power loss that takes the move has rows shipped twice.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_ports::Error;
use keyturn_ports::shipping::{Holder, Position, Shipping, Stream};
use rusqlite::Connection;

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

const AUDIT: &str = "SELECT place, holder, held_until, (SELECT max(seq) FROM audit), \
 (SELECT at FROM audit WHERE seq > place ORDER BY seq LIMIT 1) FROM shipped WHERE stream = 1";

const EVENTS: &str = "SELECT place, holder, held_until, (SELECT max(id) FROM events), \
 (SELECT at FROM events WHERE id > place ORDER BY id LIMIT 1) FROM shipped WHERE stream = 2";

#[async_trait]
impl Shipping for Database {
    async fn position(&self, stream: Stream) -> Result<Position, Error> {
        let now = rows::to_column(self.now());
        self.read("looking how far is shipped", move |connection| position(connection, stream, now)).await
    }

    async fn hold(&self, stream: Stream, holder: Holder, place: u64, lasts: Duration) -> Result<bool, Error> {
        let hold = move |batch: &mut Batch<'_>| {
            let now = rows::to_column(batch.now);
            let held = batch.execute(
                "UPDATE shipped SET holder = ?3, held_until = ?4 WHERE stream = ?1 AND place = ?2 \
                 AND (holder IS NULL OR holder = ?3 OR held_until <= ?5)",
                (code(stream), column(place), holder.as_bytes(), until(now, lasts), now),
            )?;
            Ok(held > 0)
        };
        self.write("holding what is shipped", Durability::Told, hold).await
    }

    async fn advance(
        &self,
        stream: Stream,
        holder: Holder,
        from: u64,
        to: u64,
        lasts: Duration,
    ) -> Result<bool, Error> {
        let advance = move |batch: &mut Batch<'_>| {
            let until = until(rows::to_column(batch.now), lasts);
            let moved = batch.execute(
                "UPDATE shipped SET place = ?4, held_until = ?5 \
                 WHERE stream = ?1 AND holder = ?2 AND place = ?3 AND ?4 >= ?3",
                (code(stream), holder.as_bytes(), column(from), column(to), until),
            )?;
            Ok(moved > 0)
        };
        self.write("noting what is shipped", Durability::Internal, advance).await
    }
}

fn position(connection: &Connection, stream: Stream, now: i64) -> Result<Position, Failure> {
    let sql = match stream {
        Stream::Audit => AUDIT,
        Stream::Events => EVENTS,
    };
    let found = connection.prepare_cached(sql)?.query_row([], |row| {
        let held = row.get::<_, i64>(2)? > now;
        let waits: Option<i64> = row.get(4)?;
        Ok(Position {
            place: rows::number(row, 0)?,
            newest: row.get::<_, Option<i64>>(3)?.map_or(Ok(0), |_| rows::number(row, 3))?,
            waiting_since: waits.map(|_| rows::time(row, 4)).transpose()?,
            held_by: row.get::<_, Option<[u8; 16]>>(1)?.filter(|_| held).map(Holder::from_bytes),
        })
    })?;
    Ok(found)
}

fn code(stream: Stream) -> i64 {
    match stream {
        Stream::Audit => 1,
        Stream::Events => 2,
    }
}

fn column(place: u64) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

fn until(now: i64, lasts: Duration) -> i64 {
    now.saturating_add(i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX))
}
