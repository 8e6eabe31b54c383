//! How long to wait before trying again.

use std::time::Duration;

use keyturn_domain::entropy::Entropy;

/// The pause after the `attempt`-th failure, counted from 0: `base`, doubled with every failure up to `cap`,
/// half of it certain and half of it at random, so that devices that failed together do not return together.
pub(crate) fn pause(attempt: u32, base: Duration, cap: Duration, entropy: &dyn Entropy) -> Duration {
    let factor = 2_u32.checked_pow(attempt).unwrap_or(u32::MAX);
    let full = base.saturating_mul(factor).min(cap);
    full / 2 + share(full / 2, entropy)
}

/// `span`, a tenth more or less, so that a fleet installed at one moment spreads out.
pub(crate) fn spread(span: Duration, entropy: &dyn Entropy) -> Duration {
    span.saturating_sub(span / 10) + share(span / 5, entropy)
}

/// A time between nothing and `span`.
pub(crate) fn share(span: Duration, entropy: &dyn Entropy) -> Duration {
    const PARTS: u32 = 1 << 16;
    span / PARTS * entropy.below(PARTS)
}

#[cfg(test)]
mod tests {
    use keyturn_domain::ambient::SystemEntropy;

    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_never_vanish() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_mins(1));
        for attempt in 0..100 {
            let full = base.saturating_mul(2_u32.saturating_pow(attempt)).min(cap);
            let pause = pause(attempt, base, cap, &SystemEntropy);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn spreading_stays_within_a_tenth() {
        let hour = Duration::from_hours(1);
        for _ in 0..100 {
            let spread = spread(hour, &SystemEntropy);
            assert!(spread >= hour * 9 / 10 && spread <= hour * 11 / 10);
        }
    }
}
