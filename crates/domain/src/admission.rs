//! How much the edge takes from whom, as numbers, and the one computation behind every bucket.

use std::time::Duration;

use crate::network::Network;

/// A bucket's size and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many a second, in the long run. 0 is treated as 1.
    pub per_second: u32,
    /// How many at once, after a rest. 0 is treated as 1.
    pub burst: u32,
}

impl Rate {
    /// So many a second, and so many at once.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    /// How long an empty bucket takes to fill.
    pub fn fill_time(self) -> Duration {
        self.cost().saturating_mul(self.burst.max(1))
    }

    /// The generic cell rate algorithm (ITU-T I.371): a bucket is nothing but the instant at which it will be full.
    /// Takes one out of a bucket that is full at `full_at`, and says when it is full then; or, if there is none in
    /// it, how long until there is.
    pub fn take(self, full_at: Duration, now: Duration) -> Result<Duration, Duration> {
        let then = full_at.max(now).saturating_add(self.cost());
        let over = then.saturating_sub(now).saturating_sub(self.fill_time());
        if over.is_zero() { Ok(then) } else { Err(over) }
    }

    fn cost(self) -> Duration {
        Duration::from_secs(1) / self.per_second.max(1)
    }
}

/// What the edge takes on. A client is an IPv4 address or an IPv6 /64, see [`crate::network::Client`].
///
/// The defaults let a site of some ten thousand devices behind one address check in hourly, and keep what strangers
/// can make the pipeline do below what one directory answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionPolicy {
    /// Nonces and messages of one client, counted before anything is parsed.
    pub address: Rate,
    /// Polls of one client.
    pub poll: Rate,
    /// Polls of one ticket.
    pub ticket: Rate,
    /// Messages of one device key that the ledger knows.
    pub key: Rate,
    /// Messages of all keys together that the ledger does not know.
    pub unknown: Rate,
    /// The same, of one client.
    pub unknown_address: Rate,
    /// Clients, keys and tickets remembered at once, of each kind. Beyond that, those that were quiet the longest
    /// are forgotten.
    pub tracked: usize,
    /// Long-polls of one client held open at once.
    pub polls_per_address: usize,
    /// How long a client is told to wait at least when the edge is over its depth.
    pub retry_after: Duration,
    /// Over how much more time those who are turned away are spread.
    pub retry_spread: Duration,
    /// How long the answer to whoever is over a share is held back. A sender that waits for its answers is slowed
    /// down to this by each of its connections, and what it sends too much of costs next to nothing.
    pub pause: Duration,
    /// Answers held back at once; further ones are given at once, and their connections closed.
    pub paused: usize,
    /// Proxies whose word about the address of a client is taken.
    pub trusted_proxies: Vec<Network>,
}

impl Default for AdmissionPolicy {
    fn default() -> Self {
        Self {
            address: Rate::new(250, 2500),
            poll: Rate::new(500, 5000),
            ticket: Rate::new(2, 30),
            key: Rate::new(2, 60),
            unknown: Rate::new(50, 1000),
            unknown_address: Rate::new(10, 500),
            tracked: 65_536,
            polls_per_address: 2048,
            retry_after: Duration::from_secs(10),
            retry_spread: Duration::from_secs(20),
            pause: Duration::from_secs(1),
            paused: 512,
            trusted_proxies: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::new(10, 5);
        let mut full_at = Duration::ZERO;
        let mut given = Vec::new();
        for millis in 0..=1000 {
            let now = Duration::from_millis(millis);
            while let Ok(then) = rate.take(full_at, now) {
                full_at = then;
                given.push(millis);
            }
        }
        assert_eq!(given, [0, 0, 0, 0, 0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]);
    }

    #[test]
    fn waiting_as_told_is_enough_and_no_less_is() {
        let rate = Rate::new(3, 2);
        let now = Duration::from_secs(100);
        let emptied = (0..2).fold(Duration::ZERO, |full_at, _| rate.take(full_at, now).unwrap());
        let wait = rate.take(emptied, now).unwrap_err();
        assert!(rate.take(emptied, (now + wait).saturating_sub(Duration::from_nanos(1))).is_err());
        assert!(rate.take(emptied, now + wait).is_ok());
    }

    #[test]
    fn a_bucket_of_nothing_is_one_of_one() {
        let rate = Rate::new(0, 0);
        let then = rate.take(Duration::ZERO, Duration::ZERO).unwrap();
        assert_eq!(rate.take(then, Duration::ZERO), Err(Duration::from_secs(1)));
    }
}
