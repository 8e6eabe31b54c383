//! Turns that the processes of all machines share, by the server's clock.

use async_trait::async_trait;
use keyturn_ports::Error;
use keyturn_ports::turns::{Booked, Turns, Wanted};

use crate::database::{Database, Mode};
use crate::failure::Failure;
use crate::rows;

/// A bucket that was never used, so that there is a row to lock.
const MAKE: &str = "INSERT INTO turns (bucket, next_us) VALUES ($1, 0) ON CONFLICT (bucket) DO NOTHING";

/// Whoever comes second waits here until the first has booked.
const LOCK: &str = "SELECT next_us FROM turns WHERE bucket = $1 FOR UPDATE";

/// Asked for after the lock was had, so that it is not older than what the row says.
const NOW: &str = "SELECT now_ms($1)";

const BOOK: &str = "UPDATE turns SET next_us = $2 WHERE bucket = $1";

#[async_trait]
impl Turns for Database {
    /// A crash of the server may take the last bookings.
    async fn book(&self, bucket: &str, wanted: Wanted) -> Result<Booked, Error> {
        self.retrying("booking turns", async || book(self, bucket, wanted).await).await
    }
}

async fn book(database: &Database, bucket: &str, wanted: Wanted) -> Result<Booked, Failure> {
    let now = database.now_given();
    let (work, found) =
        database.begin(Mode::Internal, &[(MAKE, &[&bucket]), (LOCK, &[&bucket]), (NOW, &[&now])]).await?;
    let number = |at: usize| {
        let row = found.get(at).and_then(|rows| rows.first());
        row.map_or(Ok(0_u64), |row| rows::number(row, 0))
    };
    let (next, now) = match (number(1), number(2)) {
        (Ok(next), Ok(now)) => (next, now.saturating_mul(1000)),
        (Err(failure), _) | (_, Err(failure)) => return Err(work.undo(failure).await),
    };
    let (booked, next) = wanted.of(next, now);
    let next = i64::try_from(next).unwrap_or(i64::MAX);
    work.commit(&[(BOOK, &[&bucket, &next])]).await?;
    Ok(booked)
}
