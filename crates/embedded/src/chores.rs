//! Chores.

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::chores::{Chore, Chores, Report};
use rusqlite::OptionalExtension as _;

use crate::batch::Batch;
use crate::database::Database;
use crate::rows;
use crate::writer::Durability;

#[async_trait]
impl Chores for Database {
    async fn take(&self, chore: Chore, now: UnixMillis, until: UnixMillis) -> Result<bool, Error> {
        let take = move |batch: &mut Batch<'_>| {
            let taken = batch.execute(
                "INSERT INTO chores (name, due) VALUES (?1, ?3) \
                 ON CONFLICT (name) DO UPDATE SET due = ?3 WHERE due <= ?2",
                (chore.as_str(), rows::to_column(now), rows::to_column(until)),
            )?;
            Ok(taken > 0)
        };
        self.write("taking a chore's turn", Durability::Internal, take).await
    }

    async fn finish(&self, chore: Chore, report: Report, due: UnixMillis) -> Result<(), Error> {
        let finish = move |batch: &mut Batch<'_>| {
            batch.execute(
                "INSERT INTO chores (name, due, reported, report) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (name) DO UPDATE SET due = max(due, ?2), reported = ?3, report = ?4 \
                 WHERE reported IS NULL OR reported <= ?3",
                (chore.as_str(), rows::to_column(due), rows::to_column(report.at), &report.text),
            )?;
            Ok(())
        };
        self.write("keeping a chore's report", Durability::Internal, finish).await
    }

    async fn last(&self, chore: Chore) -> Result<Option<Report>, Error> {
        self.read("reading a chore's report", move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT reported, report FROM chores WHERE name = ?1 AND reported IS NOT NULL",
            )?;
            let read = statement
                .query_row([chore.as_str()], |row| Ok(Report { at: rows::time(row, 0)?, text: row.get(1)? }));
            Ok(read.optional()?)
        })
        .await
    }
}
