//! Patterns over labels: `*` stands for any characters or none, `?` for one, and case does not matter.

use std::fmt;
use std::str::FromStr;

use crate::label;

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// A text that cannot be a pattern.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("«{0}» is no pattern: it takes 1 to 64 characters, of which * stands for any and ? for one")]
pub struct NotAPattern(String);

impl FromStr for Pattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let fits = (1..=label::MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAPattern(text.to_owned())) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// Whether the whole of `text` fits. Time is bounded by the product of the lengths, whoever wrote the text.
    pub fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
        // By a number of characters of the text: whether the pattern so far fits just these.
        let mut reached: Vec<bool> = (0..=text.len()).map(|at| at == 0).collect();
        for sign in self.0.chars().flat_map(char::to_lowercase) {
            let mut next = Vec::with_capacity(reached.len());
            if sign == '*' {
                next.extend(reached.iter().scan(false, |any, here| {
                    *any |= *here;
                    Some(*any)
                }));
            } else {
                next.push(false);
                next.extend(text.iter().zip(&reached).map(|(c, here)| *here && (sign == '?' || *c == sign)));
            }
            reached = next;
        }
        reached.last().copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_texts() {
        for (pattern, fitting, other) in [
            ("KIOSK-*", &["kiosk-7", "KIOSK-"][..], &["KIOSK", "my-kiosk-7"][..]),
            ("*", &["", "anything"], &[]),
            ("lab-??", &["LAB-07"], &["LAB-7", "LAB-007"]),
            ("*server*20??", &["Windows Server 2025", "server2019"], &["Windows 11", "Server 20 19"]),
            ("a*b*c", &["abc", "a-b-bc", "aXbXc"], &["acb", "ab", "abcd"]),
            ("[x]", &["[x]"], &["x"]),
            ("caf\u{c9}", &["caf\u{e9}"], &["cafe"]),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert!(fitting.iter().all(|text| pattern.fits(text)), "{pattern}");
            assert!(!other.iter().any(|text| pattern.fits(text)), "{pattern}");
        }
    }

    #[test]
    fn what_fits_nothing_is_no_pattern() {
        for bad in ["", "a\nb", &"x".repeat(65)] {
            bad.parse::<Pattern>().unwrap_err();
        }
    }
}
