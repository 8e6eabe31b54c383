//! Spans: what was done when, for tracing. Nothing here knows where they go; a process that exports none drops them at
//! once.
//!
//! A message has one trace from the ingress on, whose id is derived from its own, or from that of the message that it
//! follows: a request and the report on it are one trace. The first delivery of a message is a
//! child of the step that sent it, as OpenTelemetry's conventions for messaging allow for single messages. What is done
//! again (a repeated delivery, a replay) has no parent in the trace and a link to what it does again; a lease of a batch
//! is a trace of its own with links to its messages.
//!
//! Ids of spans are derived as well: who handles a message sends on the same bytes, however often that is done.

use std::sync::OnceLock;
use std::time::Duration;

use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::dead_letters::DeadLetterId;
use keyturn_ports::queue::{Leased, QueueName};
use keyturn_schemas::envelope::TraceParent;
use serde::Deserialize;

/// A span of OpenTelemetry's data model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What was done, like `process findings`.
    pub name: String,
    /// On which side of what.
    pub kind: Kind,
    /// Its own place.
    pub context: TraceParent,
    /// The step that it is part of.
    pub parent: Option<TraceParent>,
    /// Steps that it has to do with.
    pub links: Vec<TraceParent>,
    /// When it began.
    pub began: UnixMillis,
    /// How long it took.
    pub took: Duration,
    /// What it was about. Never a secret, and nothing that a device says about itself.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// The kinds of spans that there are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answering a client.
    Server,
    /// Asking an engine.
    Client,
    /// Sending a message.
    Producer,
    /// Handling one.
    Consumer,
}

/// Where spans go. Must not block.
pub trait Sink: Send + Sync {
    /// Whether a trace that begins here is kept.
    fn samples(&self, trace: [u8; 16]) -> bool;

    /// Takes a span.
    fn take(&self, span: Span);
}

static SINK: OnceLock<Box<dyn Sink>> = OnceLock::new();

/// Has spans go there. Returns false if there is a sink already.
pub fn send_to(sink: impl Sink + 'static) -> bool {
    SINK.set(Box::new(sink)).is_ok()
}

/// The same context, with the word whether a trace that begins with it is kept.
pub fn begin(context: TraceParent) -> TraceParent {
    context.sampled(SINK.get().is_some_and(|sink| sink.samples(context.trace())))
}

/// Hands a span over, if its trace is kept and somebody wants it.
pub fn end(span: impl FnOnce() -> Span, context: TraceParent) {
    if let Some(sink) = SINK.get().filter(|_| context.is_sampled()) {
        sink.take(span());
    }
}

/// Whether spans go anywhere.
pub(crate) fn wanted() -> bool {
    SINK.get().is_some()
}

/// The context of what is sent on because of a message that came in this one.
pub fn sent_on(came: TraceParent) -> TraceParent {
    came.child("send", 0)
}

/// Where a leased message stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) came: TraceParent,
    replayof: Option<TraceParent>,
}

impl Place {
    /// As its envelope says; none if that cannot be read.
    pub(crate) fn of(body: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Peek {
            traceparent: TraceParent,
            #[serde(default)]
            replayof: Option<TraceParent>,
        }
        let Peek { traceparent, replayof } = serde_json::from_str(body).ok()?;
        Some(Self { came: traceparent, replayof })
    }

    /// The step that handles a delivery: its context, its parent, and what it is linked to.
    pub(crate) fn handling(
        self,
        operation: &str,
        deliveries: u32,
    ) -> (TraceParent, Option<TraceParent>, Vec<TraceParent>) {
        let context = self.came.child(operation, deliveries.into());
        match self.replayof {
            Some(died) => (context, None, vec![self.came, died]),
            None if deliveries > 1 => (context, None, vec![self.came]),
            None => (context, Some(self.came), Vec::new()),
        }
    }
}

/// A dead letter was put back on its way onto `queue` as this body. Its span has the context that the body has, and a link
/// to the message that died; what is done with the message from now on is linked to both.
pub fn replayed(
    system: &str,
    queue: QueueName,
    letter: DeadLetterId,
    body: &str,
    at: (UnixMillis, Duration),
) {
    #[derive(Deserialize)]
    struct Peek {
        id: RequestId,
        subject: DeviceId,
    }
    let Some((place, Peek { id, subject })) = Place::of(body).zip(serde_json::from_str(body).ok()) else {
        return;
    };
    let span = || Span {
        name: format!("replay {queue}"),
        kind: Kind::Producer,
        context: place.came,
        parent: None,
        links: place.replayof.into_iter().collect(),
        began: at.0,
        took: at.1,
        attributes: vec![
            ("messaging.system", system.to_owned()),
            ("messaging.destination.name", queue.as_str().to_owned()),
            ("messaging.operation.name", "replay".to_owned()),
            ("messaging.operation.type", "send".to_owned()),
            ("messaging.message.id", id.to_string()),
            ("request.id", id.to_string()),
            ("device.id", subject.to_string()),
            ("dead_letter.id", letter.0.to_string()),
        ],
        failed: None,
    };
    end(span, place.came);
}

/// What every span about a message says of it.
pub fn about(
    system: &str,
    queue: QueueName,
    operation: &str,
    leased: &Leased,
) -> Vec<(&'static str, String)> {
    let (request, device) = (leased.message.request.to_string(), leased.message.device.to_string());
    vec![
        ("messaging.system", system.to_owned()),
        ("messaging.destination.name", queue.as_str().to_owned()),
        ("messaging.operation.name", operation.to_owned()),
        ("messaging.operation.type", "process".to_owned()),
        ("messaging.message.id", request.clone()),
        ("request.id", request),
        ("device.id", device),
        ("attempt", leased.deliveries.to_string()),
    ]
}

/// The id of the trace of a leased message: as its envelope says, or as the ingress would have named it.
pub fn trace_id(leased: &Leased) -> String {
    let derived = || TraceParent::of(leased.message.request);
    Place::of(&leased.message.body).map_or_else(derived, |place| place.came).trace_id()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(replayof: &str) -> Place {
        let came = TraceParent::of(RequestId([1; 32]));
        Place::of(&format!(r#"{{"specversion":"1.0","traceparent":"{came}"{replayof},"data":{{}}}}"#))
            .unwrap()
    }

    #[test]
    fn what_is_done_again_is_linked_and_has_no_parent() {
        let first = place("");
        let (one, parent, links) = first.handling("process", 1);
        assert_eq!((parent, links.as_slice()), (Some(first.came), [].as_slice()));
        let (two, parent, links) = first.handling("process", 2);
        assert_eq!((parent, links.as_slice()), (None, [first.came].as_slice()));
        assert_ne!(one.span(), two.span());
        assert_ne!(one.span(), first.handling("relay", 1).0.span());
        let died = TraceParent::of(RequestId([1; 32])).child("send", 0);
        let again = place(&format!(r#","replayof":"{died}""#));
        assert_eq!(again.handling("process", 1).1, None);
        assert_eq!(again.handling("process", 1).2, [again.came, died]);
    }

    #[test]
    fn a_body_that_cannot_be_read_has_no_place() {
        for body in ["", "{}", "[1]", r#"{"traceparent":"00-0-0-01"}"#, r#"{"traceparent":7}"#] {
            assert_eq!(Place::of(body), None, "{body}");
        }
    }
}
