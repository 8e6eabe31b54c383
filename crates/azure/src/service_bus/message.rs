//! Messages on the wire. What was sent and how it fared is in application properties, the body is one section of data.

use std::fmt;
use std::sync::Arc;

use fe2o3_amqp::link::delivery::Delivery;
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::message::__private::Serializable;
use fe2o3_amqp::types::messaging::message::DecodeIntoMessage as _;
use fe2o3_amqp::types::messaging::{
    AmqpValue, Annotations, ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId,
    Properties,
};
use fe2o3_amqp::types::primitives::{Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Uuid, Value};
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::dead_letters::Attempt;
use keyturn_ports::queue::NewMessage;
use serde::{Deserialize, Serialize};
use serde_amqp::read::SliceReader;

use super::failure::Wrong;
use super::sessions::Grip;

/// How many failed attempts are kept of a message, and how much of the error of each, in characters.
const ATTEMPTS_KEPT: usize = 8;
const ERROR_KEPT: usize = 500;

/// The form of the properties.
const FORM: i32 = 1;

/// Proof of a lock: a GUID.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct LockToken([u8; 16]);

impl LockToken {
    /// From a delivery tag, where it is as .NET has it in memory: the first three fields with their least significant
    /// byte first.
    fn from_tag(tag: &[u8]) -> Option<Self> {
        let mut bytes: [u8; 16] = tag.try_into().ok()?;
        let (fields, _) = bytes.split_at_mut(8);
        let (first, others) = fields.split_at_mut(4);
        first.reverse();
        others.chunks_exact_mut(2).for_each(<[u8]>::reverse);
        Some(Self(bytes))
    }

    pub(super) fn value(self) -> Value {
        Value::Uuid(Uuid::from(self.0))
    }
}

impl fmt::Display for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a message of ours says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    /// The name of the message that it was at first; copies of it that wait for their time have names derived from it.
    pub(super) base: String,
    pub(super) request: RequestId,
    pub(super) device: DeviceId,
    pub(super) enqueued: UnixMillis,
    /// Deliveries of what this is a copy of.
    pub(super) before: u32,
    /// How often it was leased and given back untouched, which does not count as a delivery.
    pub(super) released: u32,
    attempts: Vec<Failed>,
    /// Whether it is in the index of dead letters.
    pub(super) buried: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Failed {
    at: UnixMillis,
    error: String,
}

impl About {
    pub(super) fn of(message: &NewMessage, base: String, now: UnixMillis) -> Self {
        let NewMessage { request, device, body: _ } = message;
        Self {
            base,
            request: *request,
            device: *device,
            enqueued: now,
            before: 0,
            released: 0,
            attempts: Vec::new(),
            buried: false,
        }
    }

