//! From what a handler said to what the queue does.

use std::time::Duration;

use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{DeadReason, Leased, Settlement};

use crate::handler::{Failure, Verdict};

/// When to try again and when to give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// A message at fault is dead-lettered after this many deliveries.
    pub max_deliveries: u32,
    /// A message that waits for an engine is dead-lettered only when it is older than this as well.
    pub patience: Duration,
    /// The delay before the second delivery; it doubles with each further one.
    pub first_delay: Duration,
    /// The longest delay.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_deliveries: 5,
            patience: Duration::from_mins(30),
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_mins(1),
        }
    }
}

impl RetryPolicy {
    /// What becomes of a leased message.
    ///
    /// - Done completes it; dead dead-letters it at once.
    /// - A fault of the message is retried until it has had its deliveries.
    /// - A fault of an engine is retried until the message has had its deliveries and worn out our patience: an
    ///   outage of an hour must not fill the dead letters with innocents.
    pub fn settle(
        &self,
        leased: &Leased,
        verdict: &Verdict,
        now: UnixMillis,
        entropy: &dyn Entropy,
    ) -> Settlement {
        let spent = leased.deliveries >= self.max_deliveries;
        let impatient = now.since(leased.enqueued) >= self.patience;
        match verdict {
            Verdict::Done => Settlement::Complete,
            Verdict::Dead(reason, error) => Settlement::DeadLetter { reason: *reason, error: error.clone() },
            Verdict::Failed(Failure::Message(error)) if spent => give_up(error),
            Verdict::Failed(Failure::Engine(error)) if spent && impatient => give_up(error),
            Verdict::Failed(Failure::Message(error) | Failure::Engine(error)) => {
                Settlement::Retry { after: self.delay(leased.deliveries, entropy), error: error.clone() }
            }
        }
    }

    /// Exponential, between half and all of the step, so that what failed together does not return together.
    fn delay(&self, deliveries: u32, entropy: &dyn Entropy) -> Duration {
        let step =
            self.first_delay.saturating_mul(1 << deliveries.saturating_sub(1).min(16)).min(self.max_delay);
        let half = u32::try_from(step.as_millis() / 2).unwrap_or(u32::MAX);
        Duration::from_millis(u64::from(half) + u64::from(entropy.below(half.saturating_add(1))))
    }
}

fn give_up(error: &str) -> Settlement {
    Settlement::DeadLetter { reason: DeadReason::Exhausted, error: error.to_owned() }
}
