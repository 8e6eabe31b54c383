//! Texts a device says about itself. They are shown beside what the directory says, never used as keys.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest label, in characters.
pub const MAX: usize = 64;

/// A printable text of at most [`MAX`] characters, without control characters, bidirectional controls or
/// zero-width characters, and without space at its ends. May be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// A text that cannot be a label.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("a label is at most {MAX} printable characters without control or direction marks")]
pub struct NotALabel;

impl Label {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Self, NotALabel> {
        let fits = text.chars().count() <= MAX && text.trim() == text && !text.chars().any(is_hidden);
        fits.then(|| Self(text.to_owned())).ok_or(NotALabel)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that print as nothing or change how their neighbours print (Unicode UAX 9, general category Cf).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&std::borrow::Cow::<'de, str>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_endless_texts_are_no_labels() {
        assert!(Label::parse("LAB-07 <script>").is_ok());
        assert!(Label::parse("").is_ok());
        for bad in ["a\u{202e}b", "a\u{200b}b", "a\nb", "a\0", " a", &"x".repeat(65)] {
            assert!(Label::parse(bad).is_err(), "{bad:?}");
        }
    }
}
