//! Passphrases: words of a list, each with a capital at its head.
//!
//! The capitals keep words apart, so no two draws give the same text, with or without a separator, and the entropy is
//! that of the draw.

use zeroize::Zeroizing;

use super::policy::PolicyError;
use super::{MAX_LENGTH, Password, WordList};
use crate::entropy::Entropy;
use crate::lane::Hints;

/// What stands between words when a device demands a third class of characters and the policy has none.
const THIRD_CLASS: char = '-';
/// Where fewer draws than this share would be long enough, a word is added.
const KEPT: f64 = 1.0 / 16.0;

/// So many words of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phrase {
    pub(super) list: WordList,
    pub(super) words: u32,
    separator: Option<char>,
    /// None is shorter, in characters.
    least: u32,
}

impl Phrase {
    pub(super) fn new(list: WordList, words: u32, separator: Option<char>) -> Result<Self, PolicyError> {
        if !(3..=10).contains(&words) {
            return Err(PolicyError::Words(words));
        }
        match separator {
            Some(c) if !c.is_ascii_digit() && !c.is_ascii_punctuation() => Err(PolicyError::Separator),
            _ => Ok(Self { list, words, separator, least: 0 }),
        }
    }

    /// Bits of a passphrase: the logarithm of how many there are that are long enough.
    pub(super) fn bits(&self) -> f64 {
        f64::from(self.words) * f64::from(self.list.size()).log2() + self.share().log2()
    }

    /// Characters between the words.
    fn between(&self) -> u32 {
        self.separator.map_or(0, |_| self.words.saturating_sub(1))
    }

    fn shortest(&self) -> u32 {
        self.words * self.list.shortest() + self.between()
    }

    fn longest(&self) -> u32 {
        self.words * self.list.longest() + self.between()
    }

    /// The share of draws that are long enough: the lengths of words, added up as often as there are words.
    fn share(&self) -> f64 {
        if self.least <= self.shortest() {
            return 1.0;
        }
        let mut totals = vec![1.0];
        for _ in 0..self.words {
            let mut longer = vec![0.0; totals.len() + self.list.longest() as usize];
            for (letters, share) in self.list.shares().iter().enumerate() {
                for (sum, total) in longer.iter_mut().skip(letters).zip(&totals) {
                    *sum += share * total;
                }
            }
            totals = longer;
        }
        totals.iter().skip((self.least - self.between()) as usize).sum()
    }

    /// Never fewer words, never fewer bits. A shortest length is met by more words; the device's longest is honoured
    /// where it is not below what the policy may draw anyway.
    pub(super) fn hinted(&self, hints: Hints) -> Self {
        let classes = hints.complexity == Some(true);
        let separator = self.separator.or_else(|| classes.then_some(THIRD_CLASS));
        let base = Self { separator, ..self.clone() };
        let limit = hints.max_len.map_or(MAX_LENGTH, |max| max.clamp(base.longest(), MAX_LENGTH));
        let between = u32::from(separator.is_some());
        let most = ((limit + between) / (self.list.longest() + between)).max(self.words);
        let wanted = hints.min_len.unwrap_or(0).min(limit);
        let with = |words, least| Self { words, least, ..base.clone() };
        let serves = |one: &Self| one.share() >= KEPT && one.bits() >= self.bits();
        let longer = (self.words..=most).map(|words| with(words, wanted)).find(serves);
        // With as many words as fit, and as long as they can well be.
        let best = || (0..wanted).rev().map(|least| with(most, least)).find(serves);
        longer.or_else(best).unwrap_or(base)
    }

    /// Draws whole passphrases until one is long enough.
    pub(super) fn draw(&self, entropy: &dyn Entropy) -> Password {
        let size = self.list.size();
        loop {
            // Indices first: the text is then written once, into memory of its own length, and never moved.
            let drawn: Zeroizing<Vec<u32>> =
                Zeroizing::new((0..self.words).map(|_| entropy.below(size)).collect());
            let words = || drawn.iter().filter_map(|at| self.list.word(*at));
            let length = words().map(str::len).sum::<usize>() + self.between() as usize;
            if length >= self.least as usize {
                let mut text = String::with_capacity(length);
                for (at, word) in words().enumerate() {
                    let mut letters = word.chars();
                    text.extend(self.separator.filter(|_| at > 0));
                    text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                    text.push_str(letters.as_str());
                }
                return Password::new(text);
            }
        }
    }
}
