//! The section `password` and the entries `policy`, as written.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::password::{CLOUDLAPS_ALPHABET, DEFAULT_LENGTH, DEFAULT_WORDS};
use keyturn_domain::span::Span;
use serde::{Deserialize, Serialize};

/// What passwords are made of.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Password {
    /// 0 draws characters from the alphabet below. 1 to 8 are those of Windows LAPS (PasswordComplexity): 1 A-Z,
    /// 2 a-z too, 3 digits too, 4 special characters too, 5 the same without what is easily mistaken; and passphrases
    /// of 6 long words, 7 short words, 8 short words that differ in their first three letters.
    #[config(default = 0)]
    pub complexity: u8,
    /// Characters (CloudLAPS: PasswordLength): 8 to 128, with a complexity of 1 to 5 at most 64.
    #[config(default = 16)]
    pub length: u32,
    /// The characters to choose from (CloudLAPS: PasswordAllowedCharacters).
    #[config(default = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz.:;,-_!?$%*=+&<>@#()23456789")]
    pub alphabet: String,
    /// Of upper case, lower case, digits and symbols, so many occur in every password.
    #[config(default = 4)]
    pub classes: u32,
    /// Words of a passphrase (Windows LAPS: PassphraseLength): 3 to 10.
    #[config(default = 6)]
    pub words: u32,
    /// What stands between the words: nothing, as in Windows LAPS, or one digit or punctuation mark.
    #[config(default = "")]
    pub separator: String,
}

impl Default for Password {
    fn default() -> Self {
        Self {
            complexity: 0,
            length: DEFAULT_LENGTH,
            alphabet: CLOUDLAPS_ALPHABET.to_owned(),
            classes: 4,
            words: DEFAULT_WORDS,
            separator: String::new(),
        }
    }
}

/// A policy of a group of devices.
#[derive(Deserialize, Serialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct PolicyEntry {
    /// Its name: 1 to 64 characters of a-z 0-9 - .
    pub name: String,
    /// Ids of its devices.
    pub devices: Option<Vec<String>>,
    /// A file of ids, one a line.
    pub devices_file: Option<PathBuf>,
    /// Groups of the directory, by their object ids.
    pub groups: Option<Vec<String>>,
    /// Patterns of host names.
    pub host: Option<Vec<String>>,
    /// Patterns of operating systems.
    pub os: Option<Vec<String>>,
    /// See [`Password`], here and below.
    pub complexity: Option<u8>,
    /// Characters.
    pub length: Option<u32>,
    /// Characters to choose from.
    pub alphabet: Option<String>,
    /// Classes that occur.
    pub classes: Option<u32>,
    /// Words.
    pub words: Option<u32>,
    /// What stands between them.
    pub separator: Option<String>,
    /// As in the section `rotation`.
    pub update_frequency: Option<Span>,
}
