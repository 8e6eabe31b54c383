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

/// Messages that were given out before, and are visible again before or after a point in time, in the order in which
/// they became so.
macro_rules! returned {
    ($queue:expr, $which:literal) => {
        per_queue!(
            $queue,
            "SELECT m.id, m.enqueued_at, m.request, m.device, m.body, h.deliveries, h.visible_at FROM held_",
            " h INDEXED BY held_",
            "_by_visibility CROSS JOIN queue_",
            concat!(
                " m ON m.id = h.id WHERE h.visible_at ",
                $which,
                " ?1 ORDER BY h.visible_at, h.id LIMIT ?2"
            )
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
    let mut again = returned(batch, returned!(queue, "<="), batch.now, max)?;
    let room = max.saturating_sub(again.len());
    if room > 0 {
        again.extend(returned(batch, returned!(queue, ">"), batch.now.plus(LONGEST), room)?);
    }
    let new = unseen(batch, queue, max)?;
    // One token serves the whole batch: a receipt names the message as well.
    let token = Token::draw(batch);
    let until = rows::to_column(batch.now.plus(lease.min(LONGEST)));
    let mut leased = Vec::with_capacity(max.min(again.len().saturating_add(new.len())));
    let mut taken = None;
    for seen in oldest_first(again, new).take(max) {
        if seen.new {
            taken = Some(seen.id);
        }
        hold(batch, queue, &seen, &token, until)?;
        leased.push(seen.leased(&token));
    }
    if let Some(id) = taken {
        let sql = "UPDATE queue_counters SET taken = ?2 WHERE queue = ?1";
        batch.execute(sql, (rows::queue_code(queue), id))?;
    }
    Ok(leased)
}

fn returned(
    batch: &Batch<'_>,
    sql: &'static str,
    than: UnixMillis,
    max: usize,
) -> Result<Vec<Seen>, Failure> {
    let mut statement = batch.prepare(sql)?;
    let params = (rows::to_column(than), rows::count(max));
    let found = statement.query_map(params, Seen::again)?.collect::<Result<_, _>>()?;
    Ok(found)
}

/// Messages that nobody has had yet, in the order in which they were sent.
fn unseen(batch: &Batch<'_>, queue: QueueName, max: usize) -> Result<Vec<Seen>, Failure> {
    let mut statement = batch.prepare(per_queue!(
        queue,
        "SELECT id, enqueued_at, request, device, body FROM queue_",
        " WHERE id > (SELECT taken FROM queue_counters WHERE queue = ?1) ORDER BY id LIMIT ?2"
    ))?;
    let params = (rows::queue_code(queue), rows::count(max));
    let found = statement.query_map(params, Seen::new)?.collect::<Result<_, _>>()?;
    Ok(found)
}

/// Merges two rows of messages by the time since when each is visible. Neither row is reordered within itself, so
/// that what is taken of the new ones is always the head of them, whatever the clock did while they were sent.
fn oldest_first(again: Vec<Seen>, new: Vec<Seen>) -> impl Iterator<Item = Seen> {
    let (mut again, mut new) = (again.into_iter().peekable(), new.into_iter().peekable());
    std::iter::from_fn(move || match (again.peek(), new.peek()) {
        (Some(first), Some(second)) if second.visible < first.visible => new.next(),
        (Some(_), _) => again.next(),
        (None, _) => new.next(),
    })
}

/// A message before it is leased.
struct Seen {
    id: i64,
    enqueued: UnixMillis,
    message: NewMessage,
    /// How often it was given out before. What was released has not been, and is not new all the same.
    deliveries: u32,
    visible: UnixMillis,
    new: bool,
}

impl Seen {
    fn new(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (request, device) = (rows::request(row, 2)?, rows::device(row, 3)?);
        let enqueued = rows::time(row, 1)?;
        let message = NewMessage { request, device, body: row.get(4)? };
        Ok(Self { id: row.get(0)?, enqueued, message, deliveries: 0, visible: enqueued, new: true })
    }

    fn again(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (deliveries, visible) = (rows::number(row, 5)?, rows::time(row, 6)?);
        Ok(Self { deliveries, visible, new: false, ..Self::new(row)? })
    }

    fn leased(self, token: &Token) -> Leased {
        let receipt = Receipt { message: self.id.to_string(), lease: token.text.clone() };
        let deliveries = self.deliveries.saturating_add(1);
        Leased { receipt, message: self.message, deliveries, enqueued: self.enqueued }
    }
}

fn hold(batch: &Batch<'_>, queue: QueueName, seen: &Seen, token: &Token, until: i64) -> Result<(), Failure> {
    let sql = per_queue!(
        queue,
        "INSERT INTO held_",
        " (id, visible_at, lease, deliveries, failures) VALUES (?1, ?2, ?3, ?4, 0) ON CONFLICT (id) DO UPDATE \
         SET visible_at = excluded.visible_at, lease = excluded.lease, deliveries = excluded.deliveries"
    );
    batch.execute(sql, (seen.id, until, token.bytes, seen.deliveries.saturating_add(1)))?;
    Ok(())
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
                per_queue!(queue, "UPDATE held_", " SET visible_at = ?3 WHERE id = ?1 AND lease = ?2"),
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
