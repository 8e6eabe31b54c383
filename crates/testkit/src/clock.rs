//! A clock that stands still until it is told to go on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::time::UnixMillis;

/// A clock ticked by hand. Clones share the time.
#[derive(Clone)]
pub struct ManualClock {
    wall: Arc<AtomicU64>,
    monotonic: Arc<AtomicU64>,
    /// Told of every new time, before anybody can see it.
    follower: Option<Arc<dyn Fn(UnixMillis) + Send + Sync>>,
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: UnixMillis) -> Self {
        let (wall, monotonic) = (Arc::new(AtomicU64::new(now.0)), Arc::new(AtomicU64::new(0)));
        Self { wall, monotonic, follower: None }
    }

    /// The same clock, with somebody who is told the time whenever it changes: an engine with a clock of its own.
    #[must_use]
    pub fn followed(mut self, follower: impl Fn(UnixMillis) + Send + Sync + 'static) -> Self {
        follower(self.now());
        self.follower = Some(Arc::new(follower));
        self
    }

    fn tell(&self, now: UnixMillis) {
        if let Some(follower) = &self.follower {
            follower(now);
        }
    }

    /// Lets time pass.
    pub fn advance(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.tell(UnixMillis(self.now().0.saturating_add(millis)));
        self.wall.fetch_add(millis, Ordering::SeqCst);
        self.monotonic.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock, forward or back, as an administrator or a time server does. No time passes.
    pub fn set(&self, now: UnixMillis) {
        self.tell(now);
        self.wall.store(now.0, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// A clock that shows the 15th of November 2026, 12:00 UTC.
    fn default() -> Self {
        Self::at(UnixMillis(1_794_744_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic.load(Ordering::SeqCst))
    }
}
