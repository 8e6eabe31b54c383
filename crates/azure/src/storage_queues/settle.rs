//! Renewing and settling, a message at a time.

use std::time::Duration;

use keyturn_ports::Error;
use keyturn_ports::dead_letters::{Attempt, Died};
use keyturn_ports::queue::{DeadReason, QueueName, Receipt, Settlement};

use super::StorageQueues;
use super::failure::Failure;
use super::receipts::Held;

impl StorageQueues {
    /// Renews a lease. Returns whether it was void.
    pub(super) async fn renew_one(
        &self,
        queue: QueueName,
        receipt: &Receipt,
        lease: Duration,
    ) -> Result<bool, Error> {
        let Some(held) = self.receipts.find(queue, receipt) else { return Ok(true) };
        match self.pair(queue).queue.update(&receipt.message, &held.pop_receipt, lease, None).await {
            Ok(pop_receipt) => {
                self.receipts.renewed(queue, receipt, pop_receipt, self.clock.now().plus(lease));
                Ok(false)
            }
            Err(Failure::LeaseLost) => {
                self.receipts.forget(queue, receipt);
                Ok(true)
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Settles a message. Returns whether the receipt was good.
    pub(super) async fn settle_one(
        &self,
        queue: QueueName,
        receipt: &Receipt,
        settlement: Settlement,
    ) -> Result<bool, Error> {
        let Some(held) = self.receipts.find(queue, receipt) else { return Ok(false) };
        let done = match settlement {
            Settlement::Complete => self.pair(queue).queue.delete(&receipt.message, &held.pop_receipt).await,
            Settlement::Retry { after, error } => self.retry(queue, held, after, &error).await,
            Settlement::Release => self.release(queue, held).await,
            Settlement::DeadLetter { reason, error } => self.bury(queue, held, reason, error).await,
        };
        match done {
            Ok(()) => {
                self.receipts.forget(queue, receipt);
                Ok(true)
            }
            Err(Failure::LeaseLost) => {
                self.receipts.forget(queue, receipt);
                Ok(false)
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }

    async fn retry(
        &self,
        queue: QueueName,
        mut held: Held,
        after: Duration,
        error: &str,
    ) -> Result<(), Failure> {
        if let Some(head) = &mut held.head {
            head.fail(self.clock.now(), error);
        }
        self.put_back(queue, held, after).await
    }

    async fn release(&self, queue: QueueName, mut held: Held) -> Result<(), Failure> {
        if let Some(head) = &mut held.head {
            head.released = head.released.saturating_add(1);
        }
        self.put_back(queue, held, Duration::ZERO).await
    }

    /// Makes a message visible again after a while, with its line as it is now. A line that is too long for the
    /// message is left as it was: the message matters more than what is told of it.
    async fn put_back(&self, queue: QueueName, held: Held, after: Duration) -> Result<(), Failure> {
        let Held { pop_receipt, leased, head, .. } = held;
        let text = head.and_then(|head| head.text(&leased.message.body).ok());
        self.pair(queue).queue.update(&leased.receipt.message, &pop_receipt, after, text).await?;
        self.bell(queue).notify_waiters();
        Ok(())
    }

    /// Gives a message up: into the index, and off its queue. The lease is renewed first, so that nothing is written
    /// about a message that somebody else has by now.
    async fn bury(
        &self,
        queue: QueueName,
        held: Held,
        reason: DeadReason,
        error: String,
    ) -> Result<(), Failure> {
        let (pair, now) = (self.pair(queue), self.clock.now());
        let Held { pop_receipt, leased, head, until: _ } = held;
        let id = leased.receipt.message.as_str();
        let pop_receipt = pair.queue.update(id, &pop_receipt, BURYING, None).await?;
        let mut attempts = head.as_ref().map(super::text::Head::attempts).unwrap_or_default();
        attempts.push(Attempt { at: now, error });
        let surplus = attempts.len().saturating_sub(super::text::ATTEMPTS_KEPT);
        attempts.drain(..surplus);
        let died = Died {
            origin: format!("{}/{id}", pair.queue.name()),
            queue,
            message: leased.message.clone(),
            reason,
            attempts,
            deliveries: leased.deliveries,
            enqueued: leased.enqueued,
            died: now,
        };
        self.graveyard.bury(vec![died]).await.map_err(Failure::Other)?;
        pair.queue.delete(id, &pop_receipt).await
    }
}

/// How long burying a message may take before somebody else may have it.
const BURYING: Duration = Duration::from_mins(1);
