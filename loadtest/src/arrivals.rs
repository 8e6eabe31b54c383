//! When devices arrive. A schedule is fixed before the first of them starts, so nothing that the server does can move
//! it: that is what makes the load open (Schroeder, Wierman, Harchol-Balter: Open Versus Closed, NSDI 2006).

use std::time::Duration;

use keyturn_domain::span::Span;
use serde::Deserialize;

use crate::numbers::{float, whole};

/// How arrivals are spread over a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "shape", rename_all = "lowercase", deny_unknown_fields)]
pub enum Arrivals {
    /// The same rate all the time, in arrivals per second.
    Constant {
        /// Per second.
        rate: f64,
        /// How long.
        duration: Span,
        /// Whether gaps are random (exponential: a Poisson process) or all alike.
        #[serde(default = "yes")]
        poisson: bool,
    },
    /// From one rate to another.
    Ramp {
        /// Per second, at the start.
        from: f64,
        /// Per second, at the end.
        to: f64,
        /// How long.
        duration: Span,
        /// See `constant`.
        #[serde(default = "yes")]
        poisson: bool,
    },
    /// So many, at random instants of a time: everyone at nine.
    Burst {
        /// How many.
        count: u64,
        /// Within this time; `0s` for all at once.
        within: Span,
    },
    /// Every device once, at random instants: what fills a deployment.
    Each {
        /// Per second.
        rate: f64,
    },
    /// The same rate all the time, as a share of the highest that the server bears.
    Share {
        /// Of that rate.
        of_borne: f64,
        /// How long.
        duration: Span,
        /// See `constant`.
        #[serde(default = "yes")]
        poisson: bool,
    },
    /// A working day pressed into `duration`: quiet nights, a peak at nine, a lower one after lunch.
    Day {
        /// Per second, at night.
        base: f64,
        /// Per second, at nine.
        peak: f64,
        /// How long the day is here.
        duration: Span,
        /// See `constant`.
        #[serde(default = "yes")]
        poisson: bool,
    },
}

fn yes() -> bool {
    true
}

/// The most arrivals of one phase: a schedule is held in memory.
const MOST: f64 = 5_000_000.0;

/// Rates are taken for constant for so long.
const STEP: f64 = 0.001;

impl Arrivals {
    /// Whether its rate is known only when the highest rate that the server bears is.
    pub fn is_share(&self) -> bool {
        matches!(self, Self::Share { .. })
    }

    /// The same for a fleet of so many devices and a server that bears so many arrivals per second: `each` is a burst of
    /// all devices, a share is a rate.
    pub fn of(&self, devices: u64, borne: f64) -> Self {
        match self {
            Self::Share { of_borne, duration, poisson } => {
                Self::Constant { rate: of_borne * borne, duration: *duration, poisson: *poisson }
            }
            Self::Each { rate } => {
                let seconds = (float(devices) / rate.max(f64::MIN_POSITIVE)).min(1e9);
                Self::Burst { count: devices, within: Span(Duration::from_secs_f64(seconds)) }
            }
            other => other.clone(),
        }
    }

    /// What is wrong with it, in words.
    pub fn fault(&self) -> Option<String> {
        let rates = match self {
            Self::Constant { rate, .. } | Self::Each { rate } => vec![*rate],
            Self::Ramp { from, to, .. } => vec![*from, *to],
            Self::Day { base, peak, .. } => vec![*base, *peak],
            Self::Share { of_borne, .. } => vec![*of_borne],
            Self::Burst { count, .. } => {
                return (*count == 0 || float(*count) > MOST)
                    .then(|| format!("a burst has 1 to {MOST} arrivals, not {count}"));
            }
        };
        if rates.iter().any(|rate| !rate.is_finite() || *rate < 0.0) || rates.iter().all(|rate| *rate <= 0.0)
        {
            return Some(
                "rates are numbers of arrivals per second, zero or more, and not all zero".to_owned(),
            );
        }
        let most = rates.iter().copied().fold(0.0, f64::max) * self.span().as_secs_f64();
        (most > MOST).then(|| format!("a phase has at most {MOST} arrivals; make it shorter or slower"))
    }

    /// How long arrivals come in.
    pub fn span(&self) -> Duration {
        match self {
            Self::Constant { duration, .. }
            | Self::Ramp { duration, .. }
            | Self::Share { duration, .. }
            | Self::Day { duration, .. } => duration.0,
            Self::Burst { within, .. } => within.0,
            // Its length depends on the fleet; see `of`.
            Self::Each { .. } => Duration::ZERO,
        }
    }

    /// When each device arrives, from the start of the phase on, in order. The same seed gives the same times.
    pub fn schedule(&self, seed: u64) -> Vec<Duration> {
        let mut dice = Dice(seed);
        if let Self::Burst { count, within } = self {
            let mut times: Vec<_> = (0..*count).map(|_| within.0.mul_f64(dice.unit())).collect();
            times.sort_unstable();
            return times;
        }
        let poisson = match self {
            Self::Constant { poisson, .. } | Self::Ramp { poisson, .. } | Self::Day { poisson, .. } => {
                *poisson
            }
            Self::Burst { .. } | Self::Each { .. } | Self::Share { .. } => false,
        };
        let gap = |dice: &mut Dice| if poisson { -(1.0 - dice.unit()).ln() } else { 1.0 };
        let length = self.span().as_secs_f64();
        let (mut times, mut passed, mut next) = (Vec::new(), 0.0, gap(&mut dice));
        for step in 0..whole(length / STEP) {
            let start = float(step) * STEP;
            let share = self.rate(start / length) * STEP;
            // The area under the rate since the last arrival is what a gap is measured in.
            while share > 0.0 && passed + share >= next {
                times.push(Duration::from_secs_f64(start + (next - passed) / share * STEP));
                next += gap(&mut dice);
            }
            passed += share;
        }
        times
    }

