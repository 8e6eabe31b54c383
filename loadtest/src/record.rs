//! What is measured of rotations: when each reached its stages, how it ended, and the distributions of all.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::result::Code;
use serde::Serialize;

use crate::numbers::{float, micros};

/// What a rotation consists of, in order. Each lasts from the end of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the intended start until a task of this program ran with a device at hand. Not the server's.
    Lag,
    /// TCP and TLS.
    Connect,
    /// The call for a nonce.
    Nonce,
    /// The client's key makes and signature. Not the server's.
    Sign,
    /// POST until 202.
    Submit,
    /// From 202 until the answer is here: two queues, validator, rotator, notifier, poll.
    Answer,
    /// Checking and opening the answer, and setting the password. Not the server's.
    Open,
    /// The client's signature of the report. Not the server's.
    SignReport,
    /// POST of the report until 202.
    Report,
    /// From its 202 until «recorded» is here.
    Confirm,
    /// Within `Answer`: from 202 until the rotator signed, by the server's clock. To the millisecond, and only if both
    /// clocks are one.
    Rotator,
    /// From the intended start until the 202.
    Acknowledged,
    /// From the intended start until the password is at hand.
    AtHand,
    /// From the intended start until it is confirmed.
    Whole,
}

/// How a rotation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server recorded the report.
    Confirmed,
    /// A password was set, and the server did not record the report.
    Unreported,
    /// A signed answer without a password.
    Answered(Code),
    /// An unsigned refusal after the 202.
    Refused,
    /// 429 or 503 instead of the 202.
    TurnedAway(u16),
    /// Another status instead of the 202, with its code.
    Rejected(String),
    /// No connection, no answer, or one that does not hold.
    Failed(String),
}

impl Ended {
    /// Its name in reports.
    fn name(&self) -> String {
        match self {
            Self::Confirmed => "confirmed".to_owned(),
            Self::Unreported => "unreported".to_owned(),
            Self::Answered(code) => format!("answered {code:?}"),
            Self::Refused => "refused".to_owned(),
            Self::TurnedAway(status) => format!("turned away with {status}"),
            Self::Rejected(code) => format!("rejected with {code}"),
            Self::Failed(why) => format!("failed: {why}"),
        }
    }
}

/// The times of one rotation.
pub struct Timeline {
    intended: Duration,
    last: Duration,
    reached: Vec<(Stage, Duration)>,
    submitted: UnixMillis,
    acknowledged: bool,
    turned: Vec<Turned>,
    broken: u64,
}

/// An answer of 429 or 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turned {
    status: u16,
    told: bool,
}

impl Timeline {
    /// A rotation that was meant to start at this instant of the monotonic clock, and starts now.
    pub fn start(intended: Duration) -> Self {
        let mut timeline = Self {
            intended,
            last: intended,
            reached: Vec::with_capacity(13),
            submitted: UnixMillis(0),
            acknowledged: false,
            turned: Vec::new(),
            broken: 0,
        };
        timeline.reached(Stage::Lag);
        timeline
    }

    /// A stage has ended.
    pub fn reached(&mut self, stage: Stage) {
        let now = SystemClock.monotonic();
        self.reached.push((stage, now.saturating_sub(self.last)));
        self.last = now;
        if stage == Stage::Submit {
            self.submitted = SystemClock.now();
            if !self.acknowledged {
                self.acknowledged = true;
                self.reached.push((Stage::Acknowledged, now.saturating_sub(self.intended)));
            }
        }
    }

    /// The server turned a call away, and said when to come back, or did not.
    pub fn turned_away(&mut self, status: u16, told: bool) {
        self.turned.push(Turned { status, told });
    }

    /// A connection broke, and the call is made again.
    pub fn broke(&mut self) {
        self.broken += 1;
    }

    /// When the request was taken, by the wall clock.
    pub fn submitted(&self) -> UnixMillis {
        self.submitted
    }

