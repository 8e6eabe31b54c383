//! Envelopes between stages: CloudEvents 1.0 in JSON, with the `traceparent` extension.
//!
//! The device's message travels inside byte for byte; each stage verifies what it needs for itself. `id`,
//! `subject` and `time` are for people who look into a queue and are trusted by nobody.

use std::fmt;
use std::str::FromStr;

use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::alarm::AlarmRaised;
use crate::finding::Finding;
use crate::outcome::Outcome;
use crate::stamp::Stamp;

/// What travels on the `requests` queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stamped {
    /// The device's message, byte for byte.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Jws"))]
    pub jws: String,
    /// When it came in.
    pub stamp: Stamp,
}

/// What travels on the `findings` queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Found {
    /// The device's message, byte for byte.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Jws"))]
    pub jws: String,
    /// When it came in.
    pub stamp: Stamp,
    /// What was found out about its sender.
    pub finding: Finding,
}

/// Data of an envelope; its type names the format and its version.
pub trait Data: Serialize + DeserializeOwned {
    /// The CloudEvents `type`, ending in `.v` and a number.
    const TYPE: &'static str;
}

impl Data for Stamped {
    const TYPE: &'static str = "keyturn.request.v1";
}

impl Data for Found {
    const TYPE: &'static str = "keyturn.finding.v1";
}

impl Data for Outcome {
    const TYPE: &'static str = "keyturn.outcome.v1";
}

impl Data for AlarmRaised {
    const TYPE: &'static str = "keyturn.alarm.v1";
}

/// An envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "{D}Envelope"))]
pub struct Envelope<D> {
    /// `1.0`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "1.0")))]
    specversion: String,
    /// The message, the same at every stage.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::RequestId"))]
    pub id: RequestId,
    /// Which stage wrote it.
    pub source: String,
    /// The format of `data`.
    #[serde(rename = "type")]
    kind: String,
    /// The device, as claimed.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::DeviceId"))]
    pub subject: DeviceId,
    /// When it was written (RFC 3339).
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub time: String,
    /// `application/json`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "application/json")))]
    datacontenttype: String,
    /// The trace it belongs to.
    pub traceparent: TraceParent,
    /// What it carries.
    pub data: D,
}

/// A text that is not the expected envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON of this shape.
    #[error("not an envelope: {0}")]
    Shape(String),
    /// An envelope of a format or version that this release does not know.
    #[error("the envelope holds {found}, this release reads {expected}")]
    Unsupported {
        /// Its `type`.
        found: String,
        /// The `type` asked for.
        expected: &'static str,
    },
}

impl<D: Data> Envelope<D> {
    /// An envelope for this data.
    pub fn new(
        id: RequestId,
        subject: DeviceId,
        stage: &str,
        now: UnixMillis,
        traceparent: TraceParent,
        data: D,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id,
            source: format!("/keyturn/{stage}"),
            kind: D::TYPE.to_owned(),
            subject,
            time: rfc3339(now),
            datacontenttype: "application/json".to_owned(),
            traceparent,
            data,
        }
    }

    /// The envelope as JSON.
    pub fn to_json(&self) -> String {
        // These types have string keys and no failing serialisers, so there is no error to report.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads an envelope.
    pub fn parse(text: &str) -> Result<Self, EnvelopeError> {
        #[derive(Deserialize)]
        struct Peek<'a> {
            #[serde(rename = "type", borrow)]
            kind: std::borrow::Cow<'a, str>,
        }
        let shape = |error: serde_json::Error| EnvelopeError::Shape(error.to_string());
        let kind = serde_json::from_str::<Peek<'_>>(text).map_err(shape)?.kind;
        if kind != D::TYPE {
            return Err(EnvelopeError::Unsupported {
                found: kind.chars().take(64).collect(),
                expected: D::TYPE,
            });
        }
        serde_json::from_str(text).map_err(shape)
    }
}

impl Envelope<Found> {
    /// The same message as it was before the validator saw it.
    pub fn back_to_validator(self) -> Envelope<Stamped> {
        let Found { jws, stamp, finding: _ } = self.data;
        Envelope {
            specversion: self.specversion,
            id: self.id,
            source: self.source,
            kind: Stamped::TYPE.to_owned(),
            subject: self.subject,
            time: self.time,
            datacontenttype: self.datacontenttype,
            traceparent: self.traceparent,
            data: Stamped { jws, stamp },
        }
    }
}

/// An instant as RFC 3339 text in UTC with milliseconds.
pub fn rfc3339(at: UnixMillis) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| at.to_string(), |time| format!("{time:.3}"))
}

/// The instant that an RFC 3339 text names.
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(UnixMillis)
}

/// A W3C trace context, version 00, lower case. It cannot hold anything else, so it is safe in a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
}

impl TraceParent {
    /// A fresh trace.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        Self { trace: entropy.bytes(), span: entropy.bytes() }
    }

    /// The trace id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.to_string().split('-').nth(1).unwrap_or_default().to_owned()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-01")
    }
}

/// A text that is not a trace context.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("not a version 00 trace context")]
pub struct NotATrace;

impl FromStr for TraceParent {
    type Err = NotATrace;

    fn from_str(text: &str) -> Result<Self, NotATrace> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
        let known = version == Some("00") && matches!(flags, Some("00" | "01")) && parts.next().is_none();
        let (trace, span) = trace.zip(span).filter(|_| known).ok_or(NotATrace)?;
        Ok(Self { trace: hex(trace).ok_or(NotATrace)?, span: hex(span).ok_or(NotATrace)? })
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !lower || text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope<Outcome> {
        let data =
            Outcome { rid: RequestId([1; 32]), carries: None, result: None, expires_ms: UnixMillis(0) };
        let trace = TraceParent { trace: [0xab; 16], span: [0xcd; 8] };
        let device = DeviceId::from_bytes([2; 16]);
        Envelope::new(data.rid, device, "rotator", UnixMillis(1_790_000_000_001), trace, data)
    }

    #[test]
    fn what_is_written_is_read() {
        let text = envelope().to_json();
        assert_eq!(Envelope::parse(&text).unwrap(), envelope());
        assert!(text.contains(r#""time":"2026-09-21T14:13:20.001Z""#), "{text}");
    }

    #[test]
    fn other_formats_and_versions_are_named() {
        let text = envelope().to_json();
        let error = Envelope::<Stamped>::parse(&text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the envelope holds keyturn.outcome.v1, this release reads keyturn.request.v1"
        );
        let later = text.replace("outcome.v1", "outcome.v2");
        assert!(matches!(Envelope::<Outcome>::parse(&later), Err(EnvelopeError::Unsupported { .. })));
        for bad in ["", "{}", "[]", &text[..text.len() - 1], &text.replace(r#""carries""#, r#""carried""#)] {
            assert!(matches!(Envelope::<Outcome>::parse(bad), Err(EnvelopeError::Shape(_))), "{bad}");
        }
    }

    #[test]
    fn trace_contexts_have_one_form() {
        let good = "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01";
        assert_eq!(good.parse::<TraceParent>().unwrap().to_string(), good);
        for bad in [
            "",
            "01-abababababababababababababababab-cdcdcdcdcdcdcdcd-01",
            "00-ABABABABABABABABABABABABABABABAB-cdcdcdcdcdcdcdcd-01",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-02",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01-00",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdc-01",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdcd",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(NotATrace), "{bad}");
        }
    }
}
