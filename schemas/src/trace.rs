//! The trace context of W3C (`traceparent`, w3.org/TR/trace-context), as envelopes carry it between stages.

use std::fmt;
use std::str::FromStr;

use keyturn_domain::ids::RequestId;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A W3C trace context, version 00, lower case. It cannot hold anything else, so it is safe in a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

impl TraceParent {
    /// The context in which a message sets out. Every id is derived from the message's own, so that whoever knows the
    /// message finds its trace, and what is made twice has one name. Not sampled.
    pub fn of(request: RequestId) -> Self {
        let digest =
            Sha256::new().chain_update(b"keyturn trace v1").chain_update(request.as_bytes()).finalize();
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.iter_mut().chain(&mut span).zip(digest).for_each(|(to, from)| *to = from);
        Self { trace, span, sampled: false }
    }

    /// A context of these random ids, as one begins that is drawn and not derived. Not sampled: who draws it exports no
    /// spans. None if one of them is all zeroes, which names nothing.
    pub fn drawn(trace: [u8; 16], span: [u8; 8]) -> Option<Self> {
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, sampled: false })
    }

    /// The same step, in the trace of another.
    pub fn within(self, other: Self) -> Self {
        Self { trace: other.trace, ..self }
    }

    /// The context of a step that follows from this one: in the same trace, named by what it is and a number.
    pub fn child(&self, what: &str, number: u64) -> Self {
        let hash =
            Sha256::new().chain_update(b"keyturn span v1").chain_update(self.trace).chain_update(self.span);
        let digest = hash.chain_update(number.to_be_bytes()).chain_update(what).finalize();
        let mut span = [0; 8];
        span.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self { span, ..*self }
    }

    /// The same, with the word whether its spans are kept.
    pub fn sampled(self, sampled: bool) -> Self {
        Self { sampled, ..self }
    }

    /// Whether its spans are kept.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The trace.
    pub fn trace(&self) -> [u8; 16] {
        self.trace
    }

    /// The span.
    pub fn span(&self) -> [u8; 8] {
        self.span
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
        f.write_str(if self.sampled { "-01" } else { "-00" })
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
        let (trace, span) = hex(trace).zip(hex(span)).ok_or(NotATrace)?;
        if trace == [0; 16] || span == [0; 8] {
            return Err(NotATrace);
        }
        Ok(Self { trace, span, sampled: flags == Some("01") })
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

    #[test]
    fn steps_have_names_of_their_own_in_one_trace() {
        let root = TraceParent::of(RequestId([1; 32]));
        assert_eq!(root, TraceParent::of(RequestId([1; 32])));
        assert_ne!(root.trace(), TraceParent::of(RequestId([2; 32])).trace());
        let all = [root, root.child("send", 0), root.child("send", 1), root.child("process", 0)];
        for (place, one) in all.iter().enumerate() {
            assert_eq!(one.trace(), root.trace());
            assert!(all[..place].iter().all(|other| other.span() != one.span()));
        }
        assert!(!root.is_sampled() && root.sampled(true).child("send", 0).is_sampled());
    }

    #[test]
    fn a_step_keeps_its_name_in_another_trace_and_zeroes_name_nothing() {
        let (one, other) = (TraceParent::of(RequestId([1; 32])), TraceParent::of(RequestId([2; 32])));
        let moved = other.within(one);
        assert_eq!((moved.trace(), moved.span()), (one.trace(), other.span()));
        assert_eq!(TraceParent::drawn([0; 16], [1; 8]), None);
        assert_eq!(TraceParent::drawn([1; 16], [0; 8]), None);
        let drawn = TraceParent::drawn([0xab; 16], [0xcd; 8]).unwrap();
        assert_eq!(drawn.to_string(), "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-00");
    }

    #[test]
    fn trace_contexts_have_one_form() {
        let good = "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01";
        assert_eq!(good.parse::<TraceParent>().unwrap().to_string(), good);
        let quiet = good.replace("-01", "-00");
        assert_eq!(quiet.parse::<TraceParent>().unwrap().to_string(), quiet);
        for bad in [
            "",
            "01-abababababababababababababababab-cdcdcdcdcdcdcdcd-01",
            "00-ABABABABABABABABABABABABABABABAB-cdcdcdcdcdcdcdcd-01",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-02",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01-00",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdc-01",
            "00-abababababababababababababababab-cdcdcdcdcdcdcdcd",
            "00-00000000000000000000000000000000-cdcdcdcdcdcdcdcd-01",
            "00-abababababababababababababababab-0000000000000000-01",
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(NotATrace), "{bad}");
        }
    }
}
