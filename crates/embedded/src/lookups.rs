//! Looking results up, which takes less than the way to a thread and back. Where all connections are busy, those who come
//! until one is free share a read.

use std::sync::{Mutex, PoisonError};

use keyturn_domain::ids::RequestId;
use keyturn_ports::results::ResultBody;
use keyturn_ports::{Error, Kind};
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

use crate::database::Database;
use crate::failure::Failure;
use crate::rows;

const ACTION: &str = "reading a result";

type Found = Result<Option<ResultBody>, Error>;

/// Who asks for what, until the next read begins.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<Vec<(RequestId, oneshot::Sender<Found>)>>);

impl Lookups {
    fn take(&self) -> Vec<(RequestId, oneshot::Sender<Found>)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds one. Returns whether it is the first, who has to see to a read.
    fn add(&self, request: RequestId, tell: oneshot::Sender<Found>) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((request, tell));
        waiting.len() == 1
    }
}

/// The result of a message, in a read that begins after this call.
pub(crate) async fn look_up(database: &Database, request: RequestId) -> Found {
    let now = rows::to_column(database.now());
    if let Ok(found) = database.readers().try_here(ACTION, move |connection| look(connection, request, now)) {
        return found;
    }
    let (tell, told) = oneshot::channel();
    if database.lookups().add(request, tell) {
        // On a task of its own: others wait for this read, whatever becomes of the one who was first.
        let duty = Duty(Some(database.clone()));
        tokio::spawn(duty.done());
    }
    told.await.unwrap_or_else(|_| Err(Error::new(Kind::Unavailable, ACTION, "the read did not take place")))
}

/// The duty to see to a read. Where it is given up, those who wait for it learn of it.
struct Duty(Option<Database>);

impl Duty {
    async fn done(mut self) {
        let Some(database) = self.0.clone() else { return };
        let (asked, now) = (database.clone(), rows::to_column(database.now()));
        let read = database
            .read(ACTION, move |connection| {
                let looked = |(request, tell)| {
                    (tell, look(connection, request, now).map_err(|failure| failure.during(ACTION)))
                };
                Ok(asked.lookups().take().into_iter().map(looked).collect::<Vec<_>>())
            })
            .await;
        let Ok(found) = read else { return };
        // The file is let go of before anybody is told: whoever is may close it next.
        self.0 = None;
        drop(database);
        for (tell, found) in found {
            // Who has stopped waiting is told nothing.
            let _ = tell.send(found);
        }
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(database) = &self.0 {
            drop(database.lookups().take());
        }
    }
}

fn look(connection: &Connection, request: RequestId, now: i64) -> Result<Option<ResultBody>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT body FROM results WHERE request = ?1 AND expires_at > ?2")?;
    let found = statement.query_row((request.as_bytes(), now), |row| row.get::<_, Option<String>>(0));
    Ok(found.optional()?.map(|body| body.map_or(ResultBody::Refused, ResultBody::Signed)))
}
