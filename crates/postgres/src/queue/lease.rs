//! Leasing and renewing.

use std::collections::HashSet;
use std::time::Duration;

use keyturn_domain::ids::EventId;
use keyturn_ports::queue::{Leased, NewMessage, QueueName, Receipt};
use tokio_postgres::Row;

use super::LONGEST;
use crate::database::{Database, Mode};
use crate::failure::Failure;
use crate::rows;

/// Takes those visible for the longest time first, and then those whose time lies further ahead than any lease or
/// delay could have put it.
const TAKE: &str = "WITH due AS MATERIALIZED ( \
     SELECT id FROM messages WHERE queue = $1 AND visible_at <= now_ms($2) \
     ORDER BY visible_at, id LIMIT $3 FOR UPDATE SKIP LOCKED), \
 astray AS MATERIALIZED ( \
     SELECT id FROM messages WHERE queue = $1 AND visible_at > now_ms($2) + $5 \
     ORDER BY visible_at, id LIMIT $3 - (SELECT count(*) FROM due) FOR UPDATE SKIP LOCKED) \
 UPDATE messages AS m SET visible_at = now_ms($2) + $4, lease = $6, deliveries = m.deliveries + 1 \
 FROM (SELECT id FROM due UNION ALL SELECT id FROM astray) AS taken \
 WHERE m.queue = $1 AND m.id = taken.id \
 RETURNING m.id, m.deliveries, m.enqueued_at, m.request, m.device, m.body";

const RENEW: &str = "UPDATE messages AS m SET visible_at = now_ms($2) + $3 \
 FROM unnest($4::bigint[], $5::bytea[]) AS g (id, lease) \
 WHERE m.queue = $1 AND m.id = g.id AND m.lease = g.lease RETURNING m.id";

/// Leases up to `max` visible messages.
pub(super) async fn take(
    database: &Database,
    queue: QueueName,
    max: usize,
    lease: Duration,
) -> Result<Vec<Leased>, Failure> {
    // One token serves the whole batch: a receipt names the message as well.
    let token: [u8; 16] = database.entropy().bytes();
    let (queue, now, max) = (rows::queue_code(queue), database.now_given(), rows::count(max));
    let (lease, longest) = (rows::span(lease.min(LONGEST)), rows::span(LONGEST));
    let params: [crate::database::Param<'_>; 6] = [&queue, &now, &max, &lease, &longest, &token.as_slice()];
    let found = database.at_once(Mode::Internal, &[(TAKE, &params)]).await?;
    let token = EventId(token).to_string();
    let mut leased: Vec<(i64, Leased)> =
        found.iter().flatten().map(|row| one(row, &token)).collect::<Result<_, _>>()?;
    leased.sort_unstable_by_key(|(id, _)| *id);
    Ok(leased.into_iter().map(|(_, leased)| leased).collect())
}

fn one(row: &Row, token: &str) -> Result<(i64, Leased), Failure> {
    let id: i64 = rows::column(row, 0)?;
    let message = NewMessage {
        request: rows::request(row, 3)?,
        device: rows::device(row, 4)?,
        body: rows::bytes_as_text(row, 5)?,
    };
    let receipt = Receipt { message: id.to_string(), lease: token.to_owned() };
    Ok((id, Leased { receipt, message, deliveries: rows::number(row, 1)?, enqueued: rows::time(row, 2)? }))
}

/// Makes leases run from now; returns the receipts that name no lease any more.
pub(super) async fn renew(
    database: &Database,
    queue: QueueName,
    receipts: &[Receipt],
    lease: Duration,
) -> Result<Vec<Receipt>, Failure> {
    let mut held = Held::default();
    for receipt in receipts {
        held.push(receipt);
    }
    let (queue, now) = (rows::queue_code(queue), database.now_given());
    let lease = rows::span(lease.min(LONGEST));
    let params: [crate::database::Param<'_>; 5] = [&queue, &now, &lease, &held.ids, &held.tokens];
    let found = database.at_once(Mode::Internal, &[(RENEW, &params)]).await?;
    let renewed = ids(found.first())?;
    let void = |receipt: &&Receipt| !read(receipt).is_some_and(|(id, _)| renewed.contains(&id));
    Ok(receipts.iter().filter(void).cloned().collect())
}

/// Receipts, as the columns of a statement.
#[derive(Default)]
pub(super) struct Held {
    /// The messages.
    pub(super) ids: Vec<i64>,
    /// The leases they were given out under.
    pub(super) tokens: Vec<Vec<u8>>,
}

impl Held {
    /// Adds a receipt. One that this engine never gave out says nothing, and is left out.
    pub(super) fn push(&mut self, receipt: &Receipt) -> bool {
        let read = read(receipt);
        if let Some((id, token)) = read {
            self.ids.push(id);
            self.tokens.push(token.to_vec());
        }
        read.is_some()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The message and the lease that a receipt names.
pub(super) fn read(receipt: &Receipt) -> Option<(i64, [u8; 16])> {
    let token: EventId = receipt.lease.parse().ok()?;
    Some((receipt.message.parse().ok()?, token.0))
}

/// The ids that a statement returned.
pub(super) fn ids(found: Option<&Vec<Row>>) -> Result<HashSet<i64>, Failure> {
    found.into_iter().flatten().map(|row| rows::column(row, 0)).collect()
}