    /// How long after its 202 the answer was signed.
    pub fn signed(&mut self, after: Duration) {
        self.reached.push((Stage::Rotator, after));
    }

    /// The password is at hand.
    pub fn at_hand(&mut self) {
        self.reached.push((Stage::AtHand, self.last.saturating_sub(self.intended)));
    }
}

/// A distribution in microseconds, to three digits, up to an hour.
type Spread = Histogram<u64>;

const HOUR: u64 = 3_600_000_000;

#[expect(clippy::expect_used, reason = "constants that the library takes")]
fn spread(digits: u8) -> Spread {
    Spread::new_with_bounds(1, HOUR, digits).expect("bounds and digits are sound")
}

/// Everything measured of one phase.
#[derive(Default)]
pub struct Record(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    stages: BTreeMap<Stage, Spread>,
    /// Time until the password is at hand, by the second of the intended start.
    seconds: BTreeMap<u64, Spread>,
    ends: BTreeMap<String, u64>,
    turned: BTreeMap<u16, u64>,
    untold: u64,
    broken: u64,
    unanswered: u64,
    confirmed: u64,
    given: u64,
    finished: u64,
}

/// How far a phase is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Rotations that have ended, however.
    pub finished: u64,
    /// Those that were confirmed.
    pub confirmed: u64,
    /// The median and 99th percentile of the time until the password was at hand.
    pub at_hand: (Duration, Duration),
}

