use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::characters::count_classes;
use super::*;
use crate::entropy::Entropy;
use crate::lane::Hints;

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

fn windows(number: u8, length: u32, words: u32) -> PasswordPolicy {
    let complexity = Complexity::from_number(number).unwrap();
    PasswordPolicy::windows_laps(complexity, length, words, None).unwrap()
}

/// The exact values come from counting with whole numbers, one character after the other. As many bits as Microsoft's table says at 14 characters or 6 words, and, counted over the passwords that have a
/// character of each set, as many as are told.
#[test]
fn entropy_is_as_documented_and_exact() {
    let documented = [66, 80, 83, 89, 84, 78, 62, 62];
    let exact = [65.806, 79.806, 83.229, 88.207, 83.558, 77.549, 62.039, 62.039];
    for (number, (documented, exact)) in (1..).zip(documented.into_iter().zip(exact)) {
        let policy = windows(number, 14, 6);
        assert_eq!(format!("{:.0}", policy.drawn_bits()), documented.to_string(), "complexity {number}");
        let bits = policy.entropy_bits();
        assert!((bits - exact).abs() < 0.001, "complexity {number}: {bits}");
        assert_eq!(policy.is_meagre(), bits < 80.0);
    }
    let bits = PasswordPolicy::default().entropy_bits();
    assert!((bits - 99.975).abs() < 0.001, "{bits}");
    assert!(!PasswordPolicy::default().is_meagre());
}

#[test]
fn complexities_have_the_documented_sets() {
    let sizes: Vec<usize> =
        Complexity::ALL.iter().filter_map(|one| one.sets()).map(|sets| sets.concat().len()).collect();
    assert_eq!(sizes, [26, 52, 62, 80, 64]);
    for sets in Complexity::ALL.iter().filter_map(|one| one.sets()) {
        let text = sets.concat();
        assert_eq!(text.chars().collect::<BTreeSet<_>>().len(), text.len(), "{text}");
        assert!(sets.iter().all(|set| count_classes(set.chars()) == 1), "{text}");
    }
    let readable = Complexity::Readable.sets().unwrap().concat();
    assert!("IOQlo01".chars().all(|c| !readable.contains(c)));
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

/// Pearson's chi-squared of counts that should be equal.
fn chi_squared<T>(counts: &BTreeMap<T, f64>, kinds: f64) -> f64 {
    let expected = counts.values().sum::<f64>() / kinds;
    let missing = kinds - counts.values().map(|_| 1.0).sum::<f64>();
    counts.values().map(|seen| (seen - expected).powi(2) / expected).sum::<f64>() + missing * expected
}

/// Among passwords drawn without a class rule, every character is as likely as any other: chi-squared with 76 degrees
/// of freedom lies between its 0.1 % and 99.9 % points. The draw is seeded, so this is exact.
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
    let chi = chi_squared(&counts, 77.0);
    assert!((42.0..121.0).contains(&chi), "{chi}");
}

/// The same for words, with 1,295 degrees of freedom.
#[test]
fn words_are_drawn_uniformly() {
    for number in [7, 8] {
        let (policy, entropy) = (windows(number, 14, 6), Counter::new(3));
        let mut counts: BTreeMap<String, f64> = BTreeMap::new();
        for _ in 0..20_000 {
            for word in words_of(policy.generate(&entropy).expose()) {
                *counts.entry(word).or_default() += 1.0;
            }
        }
        let chi = chi_squared(&counts, 1_296.0);
        assert!((1_143.0..1_457.0).contains(&chi), "complexity {number}: {chi}");
    }
}

/// The words of a passphrase without separators: each begins with a capital, and has no other.
fn words_of(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if !c.is_ascii_uppercase() => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words
}

#[test]
fn policies_that_cannot_work_are_refused() {
    let good = CLOUDLAPS_ALPHABET;
    let laps = |number, length, words, separator| {
        let complexity = Complexity::from_number(number)?;
        PasswordPolicy::windows_laps(complexity, length, words, separator).map(drop)
    };
    let own = |length, alphabet, classes| PasswordPolicy::new(length, alphabet, classes).map(drop);
    for (made, key) in [
        (own(7, good, 4), "length"),
        (own(129, good, 4), "length"),
        (own(8, good, 4), "length"),
        (own(40, "abcdefghij", 2), "classes"),
        (laps(0, 14, 6, None), "complexity"),
        (laps(9, 14, 6, None), "complexity"),
        (laps(4, 7, 6, None), "length"),
        (laps(4, 65, 6, None), "length"),
        (laps(4, 8, 6, None), "length"),
        (laps(1, 12, 6, None), "length"),
        (laps(6, 14, 2, None), "words"),
        (laps(6, 14, 11, None), "words"),
        (laps(6, 14, 4, None), "words"),
        (laps(7, 14, 5, None), "words"),
        (laps(6, 14, 6, Some('x')), "separator"),
        (laps(6, 14, 6, Some(' ')), "separator"),
        (laps(6, 14, 6, Some('\u{2013}')), "separator"),
    ] {
        let error = made.unwrap_err();
        assert_eq!(error.key(), key, "{error}");
    }
    for bad in ["", "a", "aabcdefghij", "abcdefghi\u{e4}jk", "abcdefghij k", "abcdefghi"] {
        assert!(matches!(PasswordPolicy::new(40, bad, 1), Err(PolicyError::Alphabet(_))), "{bad}");
    }
    for good in [own(10, good, 4), laps(1, 13, 6, None), laps(6, 14, 5, Some('-')), laps(8, 1, 6, Some('7'))]
    {
        good.unwrap();
    }
}