    /// Notes a failed attempt.
    pub(super) fn fail(&mut self, at: UnixMillis, error: &str) {
        let error = error.chars().take(ERROR_KEPT).collect();
        self.attempts.push(Failed { at, error });
        let surplus = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..surplus);
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.iter().map(|Failed { at, error }| Attempt { at: *at, error: error.clone() }).collect()
    }

    /// As application properties.
    pub(super) fn properties(&self) -> Vec<(&'static str, SimpleValue)> {
        let number = |number: u32| SimpleValue::Int(i32::try_from(number).unwrap_or(i32::MAX));
        let enqueued = i64::try_from(self.enqueued.0).unwrap_or(i64::MAX);
        vec![
            ("keyturn", SimpleValue::Int(FORM)),
            ("keyturn-base", SimpleValue::String(self.base.clone())),
            ("keyturn-request", SimpleValue::String(self.request.to_string())),
            ("keyturn-device", SimpleValue::String(self.device.to_string())),
            ("keyturn-enqueued", SimpleValue::Long(enqueued)),
            ("keyturn-before", number(self.before)),
            ("keyturn-released", number(self.released)),
            (
                "keyturn-attempts",
                SimpleValue::String(
                    serde_json::to_string(&self.attempts).unwrap_or_else(|_| "[]".to_owned()),
                ),
            ),
            ("keyturn-buried", SimpleValue::Bool(self.buried)),
        ]
    }

    fn read(properties: &OrderedMap<String, SimpleValue>) -> Option<Self> {
        let text = |name: &str| match properties.get(name) {
            Some(SimpleValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let number = |name: &str| match properties.get(name) {
            Some(SimpleValue::Int(number)) => u64::try_from(*number).ok(),
            Some(SimpleValue::Long(number)) => u64::try_from(*number).ok(),
            Some(SimpleValue::Uint(number)) => Some(u64::from(*number)),
            Some(SimpleValue::Ulong(number)) => Some(*number),
            _ => None,
        };
        let small = |name: &str| number(name).and_then(|number| u32::try_from(number).ok());
        (number("keyturn") == u64::try_from(FORM).ok()).then_some(())?;
        Some(Self {
            base: text("keyturn-base").filter(|base| (1..=100).contains(&base.len()))?.to_owned(),
            request: text("keyturn-request")?.parse().ok()?,
            device: text("keyturn-device")?.parse().ok()?,
            enqueued: UnixMillis(number("keyturn-enqueued")?),
            before: small("keyturn-before")?,
            released: small("keyturn-released")?,
            attempts: serde_json::from_str(text("keyturn-attempts")?).ok()?,
            buried: matches!(properties.get("keyturn-buried"), Some(SimpleValue::Bool(true))),
        })
    }
}

/// A message to send, which comes at `at` if that is given.
pub(super) fn outgoing(id: &str, about: &About, body: &str, at: Option<UnixMillis>) -> Message<Data> {
    let mut properties = OrderedMap::new();
    for (name, value) in about.properties() {
        properties.insert(name.to_owned(), value);
    }
    let annotations = at.map(|at| {
        let mut all = Annotations::new();
        let at = Timestamp::from_milliseconds(i64::try_from(at.0).unwrap_or(i64::MAX));
        all.insert(OwnedKey::from(Symbol::from(SCHEDULED)), Value::Timestamp(at));
        MessageAnnotations(all)
    });
    let named = Properties::builder()
        .message_id(MessageId::String(id.to_owned()))
        // Queues with sessions handle the messages of one device one after the other.
        .group_id(about.device.to_string())
        .content_type("application/json")
        .build();
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: annotations,
        properties: Some(named),
        application_properties: Some(ApplicationProperties(properties)),
        body: Data(Binary::from(body.as_bytes().to_vec())),
        footer: None,
    }
}

const SCHEDULED: &str = "x-opt-scheduled-enqueue-time";

/// A message as bytes: for its size, and within a request to schedule it.
pub(super) fn encoded(message: Message<Data>) -> Result<Vec<u8>, Wrong> {
    // The library has no other way to a message's bytes; its own `Sender` takes this one.
    serde_amqp::to_vec(&Serializable(message))
        .map_err(|_| Wrong::nonsense("the message cannot be put into a frame"))
}

/// A message that came, or was looked at.
pub(super) struct Received {
    /// None of one that was only looked at.
    pub(super) token: Option<LockToken>,
    /// The service's number of it, which no sender can choose.
    pub(super) number: i64,
    /// How often it was delivered before, as the service counts.
    pub(super) failed: u32,
    pub(super) body: String,
    pub(super) about: Option<About>,
    /// Why the service itself gave it up, if it did.
    pub(super) given_up: Option<String>,
    /// When it came, by our clock.
    pub(super) came: UnixMillis,
    /// The session it came by, on a queue with sessions.
    pub(super) session: Option<Arc<Grip>>,
}

impl Received {
    pub(super) fn read(delivery: Delivery<Body<Value>>, now: UnixMillis) -> Option<Self> {
        let token = LockToken::from_tag(delivery.delivery_tag().as_ref())?;
        Some(Self { token: Some(token), ..Self::of(delivery.into_message(), now) })
    }

