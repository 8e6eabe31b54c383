//! Who waits for what within this process, and how they are woken.

use std::sync::atomic::{AtomicU8, Ordering};

use keyturn_ports::queue::QueueName;
use tokio::sync::Notify;

/// What a write made worth a look, a bit for each bell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken(u8);

impl Woken {
    /// Nobody.
    pub(crate) const NOBODY: Self = Self(0);
    /// Results were published.
    pub(crate) const RESULTS: Self = Self(1);

    /// Messages became visible on `queue`.
    pub(crate) const fn queue(queue: QueueName) -> Self {
        Self(match queue {
            QueueName::Requests => 2,
            QueueName::Findings => 4,
            QueueName::Outcomes => 8,
            QueueName::Alarms => 16,
        })
    }

    /// Both.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As other processes are told of it: a letter for each bell.
    pub(crate) fn told(self) -> String {
        LETTERS.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, letter)| letter).collect()
    }

    /// What another process told. A letter that a later release may send is nothing to us.
    pub(crate) fn heard(told: &str) -> Self {
        let bits = LETTERS.iter().filter(|(_, letter)| told.contains(*letter)).map(|(bit, _)| bit);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

const LETTERS: [(u8, char); 5] = [(1, 's'), (2, 'r'), (4, 'f'), (8, 'o'), (16, 'a')];

/// One bell per queue and one for the results. Those who wait register first and look second, so that what is
/// written in between rings for them.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    requests: Notify,
    findings: Notify,
    outcomes: Notify,
    alarms: Notify,
    results: Notify,
    to_tell: AtomicU8,
    telling: Notify,
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

    /// Wakes those in this process whom it concerns.
    pub(crate) fn ring(&self, Woken(bits): Woken) {
        for queue in QueueName::ALL {
            if bits & Woken::queue(queue).0 != 0 {
                self.of_queue(queue).notify_waiters();
            }
        }
        if bits & Woken::RESULTS.0 != 0 {
            self.results.notify_waiters();
        }
    }

    /// Wakes everybody: something was missed, and nobody knows what.
    pub(crate) fn ring_all(&self) {
        self.ring(Woken(u8::MAX));
    }

    /// Wakes those in this process, and has the others told soon.
    pub(crate) fn committed(&self, woken: Woken) {
        if woken != Woken::NOBODY {
            self.ring(woken);
            self.to_tell.fetch_or(woken.0, Ordering::AcqRel);
            self.telling.notify_one();
        }
    }

    /// What the others are to be told, once there is something.
    pub(crate) async fn next_to_tell(&self) -> Woken {
        loop {
            match Woken(self.to_tell.swap(0, Ordering::AcqRel)) {
                Woken::NOBODY => self.telling.notified().await,
                woken => return woken,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let woken = Woken::queue(QueueName::Findings).and(Woken::RESULTS);
        assert_eq!(woken.told(), "sf");
        assert_eq!(Woken::heard("sf"), woken);
        assert_eq!(Woken::heard("zz"), Woken::NOBODY);
    }
}
