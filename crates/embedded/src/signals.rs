//! Who waits for what within this process, and how they are woken.

use keyturn_ports::queue::QueueName;
use tokio::sync::Notify;

/// What a batch of writes made worth a look, a bit for each bell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken(u8);

const RESULTS: u8 = 1;
const EVERYTHING: Woken = Woken(u8::MAX);

const fn bit(queue: QueueName) -> u8 {
    match queue {
        QueueName::Requests => 2,
        QueueName::Findings => 4,
        QueueName::Outcomes => 8,
        QueueName::Alarms => 16,
    }
}

impl Woken {
    /// Messages became visible on `queue`.
    pub(crate) fn queue(&mut self, queue: QueueName) {
        self.0 |= bit(queue);
    }

    /// Results were published.
    pub(crate) fn results(&mut self) {
        self.0 |= RESULTS;
    }
}

/// One bell per queue and one for the results. Those who wait register first and look second, so that what is
/// written in between rings for them.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    requests: Notify,
    findings: Notify,
    outcomes: Notify,
    alarms: Notify,
    results: Notify,
}

impl Signals {
    /// The bell of a queue.
    pub(crate) fn of_queue(&self, queue: QueueName) -> &Notify {
        match queue {
            QueueName::Requests => &self.requests,
            QueueName::Findings => &self.findings,
            QueueName::Outcomes => &self.outcomes,
            QueueName::Alarms => &self.alarms,
        }
    }

    /// The bell of the results.
    pub(crate) fn of_results(&self) -> &Notify {
        &self.results
    }

    /// Wakes whom this batch concerns.
    pub(crate) fn ring(&self, Woken(bits): Woken) {
        for queue in QueueName::ALL {
            if bits & bit(queue) != 0 {
                self.of_queue(queue).notify_waiters();
            }
        }
        if bits & RESULTS != 0 {
            self.results.notify_waiters();
        }
    }

    /// Wakes everybody: another process wrote, and the file does not say what.
    pub(crate) fn ring_all(&self) {
        self.ring(EVERYTHING);
    }
}
