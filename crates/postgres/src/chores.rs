//! Chores.

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::chores::{Chore, Chores, Report};

use crate::database::{Database, Mode, Param};
use crate::rows;

/// Of several processes that ask at once, one changes the row; the others see it changed.
const TAKE: &str = "INSERT INTO chores AS c (name, due) VALUES ($1, $3) \
 ON CONFLICT (name) DO UPDATE SET due = $3 WHERE c.due <= $2 RETURNING 1";

const FINISH: &str = "INSERT INTO chores AS c (name, due, reported, report) VALUES ($1, $2, $3, $4) \
 ON CONFLICT (name) DO UPDATE SET due = greatest(c.due, $2), reported = $3, report = $4 \
 WHERE c.reported IS NULL OR c.reported <= $3";

#[async_trait]
impl Chores for Database {
    async fn take(&self, chore: Chore, now: UnixMillis, until: UnixMillis) -> Result<bool, Error> {
        let params: [Param<'_>; 3] = [&chore.as_str(), &rows::to_column(now), &rows::to_column(until)];
        self.retrying("taking a chore's turn", async || {
            let taken = self.at_once(Mode::Internal, &[(TAKE, &params)]).await?;
            Ok(taken.iter().flatten().next().is_some())
        })
        .await
    }

    async fn finish(&self, chore: Chore, report: Report, due: UnixMillis) -> Result<(), Error> {
        let (at, text) = (rows::to_column(report.at), rows::text(&report.text));
        let params: [Param<'_>; 4] = [&chore.as_str(), &rows::to_column(due), &at, &text];
        self.retrying("keeping a chore's report", async || {
            self.at_once(Mode::Internal, &[(FINISH, &params)]).await.map(drop)
        })
        .await
    }

    async fn last(&self, chore: Chore) -> Result<Option<Report>, Error> {
        let sql = "SELECT reported, report FROM chores WHERE name = $1 AND reported IS NOT NULL";
        self.retrying("reading a chore's report", async || {
            let found = self.read(sql, &[&chore.as_str()]).await?;
            let read = |row| Ok(Report { at: rows::time(row, 0)?, text: rows::column(row, 1)? });
            found.first().map(read).transpose()
        })
        .await
    }
}
