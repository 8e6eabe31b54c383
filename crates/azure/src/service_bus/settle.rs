//! Renewing and settling, a message at a time, each confirmed by the service.

use std::time::Duration;

use fe2o3_amqp::types::primitives::Value;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::dead_letters::{Attempt, Died};
use keyturn_ports::queue::{DeadReason, QueueName, Receipt, Settlement};

use super::ServiceBus;
use super::entity::Disposition;
use super::failure::Wrong;
use super::held::Held;
use super::message::{About, outgoing};

/// How much of an error stands beside a message in the service's own dead letters, in characters.
const DESCRIPTION: usize = 1000;

/// How a step ended: done, or its lease was lost, or an error of the port.
enum Ended {
    LeaseLost,
    Other(Error),
}

impl Ended {
    fn of(wrong: Wrong, action: &'static str) -> Self {
        match wrong {
            Wrong::LeaseLost => Self::LeaseLost,
            wrong => Self::Other(wrong.during(action)),
        }
    }
}

impl ServiceBus {
    /// Renews a lease. Returns whether it was void.
    pub(super) async fn renew_one(
        &self,
        queue: QueueName,
        receipt: &Receipt,
        lease: Duration,
    ) -> Result<bool, Error> {
        let Some(held) = self.held.find(queue, receipt) else { return Ok(true) };
        match self.pair(queue).alive.renew(held.token, held.session.as_deref()).await {
            Ok(()) => {
                self.held.renewed(queue, receipt, self.clock.now().plus(lease));
                Ok(false)
            }
            Err(Wrong::LeaseLost) => {
                self.held.forget(queue, receipt);
                Ok(true)
            }
            Err(wrong) => Err(wrong.during("renewing a lock of Service Bus")),
        }
    }

    /// Settles a leased message. Returns whether the lease still held.
    pub(super) async fn settle_one(
        &self,
        queue: QueueName,
        receipt: &Receipt,
        settlement: Settlement,
    ) -> Result<bool, Error> {
        let Some(held) = self.held.find(queue, receipt) else { return Ok(false) };
        let session = held.session.clone();
        let done = match settlement {
            Settlement::Complete => self.dispose(queue, &held, &Disposition::Completed).await,
            Settlement::Retry { after, error } => self.retry(queue, held, after, &error).await,
            Settlement::Release => self.release(queue, &held).await,
            Settlement::DeadLetter { reason, error } => self.bury(queue, &held, reason, error).await,
        };
        match done {
            Ok(()) => {
                self.held.forget(queue, receipt);
                session.inspect(|session| session.done());
                Ok(true)
            }
            Err(Ended::LeaseLost) => {
                self.held.forget(queue, receipt);
                session.inspect(|session| session.give_up());
                Ok(false)
            }
            Err(Ended::Other(error)) => Err(error),
        }
    }

    async fn dispose(&self, queue: QueueName, held: &Held, disposition: &Disposition) -> Result<(), Ended> {
        let done = self.pair(queue).alive.dispose(held.token, held.session.as_deref(), disposition).await;
        self.bell(queue).notify_waiters();
        done.map_err(|wrong| Ended::of(wrong, "settling a message of Service Bus"))
    }

    /// Makes it come back. At once, the service does that itself. Later, a copy is put there for that time, and then
    /// the message is completed: in this order nothing is lost, and a death in between leaves the message and its copy.
    /// The copy's name follows from the message's and its delivery, so that whoever does the same again makes no second
    /// one where the queue has duplicate detection.
    async fn retry(&self, queue: QueueName, held: Held, after: Duration, error: &str) -> Result<(), Ended> {
        let Some(mut about) = held.about.clone() else {
            // Not one of ours: it is not copied, since it would not be the same.
            return self.dispose(queue, &held, &Disposition::Abandoned(Vec::new())).await;
        };
        about.fail(self.clock.now(), error);
        if after.is_zero() {
            return self.dispose(queue, &held, &Disposition::Abandoned(modified(&about))).await;
        }
        // Somebody else may have it by now, and then it is theirs to retry.
        let alive = &self.pair(queue).alive;
        let renewed = alive.renew(held.token, held.session.as_deref()).await;
        renewed.map_err(|wrong| Ended::of(wrong, "renewing a lock of Service Bus"))?;
        about.before = held.leased.deliveries;
        about.released = 0;
        let id = format!("{}.{}", about.base, about.before);
        let copy = outgoing(&id, &about, &held.leased.message.body, Some(self.clock.now().plus(after)));
        let scheduled = alive.schedule(&id, copy).await;
        scheduled.map_err(|wrong| Ended::of(wrong, "scheduling a message of Service Bus"))?;
        self.dispose(queue, &held, &Disposition::Completed).await
    }

    async fn release(&self, queue: QueueName, held: &Held) -> Result<(), Ended> {
        let properties = held.about.clone().map(|mut about| {
            about.released = about.released.saturating_add(1);
            modified(&about)
        });
        self.dispose(queue, held, &Disposition::Abandoned(properties.unwrap_or_default())).await
    }

    /// Gives a message up: into the index, and into the service's dead letters. The lock is renewed first, so that
    /// nothing is written about a message that somebody else has by now.
    async fn bury(
        &self,
        queue: QueueName,
        held: &Held,
        reason: DeadReason,
        error: String,
    ) -> Result<(), Ended> {
        let (alive, now) = (&self.pair(queue).alive, self.clock.now());
        let renewed = alive.renew(held.token, held.session.as_deref()).await;
        renewed.map_err(|wrong| Ended::of(wrong, "renewing a lock of Service Bus"))?;
        let description = error.chars().take(DESCRIPTION).collect();
        let died = Died {
            origin: format!("{}/{}", alive.name, held.leased.receipt.message),
            queue,
            message: held.leased.message.clone(),
            reason,
            attempts: attempts(held.about.as_ref(), now, error),
            deliveries: held.leased.deliveries,
            enqueued: held.leased.enqueued,
            died: now,
        };
        self.graveyard.bury(vec![died]).await.map_err(Ended::Other)?;
        let properties = vec![("keyturn-buried", Value::Bool(true))];
        self.dispose(
            queue,
            held,
            &Disposition::Suspended { reason: reason.as_str(), description, properties },
        )
        .await
    }
}

/// The attempts of a message that dies of `error`: the last eight.
pub(super) fn attempts(about: Option<&About>, now: UnixMillis, error: String) -> Vec<Attempt> {
    let mut attempts = about.map(About::attempts).unwrap_or_default();
    attempts.push(Attempt { at: now, error });
    let surplus = attempts.len().saturating_sub(8);
    attempts.drain(..surplus);
    attempts
}

fn modified(about: &About) -> Vec<(&'static str, Value)> {
    about.properties().into_iter().map(|(name, value)| (name, Value::from(value))).collect()
}
