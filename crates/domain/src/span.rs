//! Lengths of time as settings write them: `250ms`, `30s`, `15m`, `1h`, `3d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A text that is not a length of time.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("expected a whole number and a unit, like 250ms, 30s, 15m, 1h or 3d")]
pub struct NotASpan;

/// The units in milliseconds, `ms` before `m` and `s`, which it ends and begins with.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Span {
    type Err = NotASpan;

    fn from_str(text: &str) -> Result<Self, NotASpan> {
        let unit = UNITS.iter().find_map(|(unit, millis)| Some((text.strip_suffix(unit)?, *millis)));
        let (number, millis) = unit.ok_or(NotASpan)?;
        // `parse` takes a leading plus sign; a setting has none.
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| digits).ok_or(NotASpan)?;
        number.checked_mul(millis).map(|total| Self(Duration::from_millis(total))).ok_or(NotASpan)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |(_, millis): &&(&str, u64)| total.is_multiple_of(*millis) && total >= *millis;
        let (unit, millis) = UNITS.iter().rev().find(fits).copied().unwrap_or(("ms", 1));
        write!(f, "{}{unit}", total / millis)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

/// Reads a text, and says what it wants if there is something else, like the number that CloudLAPS's settings have.
struct Text;

impl Visitor<'_> for Text {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number and a unit in quotes, like \"30s\", \"1h\" or \"3d\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("15m", 900_000), ("1h", 3_600_000), ("3d", 259_200_000)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis));
            assert_eq!(span.to_string(), text);
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "90s");
    }

    #[test]
    fn anything_else_is_no_span() {
        for bad in ["", "5", "s", "-1s", "+1s", "1.5h", "1 h", "1w", "18446744073709551615d", "1H"] {
            assert_eq!(bad.parse::<Span>(), Err(NotASpan), "{bad}");
        }
    }
}