    /// Arrivals per second when this share of the time has gone by.
    fn rate(&self, gone: f64) -> f64 {
        match self {
            Self::Constant { rate, .. } => *rate,
            Self::Ramp { from, to, .. } => from + (to - from) * gone,
            Self::Day { base, peak, .. } => {
                let hill = |hour: f64, width: f64| (-((gone * 24.0 - hour) / width).powi(2)).exp();
                base + (peak - base) * (hill(9.0, 1.0) + 0.5 * hill(13.5, 2.0)).min(1.0)
            }
            Self::Burst { .. } | Self::Each { .. } | Self::Share { .. } => 0.0,
        }
    }
}

/// Numbers that look random and come again with the same seed (SplitMix64, Steele et al. 2014). For times only.
struct Dice(u64);

impl Dice {
    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        float((mixed ^ (mixed >> 31)) >> 11) / float(1 << 53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Span {
        Span(Duration::from_secs(count))
    }

    fn gap_of(pair: &[Duration]) -> f64 {
        pair[1].as_secs_f64() - pair[0].as_secs_f64()
    }

    fn long(count: usize) -> f64 {
        float(u64::try_from(count).unwrap())
    }

    #[test]
    fn each_device_of_a_fleet_arrives_once() {
        let all = Arrivals::Each { rate: 50.0 }.of(200, 1.0);
        assert_eq!((all.schedule(1).len(), all.span()), (200, Duration::from_secs(4)));
    }

    #[test]
    fn a_share_of_what_is_borne_is_a_rate() {
        let half = Arrivals::Share { of_borne: 0.5, duration: seconds(10), poisson: false };
        assert!(half.is_share() && half.schedule(1).is_empty(), "it has no rate of its own");
        let times = half.of(7, 200.0).schedule(1);
        assert!((999..=1000).contains(&times.len()), "{}", times.len());
    }

    #[test]
    fn a_constant_rate_without_chance_is_evenly_spaced() {
        let even = Arrivals::Constant { rate: 100.0, duration: seconds(10), poisson: false };
        let times = even.schedule(1);
        assert!((999..=1000).contains(&times.len()), "{}", times.len());
        for pair in times.windows(2) {
            let gap = gap_of(pair);
            assert!((gap - 0.01).abs() < 1e-6, "{gap}");
        }
    }

    #[test]
    fn a_poisson_process_has_its_mean_and_its_spread() {
        let random = Arrivals::Constant { rate: 1000.0, duration: seconds(100), poisson: true };
        let times = random.schedule(7);
        let count = long(times.len());
        // The standard deviation of the count is its root: four of them.
        assert!((count - 100_000.0).abs() < 4.0 * 100_000_f64.sqrt(), "{count}");
        let gaps: Vec<f64> = times.windows(2).map(gap_of).collect();
        let mean = gaps.iter().sum::<f64>() / long(gaps.len());
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / long(gaps.len());
        let spread = variance.sqrt() / mean;
        assert!((spread - 1.0).abs() < 0.03, "an exponential distribution has a spread of 1, not {spread}");
    }

    #[test]
    fn a_ramp_brings_a_quarter_of_its_arrivals_in_its_first_half() {
        let ramp = Arrivals::Ramp { from: 0.0, to: 200.0, duration: seconds(20), poisson: false };
        let times = ramp.schedule(1);
        let early = times.iter().filter(|time| **time < Duration::from_secs(10)).count();
        assert!(
            (1998..=2000).contains(&times.len()) && (499..=501).contains(&early),
            "{early} of {}",
            times.len()
        );
    }

    #[test]
    fn a_burst_is_complete_in_order_and_in_time() {
        let burst = Arrivals::Burst { count: 500, within: seconds(2) };
        let times = burst.schedule(3);
        assert!(times.len() == 500 && times.is_sorted() && times[499] < Duration::from_secs(2));
        assert_ne!(times, burst.schedule(4));
        assert_eq!(times, burst.schedule(3), "the same seed gives the same times");
    }

    #[test]
    fn a_day_is_busiest_at_nine() {
        let day = Arrivals::Day { base: 5.0, peak: 100.0, duration: seconds(24), poisson: true };
        let times = day.schedule(5);
        let hour = |hour: u64| times.iter().filter(|time| time.as_secs() == hour).count();
        assert!(hour(9) > 5 * hour(2) && hour(9) > hour(13) && hour(13) > hour(3));
    }

    #[test]
    fn impossible_rates_are_named() {
        for bad in [f64::NAN, -1.0, 0.0, 1e12] {
            let arrivals = Arrivals::Constant { rate: bad, duration: seconds(10), poisson: true };
            assert!(arrivals.fault().is_some(), "{bad}");
        }
        assert!(Arrivals::Burst { count: 0, within: seconds(1) }.fault().is_some());
    }
}