impl Record {
    /// Adds a rotation. `start` is the start of the phase by the monotonic clock.
    pub fn add(&self, timeline: &Timeline, ended: &Ended, start: Duration) {
        let mut inner = self.lock();
        inner.finished += 1;
        *inner.ends.entry(ended.name()).or_default() += 1;
        let whole = (*ended == Ended::Confirmed)
            .then(|| (Stage::Whole, timeline.last.saturating_sub(timeline.intended)));
        inner.confirmed += u64::from(whole.is_some());
        for turned in &timeline.turned {
            *inner.turned.entry(turned.status).or_default() += 1;
            inner.untold += u64::from(!turned.told);
        }
        inner.broken += timeline.broken;
        inner.unanswered += u64::from(timeline.acknowledged && matches!(ended, Ended::Failed(_)));
        for (stage, took) in timeline.reached.iter().copied().chain(whole) {
            let took = micros(took).clamp(1, HOUR);
            inner.stages.entry(stage).or_insert_with(|| spread(3)).saturating_record(took);
            if stage == Stage::AtHand {
                inner.given += 1;
                let second = timeline.intended.saturating_sub(start).as_secs();
                inner.seconds.entry(second).or_insert_with(|| spread(2)).saturating_record(took);
            }
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let inner = self.lock();
        let at = |quantile| {
            inner.stages.get(&Stage::AtHand).map_or(0, |spread| spread.value_at_quantile(quantile))
        };
        Progress {
            finished: inner.finished,
            confirmed: inner.confirmed,
            at_hand: (Duration::from_micros(at(0.5)), Duration::from_micros(at(0.99))),
        }
    }

    /// What was measured.
    pub fn summary(&self) -> Summary {
        let inner = self.lock();
        let seconds = inner.seconds.iter().map(|(second, spread)| Second {
            second: *second,
            count: spread.len(),
            p50: spread.value_at_quantile(0.5),
            p99: spread.value_at_quantile(0.99),
            max: spread.max(),
        });
        Summary {
            ended: inner.ends.clone(),
            finished: inner.finished,
            confirmed: inner.confirmed,
            turned_away: inner.turned.clone(),
            untold: inner.untold,
            broken: inner.broken,
            unanswered: inner.unanswered,
            given: inner.given,
            stages: inner.stages.iter().map(|(stage, spread)| (*stage, Percentiles::of(spread))).collect(),
            seconds: seconds.collect(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The results of one phase.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How rotations ended, and how many each way.
    pub ended: BTreeMap<String, u64>,
    /// All of them.
    pub finished: u64,
    /// Those whose report was recorded.
    pub confirmed: u64,
    /// Answers of 429 and 503, by their status: a device may have had several, and have come through after all.
    pub turned_away: BTreeMap<u16, u64>,
    /// Those of them that did not say when to come back.
    pub untold: u64,
    /// Connections that broke while somebody waited for an answer, after which the call was made again.
    pub broken: u64,
    /// Rotations that were acknowledged and failed afterwards.
    pub unanswered: u64,
    /// Those that brought a password.
    pub given: u64,
    /// Each stage.
    pub stages: BTreeMap<Stage, Percentiles>,
    /// The time until the password was at hand, by the second of the intended start.
    pub seconds: Vec<Second>,
}

/// A distribution, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Percentiles {
    /// Samples.
    pub count: u64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Points of the curve: how many of a million are at most so long.
    pub curve: Vec<(u64, u64)>,
}

/// The points of a curve, in millionths.
const CURVE: [u64; 13] = [
    0, 100_000, 250_000, 500_000, 750_000, 900_000, 950_000, 975_000, 990_000, 995_000, 999_000, 999_900,
    1_000_000,
];

impl Percentiles {
    fn of(spread: &Spread) -> Self {
        let at = |quantile| spread.value_at_quantile(quantile);
        Self {
            count: spread.len(),
            mean: spread.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: spread.max(),
            curve: CURVE.map(|share| (share, at(float(share) / 1e6))).to_vec(),
        }
    }
}

/// One second of a phase. Times in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    /// Since the start of the phase.
    pub second: u64,
    /// Rotations that were meant to start in it and brought a password.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 99 %.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_a_late_start_cost_is_counted() {
        // The clock begins at its first reading.
        while SystemClock.monotonic() < Duration::from_millis(20) {}
        let record = Record::default();
        let mut timeline = Timeline::start(Duration::ZERO);
        timeline.reached(Stage::Open);
        timeline.at_hand();
        record.add(&timeline, &Ended::Confirmed, Duration::ZERO);
        let summary = record.summary();
        for stage in [Stage::Lag, Stage::AtHand, Stage::Whole] {
            assert!(summary.stages[&stage].max >= 20_000, "{stage:?}");
        }
        assert!(summary.stages[&Stage::Open].max < summary.stages[&Stage::Lag].max);
    }

    #[test]
    fn what_was_acknowledged_and_failed_is_counted() {
        let record = Record::default();
        let mut timeline = Timeline::start(SystemClock.monotonic());
        record.add(&timeline, &Ended::Failed("no connection".to_owned()), Duration::ZERO);
        timeline.reached(Stage::Submit);
        timeline.reached(Stage::Submit);
        for ended in [Ended::Failed("no answer".to_owned()), Ended::Confirmed] {
            record.add(&timeline, &ended, Duration::ZERO);
        }
        let summary = record.summary();
        assert_eq!((summary.unanswered, summary.stages[&Stage::Acknowledged].count), (1, 2));
    }

    #[test]
    fn ends_are_counted_by_their_names() {
        let record = Record::default();
        let mut timeline = Timeline::start(SystemClock.monotonic());
        timeline.turned_away(503, true);
        timeline.turned_away(429, false);
        timeline.broke();
        for ended in [Ended::Confirmed, Ended::TurnedAway(503), Ended::TurnedAway(503)] {
            record.add(&timeline, &ended, Duration::ZERO);
        }
        let summary = record.summary();
        assert_eq!((summary.finished, summary.confirmed), (3, 1));
        assert_eq!(summary.ended["turned away with 503"], 2);
        assert_eq!((summary.turned_away[&503], summary.turned_away[&429], summary.untold), (3, 3, 3));
        assert_eq!(summary.broken, 3);
        assert!(!summary.stages.contains_key(&Stage::AtHand) && summary.stages.contains_key(&Stage::Whole));
    }
}
