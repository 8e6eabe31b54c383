//! Looking after the store in the background: what is old is forgotten in small steps, and how far the store has come
//! is noted outside of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::dead_letters::Strays;
use keyturn_ports::queue::QueueName;
use keyturn_ports::shipping::{Shipping, Stream};
use keyturn_ports::upkeep::{Before, Upkeep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Retention;
use crate::fleet::Clerk;

/// Pages of `retention.batch` that are adopted from a queue in one round: a flood there keeps nothing else waiting.
const PAGES_ADOPTED: usize = 20;

pub(crate) mod audit;
pub(crate) mod fleet;

/// Looks after a store.
pub(crate) struct Tender {
    pub(crate) upkeep: Arc<dyn Upkeep>,
    /// Engines beside whose queues messages may lie dead that the index does not have.
    pub(crate) strays: BTreeMap<QueueName, Arc<dyn Strays>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) retention: Retention,
    /// Who makes the fleet's report.
    pub(crate) clerk: Option<Clerk>,
    /// What leaves the house, if it does: it is not forgotten before.
    pub(crate) shipped: Option<Shipped>,
    /// How many dead letters were too old when it was last looked.
    pub(crate) old_letters: u64,
    /// The audit.
    pub(crate) audit: audit::Watch,
}

/// What events wait for before they are forgotten.
pub(crate) struct Shipped {
    pub(crate) shipping: Arc<dyn Shipping>,
    /// For how much longer they are kept at most.
    pub(crate) keep: Duration,
}

impl Tender {
    /// Looks after the store until told to stop. An engine that fails is asked again the next time.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let every = self.retention.every.0;
        loop {
            if let Err(error) = self.round(&stop).await {
                warn!(%error, "looking after the store failed, it is tried again");
            }
            tokio::select! { () = stop.cancelled() => return, () = self.survey() => {} }
            self.audit.round(self.clock.now(), self.retention.pause.0, &stop).await;
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(every) => {} }
        }
    }

    /// Forgets what is old by now, however much that is.
    async fn round(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        self.upkeep.mark().await?;
        self.adopt(stop).await;
        let now = self.clock.now();
        self.warn_of_letters(now).await?;
        let retention = &self.retention;
        let through = match &self.shipped {
            Some(shipped) => Some(shipped.shipping.position(Stream::Events).await?.place),
            None => None,
        };
        let before = Before {
            accepted: now.minus(retention.accepted.0),
            effects: now.minus(retention.effects.0),
            events: now.minus(retention.events.0),
            events_through: through,
            results: now,
        };
        self.forget(before, stop).await?;
        if let Some(shipped) = &self.shipped {
            // What is forgotten now was not shipped: everything that was, and is as old, is gone already.
            let never = UnixMillis(0);
            let events = before.events.minus(shipped.keep);
            let before =
                Before { accepted: never, effects: never, events, events_through: None, results: never };
            let lost = self.forget(before, stop).await?;
            if lost > 0 {
                metrics::counter!("keyturn_log_rows_lost_total").increment(lost);
                error!(
                    lost,
                    "events were forgotten that were never shipped: Azure Monitor was away for longer than \
                     azure.logs.keep_unshipped"
                );
            }
        }
        Ok(())
    }

    /// Forgets in small steps, and returns how many events were among it.
    async fn forget(&self, before: Before, stop: &CancellationToken) -> Result<u64, Error> {
        let (retention, mut events) = (&self.retention, 0);
        let full = u64::try_from(retention.batch).unwrap_or(u64::MAX);
        while !stop.is_cancelled() {
            let forgotten = self.upkeep.forget(before, retention.batch).await?;
            let tables = forgotten.tables();
            events += forgotten.events;
            for (table, rows) in tables.into_iter().filter(|(_, rows)| *rows > 0) {
                metrics::counter!("keyturn_rows_forgotten_total", "table" => table).increment(rows);
                info!(table, rows, "forgot what is old");
            }
            if tables.iter().all(|(_, rows)| *rows < full) {
                break;
            }
            tokio::time::sleep(retention.pause.0).await;
        }
        Ok(events)
    }

    /// A survey that is cut off is made by whoever asks after its turn.
    async fn survey(&self) {
        if let Some(clerk) = &self.clerk
            && let Err(error) = clerk.round().await
        {
            warn!(%error, "the fleet could not be surveyed, it is tried again");
        }
    }

    /// Moves into the index what lies dead elsewhere. A service that is away keeps nobody from the rest of the round.
    async fn adopt(&self, stop: &CancellationToken) {
        let full = u64::try_from(self.retention.batch).unwrap_or(u64::MAX);
        for (queue, engine) in &self.strays {
            for _ in 0..PAGES_ADOPTED {
                if stop.is_cancelled() {
                    return;
                }
                let adopted = match engine.adopt(*queue, self.retention.batch).await {
                    Ok(adopted) => adopted,
                    Err(error) => {
                        warn!(queue = %queue, %error, "dead letters of another engine could not be adopted");
                        break;
                    }
                };
                if adopted > 0 {
                    metrics::counter!("keyturn_dead_letters_adopted_total", "queue" => queue.as_str())
                        .increment(adopted);
                    warn!(queue = %queue, adopted, "messages that another program gave up on are dead letters now");
                }
                if adopted < full {
                    break;
                }
            }
        }
    }

    async fn warn_of_letters(&mut self, now: UnixMillis) -> Result<(), Error> {
        let letters = self.upkeep.dead_since(now.minus(self.retention.dead_letters_warn.0)).await?;
        metrics::gauge!("keyturn_dead_letters_old").set(u32::try_from(letters).unwrap_or(u32::MAX));
        if letters > self.old_letters {
            warn!(letters, "dead letters wait for an operator for too long: `keyturn dead-letters list`");
        }
        self.old_letters = letters;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
