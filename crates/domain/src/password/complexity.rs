//! The complexity settings of Windows LAPS, by their numbers.
//!
//! Source: Microsoft, "Windows LAPS passwords and passphrases", and `PasswordComplexity` of the LAPS configuration
//! service provider. 1 to 5 are sets of characters of which every password has at least one of each; 6 to 8 are lists
//! of words.

use super::policy::PolicyError;
use super::words::WordList;

const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const DIGITS: &str = "0123456789";
const SPECIAL: &str = ",.-+;!#&@{}[]$/()%";
/// Setting 5: without I, O, Q, l, o, 0, 1 and the symbols that are hard to tell apart or to say.
const READABLE: [&str; 4] = ["ABCDEFGHJKLMNPRSTUVWXYZ", "abcdefghijkmnpqrstuvwxyz", "23456789", "!#%+@:=?*"];

/// A complexity of Windows LAPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Complexity {
    /// 1: upper case.
    Upper,
    /// 2: upper and lower case.
    Letters,
    /// 3: upper and lower case, and digits.
    Alphanumeric,
    /// 4: upper and lower case, digits and special characters.
    Full,
    /// 5: as 4, without characters that are easily mistaken.
    Readable,
    /// 6: long words.
    LongWords,
    /// 7: short words.
    ShortWords,
    /// 8: short words, no two of which begin with the same three letters.
    PrefixedWords,
}

/// What a complexity draws from.
pub(super) enum Source {
    /// Each of these sets.
    Sets(&'static [&'static str]),
    /// Words.
    Words(WordList),
}

impl Complexity {
    /// All of them, in their order.
    pub const ALL: [Self; 8] = [
        Self::Upper,
        Self::Letters,
        Self::Alphanumeric,
        Self::Full,
        Self::Readable,
        Self::LongWords,
        Self::ShortWords,
        Self::PrefixedWords,
    ];

    /// The complexity with this number, 1 to 8.
    pub fn from_number(number: u8) -> Result<Self, PolicyError> {
        let at = usize::from(number).checked_sub(1);
        at.and_then(|at| Self::ALL.get(at)).copied().ok_or(PolicyError::Complexity(number))
    }

    /// Its word list, if it makes passphrases.
    pub fn words(self) -> Option<WordList> {
        match self.source() {
            Source::Sets(_) => None,
            Source::Words(list) => Some(list),
        }
    }

    /// Its sets of characters, if it makes passwords.
    pub fn sets(self) -> Option<&'static [&'static str]> {
        match self.source() {
            Source::Sets(sets) => Some(sets),
            Source::Words(_) => None,
        }
    }

    pub(super) fn source(self) -> Source {
        match self {
            Self::Upper => Source::Sets(&[UPPER]),
            Self::Letters => Source::Sets(&[UPPER, LOWER]),
            Self::Alphanumeric => Source::Sets(&[UPPER, LOWER, DIGITS]),
            Self::Full => Source::Sets(&[UPPER, LOWER, DIGITS, SPECIAL]),
            Self::Readable => Source::Sets(&READABLE),
            Self::LongWords => Source::Words(WordList::Large),
            Self::ShortWords => Source::Words(WordList::Short),
            Self::PrefixedWords => Source::Words(WordList::Prefixed),
        }
    }
}
