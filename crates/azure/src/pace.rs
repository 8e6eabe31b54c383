//! A token bucket in front of a service that turns callers away above a rate.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_ports::{Error, Kind};
use tokio::time::Instant;

/// Who says when a call may be made. This one process's own is [`Bucket`]; one that all replicas share can stand here
/// as well.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Waits until a call to `target` may be made. An error of kind `Unavailable` if that takes too long.
    async fn turn(&self, target: &str) -> Result<(), Error>;
}

/// A rate for each target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls a second, at least one.
    pub per_second: u32,
    /// Calls at once after a pause, at least one.
    pub burst: u32,
    /// The longest wait for a turn.
    pub patience: Duration,
}

/// Token buckets of this process, one for each target. With several processes each has its own, so each gets its share
/// of the rate in its configuration.
pub struct Bucket {
    rate: Rate,
    /// For each target, when the bucket is full again if nobody calls.
    full_at: Mutex<HashMap<String, Instant>>,
}

impl Bucket {
    /// Full buckets.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at: Mutex::new(HashMap::new()) }
    }

    /// Takes a turn. Returns how long to wait for it, or None if that is too long, and then takes none.
    fn take(&self, target: &str, now: Instant) -> Option<Duration> {
        let Rate { per_second, burst, patience } = self.rate;
        let one = Duration::from_secs(1) / per_second.max(1);
        let mut all = self.full_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let full_at = all.get(target).map_or(now, |at| (*at).max(now));
        // A turn lies so far ahead as the bucket, with this call, lacks more than it holds.
        let wait = (full_at + one).saturating_duration_since(now + one * burst.max(1));
        (wait <= patience).then(|| {
            all.insert(target.to_owned(), full_at + one);
            wait
        })
    }
}

#[async_trait]
impl Pace for Bucket {
    async fn turn(&self, target: &str) -> Result<(), Error> {
        let wait = self.take(target, Instant::now()).ok_or_else(|| {
            Error::new(Kind::Unavailable, "waiting for a turn", format!("too many wait to write to {target}"))
        })?;
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Bucket, Rate};

    #[test]
    fn a_burst_passes_and_then_the_rate_rules() {
        let bucket = Bucket::new(Rate { per_second: 10, burst: 3, patience: Duration::from_millis(250) });
        let now = Instant::now();
        let waits: Vec<_> = (0..6).map(|_| bucket.take("a", now)).collect();
        let millis = |n| Some(Duration::from_millis(n));
        assert_eq!(waits, [millis(0), millis(0), millis(0), millis(100), millis(200), None]);
        assert_eq!(bucket.take("b", now), millis(0), "targets are apart");
        assert_eq!(bucket.take("a", now + Duration::from_millis(500)), millis(0), "it fills again");
    }
}