#[test]
fn a_password_shows_nothing_of_itself() {
    assert_eq!(format!("{:?}", Password::new("hunter2hunter2".to_owned())), "Password([redacted])");
}

/// A complexity with a length and a number of words it may have.
fn any_windows() -> impl Strategy<Value = (Complexity, u32, u32, Option<char>)> {
    let separator = proptest::option::of(proptest::sample::select(vec!['-', '.', '7', '_']));
    (proptest::sample::select(Complexity::ALL.to_vec()), 14_u32..=64, 6_u32..=10, separator)
}

fn any_hints() -> impl Strategy<Value = Hints> {
    let number = || proptest::option::of(prop_oneof![0_u32..140, any::<u32>()]);
    (number(), proptest::option::of(any::<bool>()), number())
        .prop_map(|(min_len, complexity, max_len)| Hints { min_len, complexity, max_len })
}

proptest! {
    #[test]
    fn invariant_passwords_are_what_their_complexity_says(
        (complexity, length, words, separator) in any_windows(), seed in 0_u64..100_000,
    ) {
        let policy = PasswordPolicy::windows_laps(complexity, length, words, separator).unwrap();
        let password = policy.generate(&Counter::new(seed));
        let text = password.expose();
        prop_assert!(text.is_ascii() && text.len() <= MAX_LENGTH as usize);
        if let Some(sets) = complexity.sets() {
            prop_assert_eq!(text.len(), length as usize);
            prop_assert!(text.chars().all(|c| sets.iter().any(|set| set.contains(c))), "{}", text);
            prop_assert!(sets.iter().all(|set| text.contains(|c| set.contains(c))), "{}", text);
        } else {
            let list = complexity.words().unwrap();
            let all: BTreeSet<&str> = (0..list.size()).map(|at| list.word(at).unwrap()).collect();
            let found = words_of(text);
            prop_assert_eq!(found.len(), words as usize);
            for (at, word) in found.iter().enumerate() {
                let last = at + 1 == found.len();
                let bare = separator.filter(|_| !last).map_or(Some(word.as_str()), |c| word.strip_suffix(c));
                prop_assert!(all.contains(bare.unwrap().to_ascii_lowercase().as_str()), "{}", text);
            }
        }
    }

    #[test]
    fn invariant_hints_only_lengthen_or_restrict(
        (complexity, length, words, separator) in any_windows(), hints in any_hints(), seed in 0_u64..1000,
    ) {
        let policy = PasswordPolicy::windows_laps(complexity, length, words, separator).unwrap();
        let hinted = policy.hinted(hints);
        prop_assert!(hinted.entropy_bits() >= policy.entropy_bits(), "{} {}", hinted, policy);
        let password = hinted.generate(&Counter::new(seed));
        let text = password.expose();
        prop_assert!(text.len() <= MAX_LENGTH as usize);
        let shortest = hints.min_len.filter(|least| *least <= 60 && hints.max_len.is_none());
        prop_assert!(shortest.is_none_or(|least| text.len() >= least as usize), "{} {:?}", text, hints);
        if hints.complexity == Some(true) {
            prop_assert!(count_classes(text.chars()) >= 3, "{}", text);
        }
    }

    #[test]
    fn invariant_hints_only_lengthen_or_restrict_an_alphabet(
        classes in 0_u32..=4, hints in any_hints(), seed in 0_u64..1000,
    ) {
        let policy = PasswordPolicy::new(16, CLOUDLAPS_ALPHABET, classes).unwrap();
        let hinted = policy.hinted(hints);
        let password = hinted.generate(&Counter::new(seed));
        let length = password.expose().len();
        prop_assert!((16..=MAX_LENGTH as usize).contains(&length));
        prop_assert!(hints.max_len.is_none_or(|most| length <= most.max(16) as usize));
        prop_assert!(hinted.entropy_bits() >= policy.entropy_bits());
        let wanted = if hints.complexity == Some(true) && hints.max_len.is_none() { classes.max(3) } else { classes };
        prop_assert!(count_classes(password.expose().chars()) >= wanted);
    }

    #[test]
    fn invariant_draws_stay_below_their_bound(bound in 1_u32.., seed in 0_u64..1000) {
        let entropy = Counter::new(seed);
        prop_assert!((&entropy as &dyn Entropy).below(bound) < bound);
    }
}

#[test]
fn a_passphrase_grows_by_words_and_no_further_than_it_must() {
    let policy = windows(6, 14, 6);
    let hinted = |min_len, max_len| policy.hinted(Hints { min_len, max_len, complexity: None }).to_string();
    assert_eq!(hinted(Some(14), None), "6 words out of 7776");
    assert_eq!(hinted(Some(20), None), "7 words out of 7776");
    assert_eq!(hinted(Some(64), None), "9 words out of 7776");
    assert_eq!(hinted(Some(64), Some(40)), "6 words out of 7776");
    assert_eq!(hinted(None, Some(8)), "6 words out of 7776");
}
