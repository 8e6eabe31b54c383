//! The word lists of passphrases. Where they come from and their licence: `words/README.md`.
//!
//! They are some eighty kilobytes that only who generates needs: nothing but the generator may refer to them, so that
//! the agent's program is linked without. A test of the agent looks into it.

use std::sync::LazyLock;

/// A list of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordList {
    /// EFF's large list: 7,776 words of 3 to 9 letters.
    Large,
    /// EFF's short list 1: 1,296 words of 3 to 5 letters.
    Short,
    /// EFF's short list 2: 1,296 words of 3 to 10 letters, no two with the same first three.
    Prefixed,
}

/// A list that was read.
struct Words {
    all: Vec<&'static str>,
    /// By a number of letters, the share of words that have so many.
    shares: Vec<f64>,
    shortest: u32,
    longest: u32,
}

static LARGE: LazyLock<Words> = LazyLock::new(|| Words::read(include_str!("words/eff_large.txt")));
static SHORT: LazyLock<Words> = LazyLock::new(|| Words::read(include_str!("words/eff_short_1.txt")));
static PREFIXED: LazyLock<Words> = LazyLock::new(|| Words::read(include_str!("words/eff_short_2.txt")));

impl WordList {
    /// How many words there are.
    pub fn size(self) -> u32 {
        size(&self.list().all)
    }

    /// The word at `index`; none beyond the last.
    pub fn word(self, index: u32) -> Option<&'static str> {
        self.list().all.get(usize::try_from(index).ok()?).copied()
    }

    /// Letters of the shortest word.
    pub fn shortest(self) -> u32 {
        self.list().shortest
    }

    /// Letters of the longest word.
    pub fn longest(self) -> u32 {
        self.list().longest
    }

    /// By a number of letters, from none on: the share of words that have so many.
    pub(super) fn shares(self) -> &'static [f64] {
        &self.list().shares
    }

    fn list(self) -> &'static Words {
        match self {
            Self::Large => &LARGE,
            Self::Short => &SHORT,
            Self::Prefixed => &PREFIXED,
        }
    }
}

impl Words {
    fn read(text: &'static str) -> Self {
        let all: Vec<&str> = text.lines().collect();
        let longest = all.iter().map(|word| word.len()).max().unwrap_or(0);
        let shortest = all.iter().map(|word| word.len()).min().unwrap_or(0);
        let having = |letters| all.iter().filter(|word| word.len() == letters).map(|_| 1.0).sum::<f64>();
        let shares = (0..=longest).map(|letters| having(letters) / f64::from(size(&all))).collect();
        let number = |letters| u32::try_from(letters).unwrap_or(u32::MAX);
        Self { shares, shortest: number(shortest), longest: number(longest), all }
    }
}

fn size(words: &[&str]) -> u32 {
    u32::try_from(words.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_lists_are_whole_and_every_word_is_there_once() {
        for (list, size, letters) in [
            (WordList::Large, 7_776, (3, 9)),
            (WordList::Short, 1_296, (3, 5)),
            (WordList::Prefixed, 1_296, (3, 10)),
        ] {
            let words = &list.list().all;
            assert_eq!((list.size(), words.len()), (size, size as usize));
            assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len(), "{list:?}");
            assert_eq!((list.shortest(), list.longest()), letters, "{list:?}");
            let plain = |word: &&str| {
                word.bytes().all(|c| c.is_ascii_lowercase() || c == b'-') && word.as_bytes()[0] != b'-'
            };
            assert!(words.iter().all(plain), "{list:?}");
            assert!((list.shares().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        let prefixes: BTreeSet<&str> = PREFIXED.all.iter().map(|word| &word[..3]).collect();
        assert_eq!(prefixes.len(), 1_296);
    }
}
