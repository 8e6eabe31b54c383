//! A bucket for each of many keys, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::admission::Rate;

/// Buckets of one rate.
pub(crate) struct Buckets<K> {
    rate: Rate,
    full_at: Mutex<Generations<K, Duration>>,
}

impl<K: Copy + Eq + Hash> Buckets<K> {
    /// At most twice `tracked` keys are remembered.
    pub(crate) fn new(rate: Rate, tracked: usize) -> Self {
        // A bucket left alone for its fill time is full, and so as good as forgotten.
        Self { rate, full_at: Mutex::new(Generations::new(tracked, rate.fill_time())) }
    }

    /// Takes one out of the bucket of `key`, or says how long until there is one.
    pub(crate) fn take(&self, key: K, now: Duration) -> Result<(), Duration> {
        let mut all = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = all.get(key, now).unwrap_or_default();
        all.put(key, self.rate.take(full_at, now)?, now);
        Ok(())
    }
}

/// A memory that forgets what was not touched for a while: values are kept in a young generation, which becomes the
/// old one when it is full or its time is over; what is touched in the old one is young again, and the rest goes
/// with it. Every operation takes constant time, and a flood of new keys pushes out those that are quiet before
/// those that are busy.
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    since: Duration,
    capacity: usize,
    span: Duration,
}

impl<K: Copy + Eq + Hash, V: Copy> Generations<K, V> {
    /// Generations of at most `capacity` values, each young for at most `span`.
    pub(crate) fn new(capacity: usize, span: Duration) -> Self {
        let (young, old) = (HashMap::new(), HashMap::new());
        Self { young, old, since: Duration::ZERO, capacity: capacity.max(1), span }
    }

    pub(crate) fn get(&mut self, key: K, now: Duration) -> Option<V> {
        self.age(now);
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    pub(crate) fn put(&mut self, key: K, value: V, now: Duration) {
        self.age(now);
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.turn(now);
        }
        self.young.insert(key, value);
    }

    fn age(&mut self, now: Duration) {
        if now.saturating_sub(self.since) < self.span {
            return;
        }
        if now.saturating_sub(self.since) >= self.span.saturating_mul(2) {
            self.young.clear();
        }
        self.turn(now);
    }

    fn turn(&mut self, now: Duration) {
        self.old = std::mem::take(&mut self.young);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(buckets: &Buckets<u32>, key: u32, tries: u32, now: Duration) -> u32 {
        (0..tries).map(|_| u32::from(buckets.take(key, now).is_ok())).sum()
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let buckets = Buckets::new(Rate::new(1, 3), 100);
        assert_eq!(admitted(&buckets, 1, 10, Duration::ZERO), 3);
        assert_eq!(admitted(&buckets, 2, 10, Duration::ZERO), 3);
        assert_eq!(admitted(&buckets, 1, 10, Duration::from_secs(2)), 2);
        assert_eq!(admitted(&buckets, 1, 10, Duration::from_mins(1)), 3);
    }

    /// Whatever generations come and go, nobody gets more than burst and rate allow.
    #[test]
    fn turning_generations_forgives_nothing_while_there_is_room() {
        let buckets = Buckets::new(Rate::new(2, 4), 100);
        let all: u32 =
            (0..600).map(|tenth| admitted(&buckets, 7, 5, Duration::from_millis(tenth * 100))).sum();
        assert_eq!(all, 4 + 2 * 60 - 1);
    }

    #[test]
    fn memory_is_bounded_and_the_busy_are_remembered() {
        let buckets = Buckets::new(Rate::new(1, 2), 50);
        assert_eq!(admitted(&buckets, 0, 3, Duration::ZERO), 2);
        for stranger in 1..1000 {
            assert_eq!(admitted(&buckets, stranger, 1, Duration::ZERO), 1);
            let kept = buckets.full_at.lock().unwrap();
            assert!(kept.young.len() <= 50 && kept.old.len() <= 50);
        }
        let mut kept = Generations::new(10, Duration::MAX);
        for key in 0..1000 {
            kept.put(u32::MAX, key, Duration::ZERO);
            kept.put(key, key, Duration::ZERO);
            assert_eq!(kept.get(u32::MAX, Duration::ZERO), Some(key), "the busy one stays");
        }
    }

    #[test]
    fn what_is_quiet_for_two_spans_is_forgotten() {
        let second = Duration::from_secs(1);
        let mut kept = Generations::new(10, second);
        kept.put(1, 1, Duration::ZERO);
        assert_eq!(kept.get(1, second), Some(1));
        assert_eq!(kept.get(1, second * 2), None);
        kept.put(2, 2, second * 2);
        assert_eq!(kept.get(2, second * 9), None);
    }
}
