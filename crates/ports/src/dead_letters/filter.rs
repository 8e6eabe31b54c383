//! The filter of dead letters: one small language for the command line, the API and the portal.
//!
//! # The language
//! Terms, separated by blanks, all of which must hold. A term is `key:value` or, for the opposite, `-key:value`.
//! Several values, separated by commas, mean any of them. A value with blanks, commas or quotes stands in `"…"`, in which `\"` and `\\` are a
//! quote and a backslash. At most 4096 characters and 64 values.
//!
//! | key | value |
//! |---|---|
//! | `reason` | `undecodable`, `unsupported_version`, `untrusted`, `exhausted` |
//! | `queue` | `requests`, `findings`, `outcomes`, `alarms` |
//! | `device` | a device id, or what the caller knows for a name of one ([`Filter::naming`]) |
//! | `label` | the device's name in the directory, or its host name or serial number; `*` stands for anything |
//! | `group` | the policy the device is under |
//! | `age` | how long dead: `>10m`, `<2h`, `>=1d`, `<=1d` |
//! | `attempts` | deliveries: `5`, `>3`, `<3`, `>=3`, `<=3` |
//! | `error` | words that occur in the last error, without regard to case |
//! | `id` | the letter's number, or a range like `17-40` |
//!
//! Pure: what a letter's device is called is a fact that the caller brings ([`Facts`]).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::span::Span;
use keyturn_domain::time::UnixMillis;

use super::DeadLetter;
use crate::queue::{DeadReason, QueueName};

/// The most characters of a filter.
pub const LONGEST: usize = 4096;
/// The most values of a filter.
pub const MOST_VALUES: usize = 64;

const KEYS: &str = "reason, queue, device, label, group, age, attempts, error and id";

/// A filter. The empty one lets everything pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    not: bool,
    any: Vec<Test>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Reason(DeadReason),
    Queue(QueueName),
    Device(DeviceId),
    Label(String),
    Group(String),
    Age(Compare, Duration),
    Attempts(Compare, u32),
    Error(String),
    Id(u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compare {
    less: bool,
    equal: bool,
    greater: bool,
}

/// What a filter goes by beside the letter itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Now.
    pub now: UnixMillis,
    /// What the letter's device is called: in the directory, and by itself.
    pub labels: Vec<String>,
    /// The policies its lanes are under.
    pub groups: Vec<String>,
}

/// A text that is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {problem}")]
pub struct NotAFilter {
    /// Where, counted in characters from 1.
    pub at: usize,
    /// What is wrong there, and what may stand there.
    pub problem: String,
    /// The value of `device` that is no id, if that is what is wrong: a name, perhaps.
    pub device: Option<String>,
}

impl Filter {
    /// Reads a filter in which these names stand for devices, as they are written. No device is a name's until the
    /// caller has said so: a term about nobody would let everything pass with a hyphen in front.
    ///
    /// # Errors
    /// What is wrong. With [`NotAFilter::device`] the caller may look for that name, and read again.
    pub fn naming(text: &str, devices: &BTreeMap<String, DeviceId>) -> Result<Self, NotAFilter> {
        let characters: Vec<char> = text.chars().collect();
        if characters.len() > LONGEST {
            return Err(wrong(LONGEST, format!("the filter is longer than {LONGEST} characters")));
        }
        let mut reader = Reader { characters: &characters, devices, at: 0, values: 0 };
        let mut terms = Vec::new();
        while reader.skip_blanks() {
            terms.push(reader.term()?);
        }
        Ok(Self { text: text.trim().to_owned(), terms })
    }

    /// Whether it has no term.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether [`Facts::labels`] or [`Facts::groups`] matter to it.
    pub fn needs_names(&self) -> bool {
        let named = |test: &Test| matches!(test, Test::Label(_) | Test::Group(_));
        self.terms.iter().any(|term| term.any.iter().any(named))
    }

    /// Whether a letter passes.
    pub fn matches(&self, letter: &DeadLetter, facts: &Facts) -> bool {
        self.terms.iter().all(|term| term.any.iter().any(|test| test.holds(letter, facts)) != term.not)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "all" } else { &self.text })
    }
}

impl Test {
    fn holds(&self, letter: &DeadLetter, facts: &Facts) -> bool {
        match self {
            Self::Reason(reason) => letter.reason == *reason,
            Self::Queue(queue) => letter.queue == *queue,
            Self::Device(device) => letter.message.device == *device,
            Self::Label(pattern) => facts.labels.iter().any(|label| is_like(pattern, &label.to_lowercase())),
            Self::Group(group) => facts.groups.contains(group),
            Self::Age(compare, age) => compare.holds(facts.now.since(letter.died).cmp(age)),
            Self::Attempts(compare, count) => compare.holds(letter.deliveries.cmp(count)),
            Self::Error(words) => {
                letter.attempts.last().is_some_and(|last| last.error.to_lowercase().contains(words))
            }
            Self::Id(from, to) => (*from..=*to).contains(&letter.id.0),
        }
    }
}

impl Compare {
    fn holds(self, order: Ordering) -> bool {
        match order {
            Ordering::Less => self.less,
            Ordering::Equal => self.equal,
            Ordering::Greater => self.greater,
        }
    }
}

/// Whether a lower-case text is like a lower-case pattern, in which `*` stands for anything.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

impl FromStr for Filter {
    type Err = NotAFilter;

    fn from_str(text: &str) -> Result<Self, NotAFilter> {
        Self::naming(text, &BTreeMap::new())
    }
}

