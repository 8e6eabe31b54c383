//! Passwords of characters from an alphabet, with at least so many classes in every one.

use zeroize::Zeroizing;

use super::policy::PolicyError;
use super::{Complexity, MAX_LENGTH, Password};
use crate::entropy::Entropy;
use crate::lane::Hints;

/// How many classes the rule of Windows asks for ("Password must meet complexity requirements").
const DEMANDED: u32 = 3;

/// So many characters of an alphabet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Characters {
    pub(super) length: u32,
    alphabet: Vec<char>,
    pub(super) classes: u32,
    complexity: Option<Complexity>,
}

impl Characters {
    /// An alphabet of the operator's own.
    pub(super) fn own(length: u32, alphabet: &str, classes: u32) -> Result<Self, PolicyError> {
        let made = Self::unchecked(length, alphabet, classes);
        if !(8..=MAX_LENGTH).contains(&length) {
            return Err(PolicyError::Length { length, most: MAX_LENGTH });
        }
        made.check_alphabet()?;
        let available = made.available();
        if classes > available { Err(PolicyError::Classes { wanted: classes, available }) } else { Ok(made) }
    }

    pub(super) fn unchecked(length: u32, alphabet: &str, classes: u32) -> Self {
        Self { length, alphabet: alphabet.chars().collect(), classes, complexity: None }
    }

    /// The sets of a complexity of Windows LAPS, one of each in every password.
    pub(super) fn of_sets(length: u32, complexity: Complexity, sets: &[&str]) -> Result<Self, PolicyError> {
        let most = 64;
        if !(8..=most).contains(&length) {
            return Err(PolicyError::Length { length, most });
        }
        Ok(Self::unbounded(length, complexity, sets))
    }

    fn unbounded(length: u32, complexity: Complexity, sets: &[&str]) -> Self {
        let alphabet: Vec<char> = sets.iter().flat_map(|set| set.chars()).collect();
        let classes = count_classes(alphabet.iter().copied());
        Self { length, alphabet, classes, complexity: Some(complexity) }
    }

    fn check_alphabet(&self) -> Result<(), PolicyError> {
        let mut seen = self.alphabet.clone();
        seen.sort_unstable();
        seen.dedup();
        match self.alphabet.iter().find(|c| !c.is_ascii_graphic()) {
            Some(c) => Err(PolicyError::Alphabet(format!("«{}» is not one", c.escape_default()))),
            None if seen.len() != self.alphabet.len() => {
                Err(PolicyError::Alphabet("one stands twice".into()))
            }
            None if seen.len() < 10 => Err(PolicyError::Alphabet(format!("it has {}", seen.len()))),
            None => Ok(()),
        }
    }

    /// How many characters there are to choose from.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.alphabet.len()).unwrap_or(u32::MAX)
    }

    fn available(&self) -> u32 {
        count_classes(self.alphabet.iter().copied())
    }

    /// Bits of a draw before any is rejected.
    pub(super) fn drawn_bits(&self) -> f64 {
        f64::from(self.length) * f64::from(self.size()).log2()
    }

    /// Bits of a password: the logarithm of how many there are with the classes asked for.
    pub(super) fn bits(&self) -> f64 {
        let mut sizes = [0; 4];
        for c in &self.alphabet {
            if let Some(size) = sizes.get_mut(class(*c)) {
                *size += 1;
            }
        }
        self.drawn_bits() + share(sizes, self.length, self.classes).log2()
    }

    /// Never shorter, never fewer classes, never fewer bits. One of Windows LAPS's alphabets that has too few classes
    /// for a device gives way to the next one that has enough; an operator's own alphabet is left as it is.
    pub(super) fn hinted(&self, hints: Hints) -> Self {
        let longest = hints.max_len.map_or(MAX_LENGTH, |max| max.clamp(self.length, MAX_LENGTH));
        let length = hints.min_len.map_or(self.length, |min| min.clamp(self.length, longest));
        let mut hinted = Self { length, ..self.clone() };
        if hints.complexity == Some(true) {
            let enough = Complexity::Alphanumeric;
            if let Some(sets) = enough.sets().filter(|_| self.complexity.is_some_and(|own| own < enough)) {
                hinted = Self::unbounded(length, enough, sets);
            }
            hinted.classes = hinted.classes.max(DEMANDED.min(hinted.available()));
        }
        // A further class rules passwords out; a character more makes up for it. Where the device has no room for one
        // it gets no further class: it would be paid for in bits.
        while hinted.bits() < self.bits() && hinted.length < longest {
            hinted.length += 1;
        }
        if hinted.bits() < self.bits() {
            hinted.classes = self.classes;
        }
        hinted
    }

    /// Draws whole passwords until one has its classes.
    pub(super) fn draw(&self, entropy: &dyn Entropy) -> Password {
        let size = self.size();
        let mut drawn = Zeroizing::new(String::with_capacity(self.length as usize));
        loop {
            drawn.clear();
            for _ in 0..self.length {
                drawn.extend(self.alphabet.get(entropy.below(size) as usize));
            }
            if count_classes(drawn.chars()) >= self.classes {
                return Password::new(std::mem::take(&mut *drawn));
            }
        }
    }
}

/// Upper case, lower case, digits or symbols, by number.
fn class(c: char) -> usize {
    match c {
        'A'..='Z' => 0,
        'a'..='z' => 1,
        '0'..='9' => 2,
        _ => 3,
    }
}

/// How many of upper case, lower case, digits and symbols occur.
pub(super) fn count_classes(chars: impl Iterator<Item = char>) -> u32 {
    chars.fold(0_u32, |seen, c| seen | 1 << class(c)).count_ones()
}

/// The share of all texts of `length` over classes of these sizes that have at least `wanted` of the classes.
///
/// Those with exactly the classes of a set are, by inclusion and exclusion, the texts within the set less those within
/// each of its subsets. A set is a number whose bits are the classes in it.
fn share(sizes: [u32; 4], length: u32, wanted: u32) -> f64 {
    let characters = |set: u32| -> f64 {
        (0_u32..).zip(sizes).filter(|(at, _)| set >> at & 1 == 1).map(|(_, size)| f64::from(size)).sum()
    };
    let power = i32::try_from(length).unwrap_or(i32::MAX);
    let within = |set: u32| (characters(set) / characters(0b1111)).powi(power);
    let exactly = |set: u32| -> f64 {
        let subsets = (0..=set).filter(|part| part & !set == 0);
        let signed = |part: u32| {
            if (set ^ part).count_ones().is_multiple_of(2) { within(part) } else { -within(part) }
        };
        subsets.map(signed).sum()
    };
    (0..16_u32).filter(|set| set.count_ones() >= wanted).map(exactly).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every text of a small alphabet, counted.
    #[test]
    fn shares_are_those_that_counting_gives() {
        for (alphabet, sizes) in
            [("ABab1!", [2_u32, 2, 1, 1]), ("Aab12", [1, 2, 2, 0]), ("abc", [0, 3, 0, 0])]
        {
            let chars: Vec<char> = alphabet.chars().collect();
            for wanted in 0..=4 {
                let (mut having, all) = (0_u32, chars.len().pow(5));
                for number in 0..all {
                    let text = (0..5).map(|at| chars[number / chars.len().pow(at) % chars.len()]);
                    having += u32::from(count_classes(text) >= wanted);
                }
                let counted = f64::from(having) / f64::from(u32::try_from(all).unwrap());
                assert!((share(sizes, 5, wanted) - counted).abs() < 1e-12, "{alphabet} {wanted}");
            }
        }
    }
}
