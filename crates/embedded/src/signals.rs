//! Who waits for what within this process, and how they are woken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyturn_domain::ids::RequestId;
use keyturn_ports::queue::QueueName;
use tokio::sync::Notify;

/// What a batch of writes made worth a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken {
    queues: PerQueue<Bell>,
    results: Vec<RequestId>,
}

/// Whether a queue is worth a look, and the number of the last message sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bell {
    rings: bool,
    sent: i64,
}

impl Woken {
    /// A message with this number was sent to `queue`.
    pub(crate) fn sent(&mut self, queue: QueueName, number: i64) {
        let bell = self.queues.of_mut(queue);
        *bell = Bell { rings: true, sent: bell.sent.max(number) };
    }

    /// Whether `queue` is worth a look.
    pub(crate) fn rings(&self, queue: QueueName) -> bool {
        self.queues.of(queue).rings
    }

    /// The number of the last message sent to `queue`, if any was.
    pub(crate) fn last(&self, queue: QueueName) -> i64 {
        self.queues.of(queue).sent
    }

    /// The messages whose results were published.
    pub(crate) fn results(&self) -> &[RequestId] {
        &self.results
    }

    /// Whether it concerns nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.results.is_empty() && QueueName::ALL.iter().all(|queue| !self.rings(*queue))
    }

    /// Messages of `queue` became visible again.
    pub(crate) fn again(&mut self, queue: QueueName) {
        self.queues.of_mut(queue).rings = true;
    }

    /// The result of a message was published.
    pub(crate) fn result(&mut self, request: RequestId) {
        self.results.push(request);
    }
}

/// One value for each queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerQueue<T> {
    requests: T,
    findings: T,
    outcomes: T,
    alarms: T,
}

impl<T> PerQueue<T> {
    /// That of a queue.
    pub(crate) const fn of(&self, queue: QueueName) -> &T {
        match queue {
            QueueName::Requests => &self.requests,
            QueueName::Findings => &self.findings,
            QueueName::Outcomes => &self.outcomes,
            QueueName::Alarms => &self.alarms,
        }
    }

    /// That of a queue, to be changed.
    pub(crate) const fn of_mut(&mut self, queue: QueueName) -> &mut T {
        match queue {
            QueueName::Requests => &mut self.requests,
            QueueName::Findings => &mut self.findings,
            QueueName::Outcomes => &mut self.outcomes,
            QueueName::Alarms => &mut self.alarms,
        }
    }
}

/// One bell per queue, and one for each result that somebody waits for. Those who wait register first and look second,
/// so that what is written in between rings for them.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    queues: PerQueue<Notify>,
    /// Rung for what other processes did alone.
    others: PerQueue<Notify>,
    /// The last message of each queue that was rung for.
    rung: PerQueue<AtomicI64>,
    awaited: Arc<Awaited>,
}

impl Signals {
    /// The bell of a queue.
    pub(crate) fn of_queue(&self, queue: QueueName) -> &Notify {
        self.queues.of(queue)
    }

    /// The bell of a queue for those who learn from the writer what this process does.
    pub(crate) fn of_others(&self, queue: QueueName) -> &Notify {
        self.others.of(queue)
    }

    /// Registers an interest in the result of a message.
    pub(crate) fn await_result(&self, request: RequestId) -> Interest {
        let bell = {
            let mut awaited = self.awaited.lock();
            let entry = awaited.entry(request).or_default();
            entry.waiting += 1;
            Arc::clone(&entry.bell)
        };
        Interest { request, bell, awaited: Arc::clone(&self.awaited) }
    }

    /// Wakes whom this batch concerns.
    pub(crate) fn ring(&self, woken: &Woken) {
        for queue in QueueName::ALL {
            let bell = woken.queues.of(queue);
            if bell.rings {
                self.rung.of(queue).fetch_max(bell.sent, Ordering::Relaxed);
                self.of_queue(queue).notify_waiters();
            }
        }
        self.ring_results(&woken.results);
    }

    /// Wakes whom a batch of another process concerns.
    pub(crate) fn ring_of_others(&self, woken: &Woken) {
        self.ring(woken);
        for queue in QueueName::ALL.into_iter().filter(|queue| woken.rings(*queue)) {
            self.of_others(queue).notify_waiters();
        }
    }

    /// Wakes those who wait for messages of `queue`, unless that was done for the message `sent` already.
    pub(crate) fn ring_queue(&self, queue: QueueName, sent: i64) {
        if self.rung.of(queue).fetch_max(sent, Ordering::Relaxed) < sent {
            self.of_queue(queue).notify_waiters();
            self.of_others(queue).notify_waiters();
        }
    }

    /// Wakes those who wait for one of these results.
    pub(crate) fn ring_results(&self, requests: &[RequestId]) {
        if !requests.is_empty() {
            let awaited = self.awaited.lock();
            let bells = requests.iter().filter_map(|request| awaited.get(request));
            bells.for_each(|entry| entry.bell.notify_waiters());
        }
    }

    /// Wakes everybody.
    pub(crate) fn ring_all(&self) {
        for queue in QueueName::ALL {
            self.of_queue(queue).notify_waiters();
            self.of_others(queue).notify_waiters();
        }
        self.ring_all_results();
    }

    /// Wakes all who wait for results.
    pub(crate) fn ring_all_results(&self) {
        self.awaited.lock().values().for_each(|entry| entry.bell.notify_waiters());
    }
}

/// The results that somebody waits for.
#[derive(Debug, Default)]
struct Awaited(Mutex<HashMap<RequestId, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    waiting: usize,
    bell: Arc<Notify>,
}

impl Awaited {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for the result of a message, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Interest {
    request: RequestId,
    bell: Arc<Notify>,
    awaited: Arc<Awaited>,
}

impl Interest {
    /// What rings when the result is there.
    pub(crate) fn bell(&self) -> &Notify {
        &self.bell
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut awaited = self.awaited.lock();
        if let Some(entry) = awaited.get_mut(&self.request) {
            entry.waiting -= 1;
            if entry.waiting == 0 {
                awaited.remove(&self.request);
            }
        }
    }
}
