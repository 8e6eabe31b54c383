//! Where time comes from.

use std::time::Duration;

use crate::time::UnixMillis;

/// A source of time. Wall-clock time orders and dates; monotonic time measures. Clones share their source.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, UTC.
    fn now(&self) -> UnixMillis;

    /// Time since an arbitrary fixed point, never going back.
    fn monotonic(&self) -> Duration;
}
