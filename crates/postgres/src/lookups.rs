//! Looking results up, many at once: whenever something is published, everybody who waits for a result looks. A read
//! each would take every connection of the process for as long as they are many; so those that come while a read waits
//! for its connection, or while another one is under way, share the next.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use keyturn_domain::ids::RequestId;
use keyturn_ports::results::ResultBody;
use keyturn_ports::{Error, Kind};
use tokio::sync::oneshot;
use tokio_postgres::Row;

use crate::database::Database;
use crate::failure::Failure;
use crate::rows;

const ACTION: &str = "reading a result";

const FIND: &str =
    "SELECT request, body FROM results WHERE request = ANY($1::bytea[]) AND expires_at > now_ms($2)";

type Found = Result<Option<ResultBody>, Error>;
type Asked = Vec<(RequestId, oneshot::Sender<Found>)>;

/// Who asks for what, until the next read begins.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    asked: Asked,
    /// Whether somebody sees to reads until nobody asks.
    seen_to: bool,
}

impl Lookups {
    /// Adds one. Returns whether nobody sees to it yet, so that the caller has to.
    fn add(&self, request: RequestId, tell: oneshot::Sender<Found>) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.asked.push((request, tell));
        !std::mem::replace(&mut waiting.seen_to, true)
    }

    /// Those who ask now.
    fn take(&self) -> Asked {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).asked)
    }

    /// Whether there is nobody left to ask for; then nobody sees to reads any more.
    fn done(&self) -> bool {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.seen_to = !waiting.asked.is_empty();
        !waiting.seen_to
    }

    /// Gives up: those who ask learn of it by being forgotten.
    fn give_up(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Waiting::default();
    }
}

/// The result of a message, in a read that begins after this call.
pub(crate) async fn look_up(database: &Database, request: RequestId) -> Found {
    let (tell, told) = oneshot::channel();
    if database.lookups().add(request, tell) {
        // On a task of its own: others wait for this read, whatever becomes of the one who was first.
        let duty = Duty { database: database.clone(), done: false };
        tokio::spawn(duty.done());
    }
    told.await.unwrap_or_else(|_| Err(Error::new(Kind::Unavailable, ACTION, "the read did not take place")))
}

/// The duty to see to reads. Where it is given up, those who wait for one learn of it.
struct Duty {
    database: Database,
    done: bool,
}

impl Duty {
    async fn done(mut self) {
        loop {
            read(&self.database).await;
            if self.database.lookups().done() {
                self.done = true;
                return;
            }
        }
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if !self.done {
            self.database.lookups().give_up();
        }
    }
}

/// One read for all who ask when there is a connection for it.
async fn read(database: &Database) {
    let session = database.lend().await;
    let asked = database.lookups().take();
    let requests: Vec<&[u8]> = asked.iter().map(|(request, _)| request.as_bytes().as_slice()).collect();
    let found = async {
        let session = session?;
        let find = session.prepare(FIND).await?;
        let found = session.client().query(&find, &[&requests, &database.now_given()]).await?;
        Ok::<_, Failure>(found)
    };
    let found = found.await.and_then(|found| found.iter().map(result).collect::<Result<HashMap<_, _>, _>>());
    for (request, tell) in asked {
        let answer = match &found {
            Ok(found) => found.get(&request).cloned().map(Stored::read).transpose(),
            Err(failure) => Err(failure.clone()),
        };
        // Who has stopped waiting is told nothing.
        let _ = tell.send(answer.map_err(|failure| failure.during(ACTION)));
    }
}

/// A body that is read for whoever asks for it: one that is damaged concerns nobody else.
#[derive(Clone)]
struct Stored(Option<Vec<u8>>);

fn result(row: &Row) -> Result<(RequestId, Stored), Failure> {
    Ok((rows::request(row, 0)?, Stored(rows::column(row, 1)?)))
}

impl Stored {
    fn read(self) -> Result<ResultBody, Failure> {
        let Some(body) = self.0 else { return Ok(ResultBody::Refused) };
        let body = String::from_utf8(body).map_err(|error| Failure::corrupt("a text", error))?;
        Ok(ResultBody::Signed(body))
    }
}
