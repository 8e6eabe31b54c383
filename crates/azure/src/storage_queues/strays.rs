//! Messages on `<name>-poison`, where Azure Functions and tools like it put what they give up on.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_ports::Error;
use keyturn_ports::dead_letters::{Attempt, Died, Strays};
use keyturn_ports::queue::{DeadReason, NewMessage, QueueName};

use super::client::{Client, Received};
use super::failure::Failure;
use super::text::{ATTEMPTS_KEPT, Head};
use super::{AT_ONCE, StorageQueues};

/// How long writing a page down may take before somebody else may have it.
const ADOPTING: Duration = Duration::from_mins(1);

#[async_trait]
impl Strays for StorageQueues {
    async fn unindexed(&self, queue: QueueName) -> Result<u64, Error> {
        self.pair(queue).poison.count().await
    }

    async fn adopt(&self, queue: QueueName, limit: usize) -> Result<u64, Error> {
        let (poison, mut adopted) = (&self.pair(queue).poison, 0);
        while adopted < limit {
            let wanted = (limit - adopted).min(AT_ONCE);
            let received = poison.receive(wanted, ADOPTING).await?;
            let short = received.len() < wanted;
            let dead = received.iter().map(|received| self.died(queue, poison, received)).collect();
            self.graveyard.bury(dead).await?;
            for received in received {
                match poison.delete(&received.id, &received.receipt).await {
                    // Whoever has it by now finds it in the index.
                    Ok(()) | Err(Failure::LeaseLost) => adopted += 1,
                    Err(Failure::Other(error)) => return Err(error),
                }
            }
            if short {
                break;
            }
        }
        Ok(u64::try_from(adopted).unwrap_or(u64::MAX))
    }
}

impl StorageQueues {
    /// What the index is told. A message without our line was never sent by us.
    fn died(&self, queue: QueueName, poison: &Client, received: &Received) -> Died {
        let now = self.clock.now();
        let origin = format!("{}/{}", poison.name(), received.id);
        let found =
            Attempt { at: now, error: format!("somebody else gave it up: it lay on {}", poison.name()) };
        let Some((head, body)) = Head::split(&received.text) else {
            let (request, device) = (RequestId::of(&received.text), DeviceId::from_bytes([0; 16]));
            let message = NewMessage { request, device, body: received.text.clone() };
            let (reason, attempts) = (DeadReason::Undecodable, vec![found]);
            return Died {
                origin,
                queue,
                message,
                reason,
                attempts,
                deliveries: 1,
                enqueued: now,
                died: now,
            };
        };
        let mut attempts = head.attempts();
        attempts.push(found);
        let surplus = attempts.len().saturating_sub(ATTEMPTS_KEPT);
        attempts.drain(..surplus);
        let message = NewMessage { request: head.request, device: head.device, body: body.to_owned() };
        let deliveries = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
        let (reason, enqueued) = (DeadReason::Exhausted, head.enqueued);
        Died { origin, queue, message, reason, attempts, deliveries, enqueued, died: now }
    }
}
