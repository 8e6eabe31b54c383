//! Results that agents poll.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_ports::Error;
use keyturn_ports::results::{NewResult, Published, ResultBody, ResultReader, ResultWriter};
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::lookups::look_up;
use crate::rows;
use crate::signals::Woken;

/// Those who wait for results look again after so many times the usual span: each of them asks for one, and nearly
/// always they are woken.
const LOOK_SELDOM: u32 = 5;

/// Holds the lanes, so that no version ceases to be outstanding between the look and the commit.
const OUTSTANDING: &str =
    "SELECT lane, outstanding FROM lanes WHERE lane = ANY($1::bytea[]) ORDER BY lane FOR SHARE";

/// The first result stands, unless it has expired.
const PUBLISH: &str = "INSERT INTO results AS r (request, body, expires_at) \
 SELECT request, body, expires_at \
 FROM unnest($2::bytea[], $3::bytea[], $4::bigint[]) AS g (request, body, expires_at) ORDER BY request \
 ON CONFLICT (request) DO UPDATE SET body = excluded.body, expires_at = excluded.expires_at \
     WHERE r.expires_at <= now_ms($1) \
 RETURNING request";

const KNOWN: &str =
    "SELECT request FROM results WHERE request = ANY($2::bytea[]) AND expires_at > now_ms($1)";

#[async_trait]
impl ResultReader for Database {
    async fn result(&self, request: RequestId) -> Result<Option<ResultBody>, Error> {
        look_up(self, request).await
    }

    async fn publication(&self, _: RequestId) {
        let mut rung = std::pin::pin!(self.signals().of_results().notified());
        rung.as_mut().enable();
        drop(tokio::time::timeout(self.look_every().saturating_mul(LOOK_SELDOM), rung).await);
    }
}

#[async_trait]
impl ResultWriter for Database {
    async fn publish(&self, results: Vec<NewResult>) -> Result<Vec<Published>, Error> {
        let carrying = results.iter().any(|result| result.carries.is_some());
        let mode = if carrying { Mode::Told } else { self.effects() };
        let published =
            self.retrying("publishing results", async || publish(self, mode, &results).await).await?;
        if published.contains(&Published::Stored) {
            self.signals().committed(Woken::RESULTS);
        }
        Ok(published)
    }
}

async fn publish(database: &Database, mode: Mode, results: &[NewResult]) -> Result<Vec<Published>, Failure> {
    let lanes: Vec<&[u8]> = results
        .iter()
        .filter_map(|one| one.carries.as_ref())
        .map(|(lane, _)| lane.as_bytes().as_slice())
        .collect();
    let asked: Vec<&[u8]> = results.iter().map(|one| one.request.as_bytes().as_slice()).collect();
    let now = database.now_given();
    let (work, found) = database.begin(mode, &[(OUTSTANDING, &[&lanes]), (KNOWN, &[&now, &asked])]).await?;
    let chosen = match choose(&found, results) {
        Ok(chosen) => chosen,
        Err(failure) => return Err(work.undo(failure).await),
    };
    let requests: Vec<&[u8]> = chosen.new.iter().map(|one| one.request.as_bytes().as_slice()).collect();
    let bodies: Vec<Option<&[u8]>> = chosen
        .new
        .iter()
        .map(|one| match &one.body {
            ResultBody::Signed(body) => Some(body.as_bytes()),
            ResultBody::Refused => None,
        })
        .collect();
    let expiries: Vec<i64> = chosen.new.iter().map(|one| rows::to_column(one.expires)).collect();
    let params: [Param<'_>; 4] = [&now, &requests, &bodies, &expiries];
    let stored = work.commit(&[(PUBLISH, &params)]).await?;
    let mut stored: HashSet<RequestId> =
        stored.first().into_iter().flatten().map(|row| rows::request(row, 0)).collect::<Result<_, _>>()?;
    // What another notifier stored first, between the look and the insertion, stands.
    let final_answer = |(request, answer): (RequestId, Published)| match answer {
        Published::Stored if !stored.remove(&request) => Published::Existing,
        answer => answer,
    };
    Ok(results.iter().map(|one| one.request).zip(chosen.answers).map(final_answer).collect())
}

/// What is to be stored, and the answers if it is.
struct Chosen<'a> {
    new: Vec<&'a NewResult>,
    answers: Vec<Published>,
}

fn choose<'a>(found: &[Vec<Row>], results: &'a [NewResult]) -> Result<Chosen<'a>, Failure> {
    let [lanes, known] = found else {
        return Err(Failure::outrun());
    };
    let mut outstanding: HashMap<LaneId, VersionId> = HashMap::new();
    for row in lanes {
        if rows::column::<Option<&[u8]>>(row, 1)?.is_some() {
            outstanding.insert(rows::lane(row, 0)?, rows::version(row, 1)?);
        }
    }
    let mut known: HashSet<RequestId> =
        known.iter().map(|row| rows::request(row, 0)).collect::<Result<_, _>>()?;
    let mut chosen = Chosen { new: Vec::new(), answers: Vec::new() };
    for result in results {
        let superseded =
            result.carries.is_some_and(|(lane, version)| outstanding.get(&lane) != Some(&version));
        chosen.answers.push(if known.contains(&result.request) {
            Published::Existing
        } else if superseded {
            Published::Superseded
        } else {
            known.insert(result.request);
            chosen.new.push(result);
            Published::Stored
        });
    }
    Ok(chosen)
}
