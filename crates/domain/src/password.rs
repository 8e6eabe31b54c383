//! Passwords: a type that cannot leak one, the policy, and the generator.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::lane::Hints;

/// CloudLAPS's default alphabet (`PasswordAllowedCharacters`): 77 characters, none of them easily mistaken.
pub const CLOUDLAPS_ALPHABET: &str =
    "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz.:;,-_!?$%*=+&<>@#()23456789";

/// The longest password Keyturn makes or carries, in characters. Sealed results are padded to hold it.
pub const MAX_LENGTH: u32 = 128;

/// A password. It has no text form, cannot be cloned or serialised, and is wiped when dropped.
pub struct Password(SecretString);

impl Password {
    /// Takes a password over.
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The text. Only the vault adapters, the sealing of results, the agent's account code and the audited
    /// reveal may call this; a test in `ops` lists the files that do.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

/// What passwords are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordPolicy {
    length: u32,
    alphabet: Vec<char>,
    classes: u32,
}

/// A policy that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Clone)]
pub enum PolicyError {
    /// Too short or too long.
    #[error("length {0} is outside 8 to {MAX_LENGTH}")]
    Length(u32),
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
    /// Guessable.
    #[error("{bits:.0} bits of entropy are fewer than 60; make the password longer or the alphabet larger")]
    Weak {
        /// How many.
        bits: f64,
    },
}

impl PasswordPolicy {
    /// Checks a policy: passwords of `length` characters from `alphabet`, with at least one from each of
    /// `classes` of upper case, lower case, digits and symbols (the device's own complexity rule asks for 3).
    pub fn new(length: u32, alphabet: &str, classes: u32) -> Result<Self, PolicyError> {
        let policy = Self { length, alphabet: alphabet.chars().collect(), classes };
        if !(8..=MAX_LENGTH).contains(&length) {
            return Err(PolicyError::Length(length));
        }
        policy.check_alphabet()?;
        let available = count_classes(policy.alphabet.iter().copied());
        if classes > available {
            return Err(PolicyError::Classes { wanted: classes, available });
        }
        if policy.entropy_bits() < 60.0 {
            return Err(PolicyError::Weak { bits: policy.entropy_bits() });
        }
        Ok(policy)
    }

    fn check_alphabet(&self) -> Result<(), PolicyError> {
        let mut seen = self.alphabet.clone();
        seen.sort_unstable();
        seen.dedup();
        match self.alphabet.iter().find(|c| !c.is_ascii_graphic()) {
            Some(c) => Err(PolicyError::Alphabet(format!("{c:?} is not one"))),
            None if seen.len() != self.alphabet.len() => {
                Err(PolicyError::Alphabet("one stands twice".into()))
            }
            None if seen.len() < 10 => Err(PolicyError::Alphabet(format!("it has {}", seen.len()))),
            None => Ok(()),
        }
    }

    /// Entropy of a password in bits, before rejection, which costs a third of a bit with the defaults.
    pub fn entropy_bits(&self) -> f64 {
        let size = u32::try_from(self.alphabet.len()).unwrap_or(u32::MAX);
        f64::from(self.length) * f64::from(size).log2()
    }

    /// The policy with the hints of a device applied: never shorter, never fewer classes than it was. A device's
    /// longest password is honoured only where it is not shorter than ours.
    pub fn hinted(&self, hints: Hints) -> Self {
        let available = count_classes(self.alphabet.iter().copied());
        let longest = hints.max_len.map_or(MAX_LENGTH, |max| max.clamp(self.length, MAX_LENGTH));
        Self {
            length: hints.min_len.map_or(self.length, |min| min.clamp(self.length, longest)),
            classes: if hints.complexity == Some(true) {
                self.classes.max(3.min(available))
            } else {
                self.classes
            },
            alphabet: self.alphabet.clone(),
        }
    }

    /// Draws a password, uniform over all that meet the policy: whole passwords are drawn and rejected until one
    /// has its classes.
    pub fn generate(&self, entropy: &dyn Entropy) -> Password {
        let size = u32::try_from(self.alphabet.len()).unwrap_or(u32::MAX);
        let mut drawn = Zeroizing::new(String::with_capacity(self.length as usize));
        loop {
            drawn.clear();
            for _ in 0..self.length {
                let at = entropy.below(size) as usize;
                drawn.extend(self.alphabet.get(at));
            }
            if count_classes(drawn.chars()) >= self.classes {
                return Password::new(std::mem::take(&mut *drawn));
            }
        }
    }
}

impl Default for PasswordPolicy {
    fn default() -> Self {
        Self { length: 16, alphabet: CLOUDLAPS_ALPHABET.chars().collect(), classes: 4 }
    }
}

/// How many of upper case, lower case, digits and symbols occur.
fn count_classes(mut chars: impl Iterator<Item = char>) -> u32 {
    let mut seen = [false; 4];
    let [upper, lower, digit, symbol] = &mut seen;
    chars.by_ref().for_each(|c| match c {
        'A'..='Z' => *upper = true,
        'a'..='z' => *lower = true,
        '0'..='9' => *digit = true,
        _ => *symbol = true,
    });
    seen.iter().map(|class| u32::from(*class)).sum()
}

#[cfg(test)]
mod tests;
