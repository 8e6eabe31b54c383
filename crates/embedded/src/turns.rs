//! Turns that the processes of this machine share.

use async_trait::async_trait;
use keyturn_ports::Error;
use keyturn_ports::turns::{Booked, Turns, Wanted};
use rusqlite::OptionalExtension as _;

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

#[async_trait]
impl Turns for Database {
    /// A power loss may take the last bookings; the service has forgotten those calls before the machine is back.
    async fn book(&self, bucket: &str, wanted: Wanted) -> Result<Booked, Error> {
        let bucket = bucket.to_owned();
        let book = move |batch: &mut Batch<'_>| book(batch, &bucket, wanted);
        self.write("booking turns", Durability::Internal, book).await
    }
}

fn book(batch: &Batch<'_>, bucket: &str, wanted: Wanted) -> Result<Booked, Failure> {
    let next = batch
        .prepare("SELECT next_us FROM turns WHERE bucket = ?1")?
        .query_row([bucket], |row| rows::number(row, 0))
        .optional()?;
    let (booked, next) = wanted.of(next.unwrap_or(0), batch.now.0.saturating_mul(1000));
    batch.execute(
        "INSERT INTO turns (bucket, next_us) VALUES (?1, ?2) \
         ON CONFLICT (bucket) DO UPDATE SET next_us = excluded.next_us",
        (bucket, i64::try_from(next).unwrap_or(i64::MAX)),
    )?;
    Ok(booked)
}
