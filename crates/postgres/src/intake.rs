//! The intake: memory and queue are in one database, so one statement does both.

use std::collections::HashSet;

use async_trait::async_trait;
use keyturn_domain::ids::RequestId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::intake::{Accepted, Intake, Submission};
use keyturn_ports::queue::QueueName;

use crate::database::{Database, Mode, Param};
use crate::rows;
use crate::signals::Woken;

/// Remembers, and sends what is new. Where two replicas are given the same message at once, the second one
/// waits for the first one's commit and finds it known.
const ACCEPT: &str = "WITH given AS ( \
     SELECT DISTINCT ON (nonce_ms, request) * \
     FROM unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[]) \
         WITH ORDINALITY AS g (nonce_ms, request, device, body, place) \
     ORDER BY nonce_ms, request, place), \
 remembered AS ( \
     INSERT INTO accepted (nonce_ms, request) SELECT nonce_ms, request FROM given ORDER BY nonce_ms, request \
     ON CONFLICT DO NOTHING RETURNING nonce_ms, request), \
 sent AS ( \
     INSERT INTO messages (queue, visible_at, enqueued_at, deliveries, request, device, body, attempts) \
     SELECT 1, now_ms($1), now_ms($1), 0, given.request, given.device, given.body, '[]' \
     FROM given JOIN remembered USING (nonce_ms, request) ORDER BY place), \
 counted AS ( \
     UPDATE queue_counters SET total = total + (SELECT count(*) FROM remembered), \
         sent = sent + (SELECT count(*) FROM remembered) \
     WHERE queue = 1 AND slot = pg_backend_pid() % 64) \
 SELECT nonce_ms, request FROM remembered";

#[async_trait]
impl Intake for Database {
    async fn accept(&self, submissions: Vec<Submission>) -> Result<Vec<Accepted>, Error> {
        let keys: Vec<(i64, RequestId)> =
            submissions.iter().map(|one| (rows::to_column(one.nonce), one.message.request)).collect();
        let nonces: Vec<i64> = keys.iter().map(|(nonce, _)| *nonce).collect();
        let requests: Vec<&[u8]> = keys.iter().map(|(_, request)| request.as_bytes().as_slice()).collect();
        let devices: Vec<&[u8]> =
            submissions.iter().map(|one| one.message.device.as_bytes().as_slice()).collect();
        let bodies: Vec<&[u8]> = submissions.iter().map(|one| one.message.body.as_bytes()).collect();
        let mut new: HashSet<(i64, RequestId)> = self
            .retrying("accepting messages", async || {
                let now = self.now_given();
                let params: [Param<'_>; 5] = [&now, &nonces, &requests, &devices, &bodies];
                let found = self.at_once(Mode::Told, &[(ACCEPT, &params)]).await?;
                found
                    .iter()
                    .flatten()
                    .map(|row| Ok((rows::column(row, 0)?, rows::request(row, 1)?)))
                    .collect()
            })
            .await?;
        if !new.is_empty() {
            self.signals().committed(Woken::queue(QueueName::Requests));
        }
        let answer = |key| if new.remove(key) { Accepted::New } else { Accepted::Known };
        Ok(keys.iter().map(answer).collect())
    }

    async fn knows(&self, nonce: UnixMillis, request: RequestId) -> Result<bool, Error> {
        let (nonce, request) = (rows::to_column(nonce), request.as_bytes().as_slice());
        let sql = "SELECT 1 FROM accepted WHERE nonce_ms = $1 AND request = $2";
        self.retrying("looking an accepted message up", async || {
            Ok(!self.read(sql, &[&nonce, &request]).await?.is_empty())
        })
        .await
    }
}