fn wrong(at: usize, problem: impl Into<String>) -> NotAFilter {
    NotAFilter { at: at + 1, problem: problem.into(), device: None }
}

struct Reader<'a> {
    characters: &'a [char],
    devices: &'a BTreeMap<String, DeviceId>,
    at: usize,
    values: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    /// Whether something is left behind the blanks.
    fn skip_blanks(&mut self) -> bool {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        self.peek().is_some()
    }

    fn takes(&mut self, expected: char) -> bool {
        let there = self.peek() == Some(expected);
        self.at += usize::from(there);
        there
    }

    fn while_is(&mut self, fits: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&fits) {
            self.at += 1;
        }
        self.characters.get(start..self.at).unwrap_or_default().iter().collect()
    }

    fn term(&mut self) -> Result<Term, NotAFilter> {
        let not = self.takes('-');
        let start = self.at;
        let key = self.while_is(|c| c.is_ascii_alphanumeric() || c == '_');
        if !self.takes(':') {
            return Err(wrong(
                start,
                format!("expected key:value, like reason:exhausted; the keys are {KEYS}"),
            ));
        }
        let mut any = Vec::new();
        loop {
            let at = self.at;
            let value = self.value()?;
            self.values += 1;
            if self.values > MOST_VALUES {
                return Err(wrong(at, format!("there are more than {MOST_VALUES} values")));
            }
            any.push(match self.devices.get(&value).filter(|_| key == "device") {
                Some(device) => Test::Device(*device),
                None => test(&key, start, &value, at)?,
            });
            if !self.takes(',') {
                return Ok(Term { not, any });
            }
        }
    }

    fn value(&mut self) -> Result<String, NotAFilter> {
        let start = self.at;
        if !self.takes('"') {
            let value = self.while_is(|c| !c.is_whitespace() && c != ',' && c != '"');
            if self.peek() == Some('"') {
                return Err(wrong(self.at, "a quote stands around a whole value"));
            }
            return if value.is_empty() { Err(wrong(start, "a value is missing")) } else { Ok(value) };
        }
        let mut value = String::new();
        loop {
            let next = self.peek();
            self.at += 1;
            match next {
                None => return Err(wrong(start, "the quote that begins here does not end")),
                Some('"') if value.is_empty() => return Err(wrong(start, "a value is missing")),
                Some('"') => break,
                Some('\\') => match self.peek() {
                    Some(escaped @ ('"' | '\\')) => {
                        value.push(escaped);
                        self.at += 1;
                    }
                    _ => return Err(wrong(self.at - 1, r#"in quotes, \ stands before " or \ only"#)),
                },
                Some(c) => value.push(c),
            }
        }
        match self.peek() {
            Some(c) if !c.is_whitespace() && c != ',' => {
                Err(wrong(self.at, "expected a blank or a comma behind the quote"))
            }
            _ => Ok(value),
        }
    }
}

fn test(key: &str, key_at: usize, value: &str, at: usize) -> Result<Test, NotAFilter> {
    match key {
        "reason" => {
            let known = DeadReason::ALL.into_iter().find(|reason| reason.as_str() == value);
            known.map(Test::Reason).ok_or_else(|| {
                let words: Vec<_> = DeadReason::ALL.iter().map(|reason| reason.as_str()).collect();
                wrong(at, format!("no such reason; the reasons are {}", words.join(", ")))
            })
        }
        "queue" => QueueName::parse(value).map(Test::Queue).ok_or_else(|| {
            wrong(at, "no such queue; the queues are requests, findings, outcomes and alarms")
        }),
        "device" => DeviceId::parse_any_case(value).map(Test::Device).map_err(|_| NotAFilter {
            device: Some(value.to_owned()),
            ..wrong(at, "expected a device id like 3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11; for a name, label:")
        }),
        "label" => Ok(Test::Label(value.to_lowercase())),
        "group" => Ok(Test::Group(value.to_owned())),
        "error" => Ok(Test::Error(value.to_lowercase())),
        "age" => age(value).ok_or_else(|| wrong(at, "expected an age like >10m, <2h or >=1d")),
        "attempts" => attempts(value).ok_or_else(|| wrong(at, "expected a number, like 5, >3 or <=3")),
        "id" => {
            id(value).ok_or_else(|| wrong(at, "expected a letter's number, like 17, or a range, like 17-40"))
        }
        _ => Err(wrong(key_at, format!("no such key; the keys are {KEYS}"))),
    }
}

fn age(value: &str) -> Option<Test> {
    let (compare, rest) = compare(value)?;
    rest.parse::<Span>().ok().map(|span| Test::Age(compare, span.0))
}

fn attempts(value: &str) -> Option<Test> {
    let equal = Compare { less: false, equal: true, greater: false };
    let (compare, rest) = compare(value).unwrap_or((equal, value));
    whole(rest).and_then(|number| u32::try_from(number).ok()).map(|number| Test::Attempts(compare, number))
}

fn compare(value: &str) -> Option<(Compare, &str)> {
    let (greater, rest) = match (value.strip_prefix('>'), value.strip_prefix('<')) {
        (Some(rest), _) => (true, rest),
        (None, rest) => (false, rest?),
    };
    let (equal, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
    Some((Compare { less: !greater, equal, greater }, rest))
}

fn id(value: &str) -> Option<Test> {
    let (from, to) = value.split_once('-').unwrap_or((value, value));
    let (from, to) = (whole(from)?, whole(to)?);
    (from <= to).then_some(Test::Id(from, to))
}

/// `parse` takes a leading plus sign; a number here has none.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests;