    /// One that `peek-message` showed.
    pub(super) fn peeked(bytes: &[u8], now: UnixMillis) -> Option<Self> {
        let message = Body::<Value>::decode_message_from_reader(SliceReader::new(bytes)).ok()?;
        Some(Self::of(message, now))
    }

    fn of(message: Message<Body<Value>>, now: UnixMillis) -> Self {
        let properties = message.application_properties.map(|all| all.0).unwrap_or_default();
        let annotations = message.message_annotations.map(|all| all.0).unwrap_or_default();
        let number = match annotations.get(&OwnedKey::from(Symbol::from("x-opt-sequence-number"))) {
            Some(Value::Long(number)) => *number,
            _ => 0,
        };
        let given_up = match properties.get("DeadLetterReason") {
            Some(SimpleValue::String(reason)) => Some(reason.chars().take(ERROR_KEPT).collect()),
            _ => None,
        };
        Self {
            token: None,
            number,
            failed: message.header.map_or(0, |header| header.delivery_count),
            body: text(message.body),
            about: About::read(&properties),
            given_up,
            came: now,
            session: None,
        }
    }

    /// How often it has been leased, this time included.
    pub(super) fn deliveries(&self) -> u32 {
        let (before, released) = self.about.as_ref().map_or((0, 0), |about| (about.before, about.released));
        before.saturating_add(self.failed).saturating_add(1).saturating_sub(released).max(1)
    }
}

/// A body as text. One that somebody else wrote is passed on as far as it is text, so that its reader gives it up and
/// an operator gets to see it.
fn text(body: Body<Value>) -> String {
    let bytes = match body {
        Body::Data(parts) => parts.into_iter().flat_map(|part| part.0.into_vec()).collect(),
        Body::Value(AmqpValue(Value::String(text))) => return text,
        Body::Value(AmqpValue(Value::Binary(bytes))) => bytes.into_vec(),
        _ => Vec::new(),
    };
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        let message = NewMessage {
            request: RequestId([1; 32]),
            device: DeviceId::from_bytes([2; 16]),
            body: String::new(),
        };
        About::of(&message, "base".to_owned(), UnixMillis(5))
    }

    #[test]
    fn a_lock_token_is_a_guid_in_the_order_of_dot_net() {
        let tag: Vec<u8> = (0..16).collect();
        let token = LockToken::from_tag(&tag).unwrap();
        assert_eq!(token.to_string(), "03020100050407060 8090a0b0c0d0e0f".replace(' ', ""));
        assert!(LockToken::from_tag(&tag[1..]).is_none());
    }

    #[test]
    fn what_is_put_together_comes_apart() {
        let mut about = about();
        about.released = 2;
        about.before = 3;
        for n in 0..12 {
            about.fail(UnixMillis(n), &format!("attempt {n} \u{1f511}"));
        }
        let bytes = encoded(outgoing("id", &about, "body \u{1f511}", Some(UnixMillis(9)))).unwrap();
        let received = Received::peeked(&bytes, UnixMillis(1)).unwrap();
        assert_eq!((received.body.as_str(), received.about.as_ref()), ("body \u{1f511}", Some(&about)));
        assert_eq!(received.deliveries(), 2, "three before, this one, and two that do not count");
        assert_eq!(about.attempts().len(), 8);
    }

    #[test]
    fn what_others_wrote_is_not_taken_for_ours() {
        let mut all = OrderedMap::new();
        for (name, value) in about().properties() {
            all.insert(name.to_owned(), value);
        }
        assert_eq!(About::read(&all), Some(about()));
        for (name, value) in [
            ("keyturn", SimpleValue::Int(2)),
            ("keyturn-request", SimpleValue::String("x".to_owned())),
            ("keyturn-before", SimpleValue::Int(-1)),
            ("keyturn-base", SimpleValue::String(String::new())),
        ] {
            let mut changed = all.clone();
            changed.insert(name.to_owned(), value);
            assert_eq!(About::read(&changed), None, "{name}");
        }
    }
}
