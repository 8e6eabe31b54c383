//! Envelopes between stages: CloudEvents 1.0 in JSON, with the `traceparent` extension.
//!
//! The device's message travels inside byte for byte; each stage verifies what it needs for itself. `id`,
//! `subject` and `time` are for people who look into a queue and are trusted by nobody.

use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::alarm::AlarmRaised;
use crate::finding::Finding;
use crate::outcome::Outcome;
use crate::stamp::Stamp;
pub use crate::trace::{NotATrace, TraceParent};

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
    /// The trace context that the message had when it died, if it was replayed: what is done with it now is linked to
    /// that, and no part of it. Absent in all other messages, and in those of releases that do not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayof: Option<TraceParent>,
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
            replayof: None,
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

impl<D> Envelope<D> {
    /// The same message, put back on its way after it died as dead letter number `letter`.
    pub fn replayed(self, letter: u64) -> Self {
        let traceparent = self.traceparent.child("replay", letter);
        Self { traceparent, replayof: Some(self.traceparent), ..self }
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
            replayof: self.replayof,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope<Outcome> {
        let data =
            Outcome { rid: RequestId([1; 32]), carries: None, result: None, expires_ms: UnixMillis(0) };
        let trace = TraceParent::of(data.rid);
        let device = DeviceId::from_bytes([2; 16]);
        Envelope::new(data.rid, device, "rotator", UnixMillis(1_790_000_000_001), trace, data)
    }

    #[test]
    fn what_is_written_is_read() {
        let text = envelope().to_json();
        assert_eq!(Envelope::parse(&text).unwrap(), envelope());
        assert!(text.contains(r#""time":"2026-09-21T14:13:20.001Z""#), "{text}");
    }

    /// Releases that know nothing of a replay's mark leave it out, and read what has it.
    #[test]
    fn a_replay_is_marked_and_the_mark_may_be_absent() {
        let (first, again) = (envelope(), envelope().replayed(7));
        assert!(!first.to_json().contains("replayof"));
        assert_eq!(again.replayof, Some(first.traceparent));
        assert_eq!(again.traceparent.trace_id(), first.traceparent.trace_id());
        assert_ne!(again.traceparent, first.traceparent);
        assert_eq!(Envelope::parse(&again.to_json()).unwrap(), again);
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
}
