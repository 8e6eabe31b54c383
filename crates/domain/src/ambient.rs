//! The real clock and the system's random source: the only place in the workspace that reads them.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::time::UnixMillis;

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> UnixMillis {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that asks the system for randomness"
    )]
    fn fill(&self, out: &mut [u8]) {
        if getrandom::fill(out).is_err() {
            // Going on with weak bytes would hand out guessable passwords.
            std::process::abort();
        }
    }
}
