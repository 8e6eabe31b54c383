//! Turns that all processes of a deployment take from one store, where a service counts the calls of all together.
//!
//! A bucket is nothing but the time at which its next turn is: turns follow each other at a fixed interval, and whoever
//! books some moves that time on. Several are booked at once, so that one write serves many calls. A process that dies
//! loses what it booked and no more. All times are the store's, so clocks of processes need not agree.

use std::time::Duration;

use async_trait::async_trait;

use crate::Error;

/// The longest that a turn may lie ahead. A bucket that is further ahead was left by a clock that has been set back.
pub const HORIZON: Duration = Duration::from_mins(1);

/// What somebody wants of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pause between two turns, at least a microsecond.
    pub interval: Duration,
    /// How far ahead the last turn may lie, at most [`HORIZON`].
    pub horizon: Duration,
    /// The most turns.
    pub most: u32,
}

/// Turns that were booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// How many, from 0 to what was wanted.
    pub turns: u32,
    /// How long after the store's decision the first is. The others follow at the interval.
    pub wait: Duration,
}

/// Whoever keeps the buckets.
#[async_trait]
pub trait Turns: Send + Sync {
    /// Books turns of a bucket, which is made at first use. After an unknown outcome turns may be lost; none is ever given
    /// to two. No turns means that the next one lies beyond the horizon.
    async fn book(&self, bucket: &str, wanted: Wanted) -> Result<Booked, Error>;
}

impl Wanted {
    /// What is booked at `now` of a bucket whose next turn is at `next`, and when its next turn is after that; all in
    /// microseconds of the store's clock.
    pub fn of(&self, next: u64, now: u64) -> (Booked, u64) {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let (interval, horizon) = (micros(self.interval).max(1), micros(self.horizon.min(HORIZON)));
        let furthest = now.saturating_add(micros(HORIZON));
        if next > furthest.saturating_add(interval) {
            // Nobody could book so far ahead. What was booked by the old time is over by then.
            return (Booked { turns: 0, wait: HORIZON }, furthest);
        }
        let start = next.max(now);
        let fitting = now.saturating_add(horizon).checked_sub(start).map_or(0, |room| room / interval + 1);
        let turns = u32::try_from(fitting).unwrap_or(u32::MAX).min(self.most);
        let wait = Duration::from_micros(start - now);
        (Booked { turns, wait }, start.saturating_add(interval.saturating_mul(u64::from(turns))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted =
        Wanted { interval: Duration::from_millis(10), horizon: Duration::from_millis(100), most: 4 };

    fn booked(turns: u32, wait_ms: u64) -> Booked {
        Booked { turns, wait: Duration::from_millis(wait_ms) }
    }

    #[test]
    fn turns_follow_each_other_up_to_the_horizon() {
        let now = 1_000_000;
        let (first, next) = WANTED.of(0, now);
        assert_eq!((first, next), (booked(4, 0), now + 40_000));
        let (second, next) = WANTED.of(next, now);
        assert_eq!((second, next), (booked(4, 40), now + 80_000));
        let (third, next) = WANTED.of(next, now);
        assert_eq!((third, next), (booked(3, 80), now + 110_000), "the last is at the horizon");
        assert_eq!(WANTED.of(next, now).0.turns, 0);
        assert_eq!(WANTED.of(next, now + 500_000).0, booked(4, 0), "an idle bucket saves nothing up");
    }

    #[test]
    fn a_clock_set_back_ends_in_a_pause_and_not_in_silence() {
        let (none, next) = WANTED.of(3_600_000_000, 1_000_000);
        assert_eq!((none.turns, next), (0, 61_000_000));
        assert_eq!(WANTED.of(next, 61_000_000).0, booked(4, 0));
        // As far ahead as somebody may have booked is no such clock.
        let patient = Wanted { horizon: HORIZON, ..WANTED };
        assert_eq!(patient.of(1_000_000 + 60_000_000, 1_000_000).0.turns, 1);
    }
}
