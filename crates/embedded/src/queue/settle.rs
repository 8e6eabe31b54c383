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
    let unfailing = batch
        .execute(per_queue!(queue, "DELETE FROM ", " WHERE id = ?1 AND lease = ?2 AND failures = 0"), key)?;
    if unfailing == 0 {
        let failed =
            batch.execute(per_queue!(queue, "DELETE FROM ", " WHERE id = ?1 AND lease = ?2"), key)?;
        if failed == 0 {
            return Ok(false);
        }
        batch.execute("DELETE FROM queue_attempts WHERE message = ?1", [held.message])?;
    }
    batch.execute("DELETE FROM queue_bodies WHERE id = ?1", [held.message])?;
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
            "UPDATE ",
            " SET visible_at = ?3, lease = NULL, failures = failures + 1 WHERE id = ?1 AND lease = ?2"
        ),
        (held.message, held.token, rows::to_column(visible)),
    )?;
    if returned == 0 {
        return Ok(false);
    }
    note_attempt(batch, held.message, error)?;
    // Those who wait have to learn when it comes back.
    batch.woken.queue(queue);
    Ok(true)
}

/// Notes a failed attempt, and forgets the oldest beyond those that are kept.
fn note_attempt(batch: &Batch<'_>, message: i64, error: &str) -> Result<(), Failure> {
    batch.execute(
        "INSERT INTO queue_attempts (message, attempt, failed_at, error) SELECT ?1, \
         coalesce((SELECT max(attempt) FROM queue_attempts WHERE message = ?1), 0) + 1, ?2, ?3",
        (message, rows::to_column(batch.now), error),
    )?;
    batch.execute(
        "DELETE FROM queue_attempts WHERE message = ?1 AND attempt <= \
         (SELECT max(attempt) FROM queue_attempts WHERE message = ?1) - ?2",
        (message, ATTEMPTS_KEPT),
    )?;
    Ok(())
}

/// Puts the message back where it was, ahead of what was sent after it.
fn release(batch: &mut Batch<'_>, queue: QueueName, held: &Held) -> Result<bool, Failure> {
    let released = batch.execute(
        per_queue!(
            queue,
            "UPDATE ",
            " SET visible_at = min(enqueued_at, ?3), lease = NULL, deliveries = max(deliveries - 1, 0) \
             WHERE id = ?1 AND lease = ?2"
        ),
        (held.message, held.token, rows::to_column(batch.now)),
    )?;
    if released > 0 {
        batch.woken.queue(queue);
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
    let attempts = dead_letters::attempts(batch, held.message, error)?;
    let buried = batch.execute(
        per_queue!(
            queue,
            "INSERT INTO dead_letters \
             (queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at) \
             SELECT ?1, b.request, b.device, b.body, ?4, ?5, m.deliveries, m.enqueued_at, ?6 FROM ",
            " m CROSS JOIN queue_bodies b ON b.id = m.id WHERE m.id = ?2 AND m.lease = ?3"
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
