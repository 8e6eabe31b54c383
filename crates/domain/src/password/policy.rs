//! What passwords are made of: a checked policy of one kind or the other.

use std::fmt;

use super::characters::Characters;
use super::complexity::{Complexity, Source};
use super::phrase::Phrase;
use super::{CLOUDLAPS_ALPHABET, Password};
use crate::entropy::Entropy;
use crate::lane::Hints;

/// Characters of a password, unless told otherwise (CloudLAPS's; Windows LAPS has 14).
pub const DEFAULT_LENGTH: u32 = 16;
/// Words of a passphrase, unless told otherwise (Windows LAPS's).
pub const DEFAULT_WORDS: u32 = 6;
/// A policy with fewer bits is refused: its passwords could be found from a stolen hash within its lifetime.
const REFUSED_BELOW: f64 = 60.0;
/// A policy with fewer bits is warned of.
const WARNED_BELOW: f64 = 80.0;

/// What passwords are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordPolicy(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Characters(Characters),
    Words(Phrase),
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Clone)]
pub enum PolicyError {
    /// No such complexity.
    #[error("{0} is none; 1 to 8 are those of Windows LAPS, and 0 takes the alphabet and the classes given")]
    Complexity(u8),
    /// Too short or too long.
    #[error("length {length} is outside 8 to {most}")]
    Length {
        /// Characters.
        length: u32,
        /// At most.
        most: u32,
    },
    /// Not a usable set of characters.
    #[error("the alphabet needs at least 10 different printable ASCII characters, each once; {0}")]
    Alphabet(String),
    /// More classes than the alphabet has.
    #[error("{wanted} character classes are asked for, but the alphabet has {available}")]
    Classes {
        /// Asked for.
        wanted: u32,
        /// In the alphabet.
        available: u32,
    },
    /// Too few or too many words.
    #[error("{0} words are outside 3 to 10")]
    Words(u32),
    /// Not a separator.
    #[error("a separator is nothing, or one ASCII digit or punctuation mark")]
    Separator,
    /// Guessable.
    #[error("{bits:.1} bits of entropy are fewer than 60; make the password longer or the alphabet larger")]
    Weak {
        /// How many.
        bits: f64,
    },
    /// Guessable.
    #[error("{bits:.1} bits of entropy are fewer than 60; take more words, or longer ones (complexity = 6)")]
    FewWords {
        /// How many.
        bits: f64,
    },
}

impl PolicyError {
    /// The setting at fault.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Complexity(_) => "complexity",
            Self::Length { .. } | Self::Weak { .. } => "length",
            Self::Alphabet(_) => "alphabet",
            Self::Classes { .. } => "classes",
            Self::Words(_) | Self::FewWords { .. } => "words",
            Self::Separator => "separator",
        }
    }
}

impl PasswordPolicy {
    /// Passwords of `length` characters from `alphabet`, with at least one from each of `classes` of upper case,
    /// lower case, digits and symbols (the rule of Windows asks for 3).
    pub fn new(length: u32, alphabet: &str, classes: u32) -> Result<Self, PolicyError> {
        Self(Kind::Characters(Characters::own(length, alphabet, classes)?)).strong()
    }

    /// Passwords as Windows LAPS makes them: `length` characters, 8 to 64, or `words` words, 3 to 10, with
    /// `separator` between them.
    pub fn windows_laps(
        complexity: Complexity,
        length: u32,
        words: u32,
        separator: Option<char>,
    ) -> Result<Self, PolicyError> {
        let kind = match complexity.source() {
            Source::Sets(sets) => Kind::Characters(Characters::of_sets(length, complexity, sets)?),
            Source::Words(list) => Kind::Words(Phrase::new(list, words, separator)?),
        };
        Self(kind).strong()
    }

    fn strong(self) -> Result<Self, PolicyError> {
        let bits = self.entropy_bits();
        match &self.0 {
            _ if bits >= REFUSED_BELOW => Ok(self),
            Kind::Characters(_) => Err(PolicyError::Weak { bits }),
            Kind::Words(_) => Err(PolicyError::FewWords { bits }),
        }
    }

    /// Entropy in bits: the logarithm to base 2 of how many passwords the policy allows, all of them equally likely.
    pub fn entropy_bits(&self) -> f64 {
        match &self.0 {
            Kind::Characters(characters) => characters.bits(),
            Kind::Words(phrase) => phrase.bits(),
        }
    }

    /// Entropy as Microsoft's table for Windows LAPS counts it: of a draw, before those without a class are rejected.
    pub fn drawn_bits(&self) -> f64 {
        match &self.0 {
            Kind::Characters(characters) => characters.drawn_bits(),
            Kind::Words(phrase) => phrase.bits(),
        }
    }

    /// Whether there is enough entropy to use it, but less than is advised: fewer than 80 bits.
    pub fn is_meagre(&self) -> bool {
        self.entropy_bits() < WARNED_BELOW
    }

    /// The policy with the hints of a device applied: never shorter, never fewer classes, never fewer bits than it
    /// was. A device's longest password is honoured only where it is not shorter than ours.
    pub fn hinted(&self, hints: Hints) -> Self {
        Self(match &self.0 {
            Kind::Characters(characters) => Kind::Characters(characters.hinted(hints)),
            Kind::Words(phrase) => Kind::Words(phrase.hinted(hints)),
        })
    }

    /// Draws a password, uniform over all that meet the policy: whole passwords are drawn and rejected until one
    /// meets it.
    pub fn generate(&self, entropy: &dyn Entropy) -> Password {
        match &self.0 {
            Kind::Characters(characters) => characters.draw(entropy),
            Kind::Words(phrase) => phrase.draw(entropy),
        }
    }
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self(Kind::Characters(Characters::unchecked(DEFAULT_LENGTH, CLOUDLAPS_ALPHABET, 4)))
    }
}

impl fmt::Display for PasswordPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Characters(it) => {
                write!(f, "{} characters out of {}, at least {} classes", it.length, it.size(), it.classes)
            }
            Kind::Words(it) => write!(f, "{} words out of {}", it.words, it.list.size()),
        }
    }
}
