//! Cursors: how far the audit and the events were shipped.
//!
//! Holding a cursor is a commit that waits for the disk, and with it every earlier one is there: only then may rows that
//! were read be shown outside. Moving it is none: a crash of the server that takes the move has rows shipped twice.
//!
//! Rows of both streams get their places and are committed under a lock of their stream, so that whoever sees a place
//! sees every earlier one too.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_ports::Error;
use keyturn_ports::shipping::{Holder, Position, Shipping, Stream};

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;

const AUDIT: &str = "SELECT place, holder, held_until > now_ms($1), \
 coalesce((SELECT max(seq) FROM audit), 0), \
 (SELECT at FROM audit WHERE seq > place ORDER BY seq LIMIT 1) FROM shipped WHERE stream = 1";

const EVENTS: &str = "SELECT place, holder, held_until > now_ms($1), \
 coalesce((SELECT max(id) FROM events), 0), \
 (SELECT at FROM events WHERE id > place ORDER BY id LIMIT 1) FROM shipped WHERE stream = 2";

const HOLD: &str = "UPDATE shipped SET holder = $3, held_until = now_ms($5) + $4 \
 WHERE stream = $1 AND place = $2 AND (holder IS NULL OR holder = $3 OR held_until <= now_ms($5)) RETURNING 1";

const ADVANCE: &str = "UPDATE shipped SET place = $4, held_until = now_ms($6) + $5 \
 WHERE stream = $1 AND holder = $2 AND place = $3 AND $4 >= $3 RETURNING 1";

#[async_trait]
impl Shipping for Database {
    async fn position(&self, stream: Stream) -> Result<Position, Error> {
        self.retrying("looking how far is shipped", async || position(self, stream).await).await
    }

    async fn hold(&self, stream: Stream, holder: Holder, place: u64, lasts: Duration) -> Result<bool, Error> {
        let (stream, place, lasts) = (code(stream), rows::place(place), rows::span(lasts));
        let (holder, now) = (holder.as_bytes().as_slice(), self.now_given());
        let params: [Param<'_>; 5] = [&stream, &place, &holder, &lasts, &now];
        self.retrying("holding what is shipped", async || changed(self, Mode::Told, HOLD, &params).await)
            .await
    }

    async fn advance(
        &self,
        stream: Stream,
        holder: Holder,
        from: u64,
        to: u64,
        lasts: Duration,
    ) -> Result<bool, Error> {
        let (stream, lasts, now) = (code(stream), rows::span(lasts), self.now_given());
        let (holder, from, to) = (holder.as_bytes().as_slice(), rows::place(from), rows::place(to));
        let params: [Param<'_>; 6] = [&stream, &holder, &from, &to, &lasts, &now];
        let advance = async || changed(self, Mode::Internal, ADVANCE, &params).await;
        self.retrying("noting what is shipped", advance).await
    }
}

async fn changed(
    database: &Database,
    mode: Mode,
    sql: &'static str,
    params: &[Param<'_>],
) -> Result<bool, Failure> {
    let found = database.at_once(mode, &[(sql, params)]).await?;
    Ok(found.first().is_some_and(|rows| !rows.is_empty()))
}

async fn position(database: &Database, stream: Stream) -> Result<Position, Failure> {
    let sql = match stream {
        Stream::Audit => AUDIT,
        Stream::Events => EVENTS,
    };
    let found = database.read(sql, &[&database.now_given()]).await?;
    let row = found.first().ok_or_else(|| Failure::corrupt("what is shipped", "its row is gone"))?;
    let held: bool = rows::column(row, 2)?;
    let holder: Option<&[u8]> = rows::column(row, 1)?;
    let holder =
        holder.is_some().then(|| rows::identifier(row, 1, |bytes| bytes.try_into().ok())).transpose()?;
    Ok(Position {
        place: rows::number(row, 0)?,
        newest: rows::number(row, 3)?,
        waiting_since: rows::optional_time(row, 4)?,
        held_by: holder.filter(|_| held).map(Holder::from_bytes),
    })
}

fn code(stream: Stream) -> i16 {
    match stream {
        Stream::Audit => 1,
        Stream::Events => 2,
    }
}
