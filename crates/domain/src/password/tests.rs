use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// SHA-256 in counter mode: random enough for statistics, the same every time.
struct Counter(Mutex<u64>);

impl Counter {
    fn new(seed: u64) -> Self {
        Self(Mutex::new(seed << 32))
    }
}

impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            let mut at = self.0.lock().unwrap();
            *at += 1;
            let block = Sha256::digest(at.to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

#[test]
fn every_password_meets_the_default_policy_and_none_comes_twice() {
    let (policy, entropy) = (PasswordPolicy::default(), Counter::new(1));
    let alphabet: BTreeSet<char> = CLOUDLAPS_ALPHABET.chars().collect();
    assert_eq!(alphabet.len(), 77);
    let mut seen = BTreeSet::new();
    for _ in 0..20_000 {
        let password = policy.generate(&entropy);
        let text = password.expose();
        assert_eq!(text.len(), 16);
        assert!(text.chars().all(|c| alphabet.contains(&c)));
        assert_eq!(count_classes(text.chars()), 4, "{text}");
        assert!(seen.insert(text.to_owned()));
    }
}

/// Among passwords drawn without a class rule, every character is as likely as any other: Pearson's chi-squared
/// with 76 degrees of freedom lies between its 0.1 % and 99.9 % points. The draw is seeded, so this is exact.
#[test]
fn characters_are_drawn_uniformly() {
    let policy = PasswordPolicy::new(16, CLOUDLAPS_ALPHABET, 0).unwrap();
    let entropy = Counter::new(2);
    let mut counts: BTreeMap<char, f64> = BTreeMap::new();
    for _ in 0..20_000 {
        for c in policy.generate(&entropy).expose().chars() {
            *counts.entry(c).or_default() += 1.0;
        }
    }
    let expected = 320_000.0 / 77.0;
    let chi: f64 = counts.values().map(|seen| (seen - expected).powi(2) / expected).sum();
    assert!((42.0..121.0).contains(&chi), "{chi}");
}

#[test]
fn policies_that_cannot_work_are_refused() {
    let good = CLOUDLAPS_ALPHABET;
    assert_eq!(PasswordPolicy::new(7, good, 4).unwrap_err(), PolicyError::Length(7));
    assert_eq!(PasswordPolicy::new(129, good, 4).unwrap_err(), PolicyError::Length(129));
    for bad in ["", "a", "aabcdefghij", "abcdefghi\u{e4}jk", "abcdefghij k", "abcdefghi"] {
        assert!(matches!(PasswordPolicy::new(40, bad, 1), Err(PolicyError::Alphabet(_))), "{bad}");
    }
    let classes = PasswordPolicy::new(40, "abcdefghij", 2).unwrap_err();
    assert_eq!(classes, PolicyError::Classes { wanted: 2, available: 1 });
    assert!(matches!(PasswordPolicy::new(8, good, 4), Err(PolicyError::Weak { .. })));
    assert!(PasswordPolicy::new(10, good, 4).is_ok());
}

#[test]
fn a_password_shows_nothing_of_itself() {
    assert_eq!(format!("{:?}", Password::new("hunter2hunter2".to_owned())), "Password([redacted])");
}

proptest! {
    #[test]
    fn invariant_hints_only_lengthen_or_restrict(
        min in proptest::option::of(any::<u32>()), max in proptest::option::of(any::<u32>()), complexity in proptest::option::of(any::<bool>()), seed in 0_u64..1000,
    ) {
        let policy = PasswordPolicy::new(16, CLOUDLAPS_ALPHABET, 2).unwrap();
        let hinted = policy.hinted(Hints { min_len: min, complexity, max_len: max });
        prop_assert!(hinted.length >= policy.length && hinted.length <= MAX_LENGTH);
        prop_assert!(hinted.classes >= policy.classes);
        let password = hinted.generate(&Counter::new(seed));
        prop_assert_eq!(password.expose().chars().count(), hinted.length as usize);
        prop_assert!(count_classes(password.expose().chars()) >= hinted.classes);
    }

    #[test]
    fn invariant_draws_stay_below_their_bound(bound in 1_u32.., seed in 0_u64..1000) {
        let entropy = Counter::new(seed);
        prop_assert!((&entropy as &dyn Entropy).below(bound) < bound);
    }
}
