//! The text of a message: a line about it, and its body.

use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::dead_letters::Attempt;
use keyturn_ports::queue::NewMessage;
use keyturn_ports::{Error, Kind};
use serde::{Deserialize, Serialize};

/// The largest message, in bytes (learn.microsoft.com/rest/api/storageservices/put-message).
const LARGEST: usize = 64 * 1024;

/// How many failed attempts are kept of a message, and how much of the error of each, in characters.
pub(super) const ATTEMPTS_KEPT: usize = 8;
const ERROR_KEPT: usize = 500;

/// What was sent, and how it fared since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The form of this line.
    keyturn: One,
    /// The message the device signed.
    pub(super) request: RequestId,
    /// The device it names.
    pub(super) device: DeviceId,
    /// When it was sent.
    pub(super) enqueued: UnixMillis,
    /// How often it was leased and given back untouched, which does not count as a delivery.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) released: u32,
    /// The last failed attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Failed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
struct One;

impl TryFrom<u8> for One {
    type Error = &'static str;

    fn try_from(form: u8) -> Result<Self, &'static str> {
        if form == 1 { Ok(Self) } else { Err("another form") }
    }
}

impl From<One> for u8 {
    fn from(One: One) -> Self {
        1
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Failed {
    at: UnixMillis,
    error: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Head {
    /// The line for a new message.
    pub(super) fn of(message: &NewMessage, now: UnixMillis) -> Self {
        let NewMessage { request, device, body: _ } = message;
        Self {
            keyturn: One,
            request: *request,
            device: *device,
            enqueued: now,
            released: 0,
            attempts: Vec::new(),
        }
    }

    /// Takes a text apart. None if it is not one of ours.
    pub(super) fn split(text: &str) -> Option<(Self, &str)> {
        let (head, body) = text.split_once('\n')?;
        Some((serde_json::from_str(head).ok()?, body))
    }

    /// Notes a failed attempt.
    pub(super) fn fail(&mut self, at: UnixMillis, error: &str) {
        let mut error: String = error.chars().take(ERROR_KEPT).collect();
        error.retain(fits);
        self.attempts.push(Failed { at, error });
        let surplus = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..surplus);
    }

    /// The attempts as a dead letter has them.
    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.iter().map(|Failed { at, error }| Attempt { at: *at, error: error.clone() }).collect()
    }

    /// The text of a message with this line. The oldest attempts are left out if they would make it too long.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the service cannot carry the body: it is too long, or has characters that XML has not.
    pub(super) fn text(mut self, body: &str) -> Result<String, Error> {
        if !body.chars().all(fits) {
            return Err(refused(
                "the message has control characters, which the service cannot carry".to_owned(),
            ));
        }
        loop {
            let head = serde_json::to_string(&self).map_err(|error| refused(error.to_string()))?;
            let length = head.len() + 1 + body.len();
            if length <= LARGEST {
                return Ok(format!("{head}\n{body}"));
            }
            if self.attempts.is_empty() {
                return Err(refused(format!("the message has {length} bytes; the service takes {LARGEST}")));
            }
            self.attempts.remove(0);
        }
    }
}

fn refused(detail: String) -> Error {
    Error::new(Kind::Corrupt, "sending to a storage queue", detail)
}

/// Whether XML 1.0 has a character (www.w3.org/TR/xml, production 2). A carriage return would come back as a line
/// feed.
fn fits(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> NewMessage {
        NewMessage {
            request: RequestId::of("r"),
            device: DeviceId::from_bytes([7; 16]),
            body: body.to_owned(),
        }
    }

    #[test]
    fn what_is_put_together_comes_apart() {
        let body = "{\"a\":\"<&>\\n\"}\nsecond line";
        let mut head = Head::of(&message(body), UnixMillis(5));
        head.released = 2;
        head.fail(UnixMillis(6), "no\u{0} way");
        let text = head.clone().text(body).unwrap();
        assert_eq!(Head::split(&text), Some((head, body)));
        assert!(text.contains("no way"), "{text}");
    }

    #[test]
    fn what_others_wrote_is_not_taken_for_ours() {
        for text in ["", "x", "{}\nx", "{\"keyturn\":1}\nx", "\n", "{\"keyturn\":1"] {
            assert_eq!(Head::split(text), None, "{text:?}");
        }
        let newer = Head::of(&message("x"), UnixMillis(5)).text("x").unwrap().replacen('1', "2", 1);
        assert!(newer.starts_with("{\"keyturn\":2"), "{newer}");
        assert_eq!(Head::split(&newer), None);
    }

    #[test]
    fn attempts_make_room_for_the_body_and_the_body_for_nothing() {
        let longest = LARGEST - Head::of(&message(""), UnixMillis(5)).text("").unwrap().len();
        let mut head = Head::of(&message(""), UnixMillis(5));
        for n in 0..12 {
            head.fail(UnixMillis(n), &"e".repeat(1000));
        }
        assert_eq!(head.attempts().len(), 8);
        let text = head.clone().text(&"x".repeat(longest - 1200)).unwrap();
        let (kept, _) = Head::split(&text).unwrap();
        assert_eq!(kept.attempts().last().unwrap().at, UnixMillis(11), "the newest stay");
        assert!(kept.attempts().len() < 8 && text.len() <= LARGEST);
        assert_eq!(head.clone().text(&"x".repeat(longest)).unwrap().len(), LARGEST);
        let error = head.clone().text(&"x".repeat(longest + 1)).unwrap_err().to_string();
        assert!(error.contains("65537 bytes"), "{error}");
        for body in ["\u{0}", "\r", "\u{1b}", "\u{ffff}"] {
            assert!(head.clone().text(body).is_err(), "{body:?}");
        }
    }
}
