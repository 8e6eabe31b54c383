//! Trying again: few times and not for long, since a message that is leased comes back by itself.
//!
//! The SDK's own retries are off everywhere: they last eighty seconds on a dead endpoint, longer than a lease, and they
//! repeat writes without looking.

use std::time::Duration;

use keyturn_domain::entropy::Entropy;

use crate::failure::{Failure, Refused};

/// How often and when a call is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// How often it is made in all, at least once.
    pub most: u32,
    /// The pause before the second; it doubles, and half of it is random.
    pub first_delay: Duration,
    /// The longest pause. Who is told to wait for longer gives up instead, and the message comes again later.
    pub max_delay: Duration,
}

impl Attempts {
    /// The pause before the attempt after number `made`, from 1, or None to give up.
    ///
    /// A `Retry-After` is obeyed, and where there is none although there should be, the doubling pause serves.
    pub(crate) fn pause(&self, made: u32, failure: &Failure, entropy: &dyn Entropy) -> Option<Duration> {
        if made >= self.most || !is_passing(failure) {
            return None;
        }
        if let Failure::Refused(Refused { retry_after: Some(seconds), .. }) = failure {
            let told = Duration::from_secs(*seconds);
            return (told <= self.max_delay).then_some(told);
        }
        let doubled = self.first_delay.saturating_mul(2_u32.saturating_pow(made - 1)).min(self.max_delay);
        let [random] = entropy.bytes::<1>();
        Some(doubled / 2 + doubled * u32::from(random) / 512)
    }
}

/// Counts an answer of `service` that says to come back later.
pub(crate) fn count_throttle(service: &'static str, status: u16) {
    if matches!(status, 429 | 503) {
        metrics::counter!("keyturn_azure_throttled_total", "service" => service).increment(1);
    }
}

/// Makes a call of `service` that changes nothing, until it goes well or there is no hope.
pub(crate) async fn again<T, F>(
    service: &'static str,
    attempts: Attempts,
    entropy: &dyn Entropy,
    call: impl Fn() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = azure_core::Result<T>>,
{
    let mut made = 1;
    loop {
        let failure = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => Failure::of(&error),
        };
        if let Failure::Refused(Refused { status, .. }) = &failure {
            count_throttle(service, *status);
        }
        let Some(pause) = attempts.pause(made, &failure, entropy) else {
            return Err(failure);
        };
        tokio::time::sleep(pause).await;
        made += 1;
    }
}

/// Whether the same call may go well a moment later.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Refused(refused) => matches!(refused.status, 408 | 429 | 500 | 502..=504),
        Failure::Silence(_) => true,
        Failure::NoToken(status) => status.is_none_or(|status| status == 429 || status >= 500),
        Failure::Nonsense(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyturn_domain::ambient::SystemEntropy;

    use super::Attempts;
    use crate::failure::{Failure, Refused};

    fn refused(status: u16, retry_after: Option<u64>) -> Failure {
        Failure::Refused(Refused { status, code: None, retry_after })
    }

    #[test]
    fn pauses_double_within_their_bounds_and_end() {
        let attempts = Attempts {
            most: 4,
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_millis(300),
        };
        for (made, longest) in [(1, 100), (2, 200), (3, 300)] {
            for _ in 0..50 {
                let pause = attempts.pause(made, &refused(503, None), &SystemEntropy).unwrap();
                assert!(
                    pause <= Duration::from_millis(longest) && pause >= Duration::from_millis(longest / 2)
                );
            }
        }
        assert_eq!(attempts.pause(4, &refused(503, None), &SystemEntropy), None);
    }

    #[test]
    fn who_is_told_when_to_come_back_does_so_or_gives_up() {
        let attempts =
            Attempts { most: 3, first_delay: Duration::from_millis(1), max_delay: Duration::from_secs(2) };
        let pause = |seconds| attempts.pause(1, &refused(429, Some(seconds)), &SystemEntropy);
        assert_eq!(pause(2), Some(Duration::from_secs(2)));
        assert_eq!(pause(3), None);
        assert_eq!(attempts.pause(1, &refused(403, None), &SystemEntropy), None);
        assert_eq!(attempts.pause(1, &refused(409, None), &SystemEntropy), None);
    }
}
