//! What this process has leased. A lock token alone settles a message; a receipt is good only with the name of its
//! message, on its queue, in the process that took it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{Leased, QueueName, Receipt};

use super::message::{About, LockToken};
use super::sessions::Grip;

/// From this many on, leases that ran out long ago are forgotten: whoever had them will not settle them any more.
const MANY: usize = 4096;

/// A lease as it is now.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) leased: Leased,
    pub(super) token: LockToken,
    /// What the message says of itself, if it is one of ours.
    pub(super) about: Option<About>,
    /// The session it is of, on a queue with sessions.
    pub(super) session: Option<Arc<Grip>>,
    /// When the lease ends, by our clock.
    pub(super) until: UnixMillis,
}

#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<(QueueName, Receipt), Held>>);

impl Leases {
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

    pub(super) fn renewed(&self, queue: QueueName, receipt: &Receipt, until: UnixMillis) {
        if let Some(held) = self.lock().get_mut(&(queue, receipt.clone())) {
            held.until = until;
        }
    }

    pub(super) fn forget(&self, queue: QueueName, receipt: &Receipt) {
        self.lock().remove(&(queue, receipt.clone()));
    }

    /// How many messages of a queue are held, and when the oldest of them was sent.
    pub(super) fn count(&self, queue: QueueName, now: UnixMillis) -> (u64, Option<UnixMillis>) {
        let all = self.lock();
        let held = || all.iter().filter(|((of, _), held)| *of == queue && held.until > now);
        let oldest = held().map(|(_, held)| held.leased.enqueued).min();
        (u64::try_from(held().count()).unwrap_or(u64::MAX), oldest)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(QueueName, Receipt), Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
