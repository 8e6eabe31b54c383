//! Settling: what becomes of a leased message.

use std::time::Duration;

use keyturn_ports::queue::{DeadReason, QueueName, Receipt, Settlement};

use super::LONGEST;
use super::lease::Held;
use super::sql::per_queue;
use crate::batch::Batch;
use crate::dead_letters;
use crate::failure::Failure;
use crate::rows;

/// How many failed attempts are kept of a message.
pub(crate) const ATTEMPTS_KEPT: i64 = 8;

/// Settles messages; returns the receipts that were void.
pub(super) fn settle(
    batch: &mut Batch<'_>,
    queue: QueueName,
    settled: &[(Receipt, Settlement)],
) -> Result<Vec<Receipt>, Failure> {
    let mut void = Vec::new();
    for (receipt, settlement) in settled {
        let done = match Held::of(receipt) {
            Some(held) => settle_one(batch, queue, &held, settlement)?,
            None => false,
        };
        if !done {
            void.push(receipt.clone());
        }
    }
    Ok(void)
}

fn settle_one(
    batch: &mut Batch<'_>,
    queue: QueueName,
    held: &Held,
    settlement: &Settlement,
) -> Result<bool, Failure> {
    match settlement {
        Settlement::Complete => remove(batch, queue, held),
        Settlement::Retry { after, error } => retry(batch, queue, held, *after, error),
        Settlement::Release => release(batch, queue, held),
        Settlement::DeadLetter { reason, error } => dead_letter(batch, queue, held, *reason, error),
    }
}

/// Takes the message away. Its attempts are looked for only if there were any, which is rare.
fn remove(batch: &mut Batch<'_>, queue: QueueName, held: &Held) -> Result<bool, Failure> {
    let key = (held.message, held.token);
    let unfailing = batch.execute(
        per_queue!(queue, "DELETE FROM held_", " WHERE id = ?1 AND lease = ?2 AND failures = 0"),
        key,
    )?;
    if unfailing == 0 {
        let failed =
            batch.execute(per_queue!(queue, "DELETE FROM held_", " WHERE id = ?1 AND lease = ?2"), key)?;
        if failed == 0 {
            return Ok(false);
        }
        let attempts = "DELETE FROM queue_attempts WHERE queue = ?1 AND message = ?2";
        batch.execute(attempts, (rows::queue_code(queue), held.message))?;
    }
    batch.execute(per_queue!(queue, "DELETE FROM queue_", " WHERE id = ?1"), [held.message])?;
    batch.count(queue, -1);
    Ok(true)
}

fn retry(
    batch: &mut Batch<'_>,
    queue: QueueName,
    held: &Held,
    after: Duration,
    error: &str,
) -> Result<bool, Failure> {
    let visible = batch.now.plus(after.min(LONGEST));
    let returned = batch.execute(
        per_queue!(
            queue,
            "UPDATE held_",
            " SET visible_at = ?3, lease = NULL, failures = failures + 1 WHERE id = ?1 AND lease = ?2"
        ),
        (held.message, held.token, rows::to_column(visible)),
    )?;
    if returned == 0 {
        return Ok(false);
    }
    note_attempt(batch, queue, held.message, error)?;
    // Those who wait have to learn when it comes back.
    batch.woken.again(queue);
    Ok(true)
}

/// Notes a failed attempt, and forgets the oldest beyond those that are kept.
fn note_attempt(batch: &Batch<'_>, queue: QueueName, message: i64, error: &str) -> Result<(), Failure> {
    let code = rows::queue_code(queue);
    batch.execute(
        "INSERT INTO queue_attempts (queue, message, attempt, failed_at, error) SELECT ?1, ?2, \
         coalesce((SELECT max(attempt) FROM queue_attempts WHERE queue = ?1 AND message = ?2), 0) + 1, ?3, ?4",
        (code, message, rows::to_column(batch.now), error),
    )?;
    batch.execute(
        "DELETE FROM queue_attempts WHERE queue = ?1 AND message = ?2 AND attempt <= \
         (SELECT max(attempt) FROM queue_attempts WHERE queue = ?1 AND message = ?2) - ?3",
        (code, message, ATTEMPTS_KEPT),
    )?;
    Ok(())
}

/// Puts the message back where it was, ahead of what was sent after it.
fn release(batch: &mut Batch<'_>, queue: QueueName, held: &Held) -> Result<bool, Failure> {
    let released = batch.execute(
        per_queue!(
            queue,
            "UPDATE held_",
            " SET visible_at = min((SELECT enqueued_at FROM queue_",
            " WHERE id = ?1), ?3), lease = NULL, deliveries = max(deliveries - 1, 0) \
             WHERE id = ?1 AND lease = ?2"
        ),
        (held.message, held.token, rows::to_column(batch.now)),
    )?;
    if released > 0 {
        batch.woken.again(queue);
    }
    Ok(released > 0)
}

fn dead_letter(
    batch: &mut Batch<'_>,
    queue: QueueName,
    held: &Held,
    reason: DeadReason,
    error: &str,
) -> Result<bool, Failure> {
    let attempts = dead_letters::attempts(batch, queue, held.message, error)?;
    let buried = batch.execute(
        per_queue!(
            queue,
            "INSERT INTO dead_letters \
             (queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at) \
             SELECT ?1, m.request, m.device, m.body, ?4, ?5, h.deliveries, m.enqueued_at, ?6 FROM held_",
            " h CROSS JOIN queue_",
            " m ON m.id = h.id WHERE h.id = ?2 AND h.lease = ?3"
        ),
        (
            rows::queue_code(queue),
            held.message,
            held.token,
            reason.as_str(),
            attempts,
            rows::to_column(batch.now),
        ),
    )?;
    if buried == 0 {
        return Ok(false);
    }
    batch.count_dead(queue, 1);
    remove(batch, queue, held)
}
