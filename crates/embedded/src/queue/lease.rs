//! Leasing and renewing.

use std::time::Duration;

use keyturn_domain::ids::EventId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{Leased, NewMessage, QueueName, Receipt};
use rusqlite::Row;

use super::LONGEST;
use super::sql::per_queue;
use crate::batch::Batch;
use crate::failure::Failure;
use crate::rows;

/// Messages that are visible before or after a point in time, in the order in which they became so. The body of
/// each is looked up once it is found.
macro_rules! visible {
    ($queue:expr, "<=") => {
        visible!(@ $queue, "_by_visibility CROSS JOIN queue_bodies b ON b.id = m.id \
            WHERE m.visible_at <= ?1 ORDER BY m.visible_at, m.id LIMIT ?2")
    };
    ($queue:expr, ">") => {
        visible!(@ $queue, "_by_visibility CROSS JOIN queue_bodies b ON b.id = m.id \
            WHERE m.visible_at > ?1 ORDER BY m.visible_at, m.id LIMIT ?2")
    };
    (@ $queue:expr, $which:literal) => {
        per_queue!(
            $queue,
            "SELECT m.id, m.deliveries, m.enqueued_at, b.request, b.device, b.body FROM ",
            " m INDEXED BY ",
            $which
        )
    };
}

/// Leases up to `max` visible messages, those visible for the longest time first.
pub(super) fn take(
    batch: &mut Batch<'_>,
    queue: QueueName,
    max: usize,
    lease: Duration,
) -> Result<Vec<Leased>, Failure> {
    let mut found = visible(batch, visible!(queue, "<="), batch.now, max)?;
    let room = max.saturating_sub(found.len());
    if room > 0 {
        found.extend(visible(batch, visible!(queue, ">"), batch.now.plus(LONGEST), room)?);
    }
    // One token serves the whole batch: a receipt names the message as well.
    let token = Token::draw(batch);
    let until = batch.now.plus(lease.min(LONGEST));
    found.into_iter().map(|seen| hold(batch, queue, seen, &token, until)).collect()
}

fn visible(batch: &Batch<'_>, sql: &'static str, than: UnixMillis, max: usize) -> Result<Vec<Seen>, Failure> {
    let mut statement = batch.prepare(sql)?;
    let params = (rows::to_column(than), rows::count(max));
    let found = statement.query_map(params, Seen::of)?.collect::<Result<_, _>>()?;
    Ok(found)
}

/// A message before it is leased.
struct Seen {
    id: i64,
    deliveries: u32,
    enqueued: UnixMillis,
    message: NewMessage,
}

impl Seen {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (request, device) = (rows::request(row, 3)?, rows::device(row, 4)?);
        Ok(Self {
            id: row.get(0)?,
            deliveries: rows::number(row, 1)?,
            enqueued: rows::time(row, 2)?,
            message: NewMessage { request, device, body: row.get(5)? },
        })
    }
}

fn hold(
    batch: &Batch<'_>,
    queue: QueueName,
    seen: Seen,
    token: &Token,
    until: UnixMillis,
) -> Result<Leased, Failure> {
    let deliveries = seen.deliveries.saturating_add(1);
    batch.execute(
        per_queue!(queue, "UPDATE ", " SET visible_at = ?2, lease = ?3, deliveries = ?4 WHERE id = ?1"),
        (seen.id, rows::to_column(until), token.bytes, deliveries),
    )?;
    let receipt = Receipt { message: seen.id.to_string(), lease: token.text.clone() };
    Ok(Leased { receipt, message: seen.message, deliveries, enqueued: seen.enqueued })
}

/// Makes leases run from now; returns the receipts that name no lease any more.
pub(super) fn renew(
    batch: &Batch<'_>,
    queue: QueueName,
    receipts: &[Receipt],
    lease: Duration,
) -> Result<Vec<Receipt>, Failure> {
    let until = rows::to_column(batch.now.plus(lease.min(LONGEST)));
    let mut void = Vec::new();
    for receipt in receipts {
        let renewed = match Held::of(receipt) {
            Some(held) => batch.execute(
                per_queue!(queue, "UPDATE ", " SET visible_at = ?3 WHERE id = ?1 AND lease = ?2"),
                (held.message, held.token, until),
            )?,
            None => 0,
        };
        if renewed == 0 {
            void.push(receipt.clone());
        }
    }
    Ok(void)
}

/// What a receipt says, in the columns' own types.
pub(super) struct Held {
    /// The message's row.
    pub(super) message: i64,
    /// The lease it was given out under.
    pub(super) token: [u8; 16],
}

impl Held {
    /// Reads a receipt. One that this engine never gave out says nothing, and is void.
    pub(super) fn of(receipt: &Receipt) -> Option<Self> {
        let token: EventId = receipt.lease.parse().ok()?;
        Some(Self { message: receipt.message.parse().ok()?, token: token.0 })
    }
}

/// The random name of a lease, as the column has it and as a receipt does.
struct Token {
    bytes: [u8; 16],
    text: String,
}

impl Token {
    fn draw(batch: &Batch<'_>) -> Self {
        let bytes = batch.entropy.bytes();
        Self { bytes, text: EventId(bytes).to_string() }
    }
}
