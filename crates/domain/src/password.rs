//! Passwords: a type that cannot leak one, what they are made of, and the generator.
//!
//! Two kinds: characters drawn from an alphabet, and passphrases drawn from a list of words. Each is uniform over
//! all that the policy allows, so that its entropy is the logarithm of how many those are.

mod characters;
mod complexity;
mod phrase;
mod policy;
mod words;

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

pub use self::complexity::Complexity;
pub use self::policy::{DEFAULT_LENGTH, DEFAULT_WORDS, PasswordPolicy, PolicyError};
pub use self::words::WordList;

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

#[cfg(test)]
mod tests;
