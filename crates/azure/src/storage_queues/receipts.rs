//! What this process has leased, and the newest pop receipt of each.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{Leased, QueueName, Receipt};

use super::text::Head;

/// From this many on, leases that ran out long ago are forgotten: whoever had them will not settle them any more.
const MANY: usize = 4096;

/// Leases by the receipts that were given out for them.
#[derive(Default)]
pub(super) struct Receipts {
    held: Mutex<HashMap<(QueueName, Receipt), Held>>,
}

/// A lease as it is now.
#[derive(Clone)]
pub(super) struct Held {
    /// What proves it to the service.
    pub(super) pop_receipt: String,
    /// What was leased.
    pub(super) leased: Leased,
    /// The line of the message, if it is one of ours.
    pub(super) head: Option<Head>,
    /// When the lease ends, by our clock.
    pub(super) until: UnixMillis,
}

impl Receipts {
    pub(super) fn remember(&self, queue: QueueName, held: Held, now: UnixMillis) {
        let mut all = self.lock();
        if all.len() >= MANY {
            all.retain(|_, held| held.until > now);
        }
        all.insert((queue, held.leased.receipt.clone()), held);
    }

    pub(super) fn find(&self, queue: QueueName, receipt: &Receipt) -> Option<Held> {
        self.lock().get(&(queue, receipt.clone())).cloned()
    }

    pub(super) fn renewed(
        &self,
        queue: QueueName,
        receipt: &Receipt,
        pop_receipt: String,
        until: UnixMillis,
    ) {
        if let Some(held) = self.lock().get_mut(&(queue, receipt.clone())) {
            held.pop_receipt = pop_receipt;
            held.until = until;
        }
    }

    pub(super) fn forget(&self, queue: QueueName, receipt: &Receipt) {
        self.lock().remove(&(queue, receipt.clone()));
    }

    /// When the oldest of the messages that this process holds was sent.
    pub(super) fn oldest(&self, queue: QueueName, now: UnixMillis) -> Option<UnixMillis> {
        let all = self.lock();
        let held = all.iter().filter(|((of, _), held)| *of == queue && held.until > now);
        held.map(|(_, held)| held.leased.enqueued).min()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(QueueName, Receipt), Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
