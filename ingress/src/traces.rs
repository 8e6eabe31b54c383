//! The spans of the edge. A trace begins here, and under an id of ours: what a device says about traces is a link at most,
//! and only once its signature has passed.

use std::time::Duration;

use axum::extract::Request;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::spans::{self, Kind, Span};
use keyturn_ports::queue::QueueName;
use keyturn_schemas::envelope::TraceParent;

use crate::api::Ingress;

/// A message that is being taken.
pub(crate) struct Arrival {
    began: UnixMillis,
    at: Duration,
    /// What the device says that it is part of.
    claimed: Option<TraceParent>,
}

impl Arrival {
    /// A request whose body is to be read.
    pub(crate) fn of(ingress: &Ingress, request: &Request) -> Self {
        let mut claims = request.headers().get_all("traceparent").iter();
        let claimed = claims.next().and_then(|value| value.to_str().ok()?.parse().ok());
        let claimed = claimed.filter(|_| claims.next().is_none());
        Self { began: ingress.clock.now(), at: ingress.clock.monotonic(), claimed }
    }

    /// It was taken for the first time, and sent on under `context`.
    pub(crate) fn taken(&self, ingress: &Ingress, context: TraceParent, about: (RequestId, DeviceId)) {
        let took = ingress.clock.monotonic().saturating_sub(self.at);
        let received = received(context);
        let serving = || Span {
            name: "POST message".to_owned(),
            kind: Kind::Server,
            context: received,
            parent: None,
            links: self.claimed.into_iter().collect(),
            began: self.began,
            took,
            attributes: vec![
                ("http.request.method", "POST".to_owned()),
                ("request.id", about.0.to_string()),
                ("device.id", about.1.to_string()),
            ],
            failed: None,
        };
        spans::end(serving, received);
        let sending = || Span {
            name: "send requests".to_owned(),
            kind: Kind::Producer,
            context,
            parent: Some(received),
            links: Vec::new(),
            began: self.began.plus(took),
            took: Duration::ZERO,
            attributes: vec![
                ("messaging.system", ingress.ports.queue.system(QueueName::Requests).to_owned()),
                ("messaging.destination.name", QueueName::Requests.as_str().to_owned()),
                ("messaging.operation.name", "send".to_owned()),
                ("messaging.operation.type", "send".to_owned()),
                ("messaging.message.id", about.0.to_string()),
            ],
            failed: None,
        };
        spans::end(sending, context);
    }
}

/// A result was given out to a poll that began then.
pub(crate) fn polled(ingress: &Ingress, request: RequestId, began: UnixMillis, at: Duration) {
    let taken = received(spans::begin(TraceParent::of(request)));
    // A result may be asked for again, and each time is another.
    let context = taken.child("poll", u64::from_be_bytes(ingress.entropy.bytes()));
    let span = || Span {
        name: "GET /v1/requests/{ticket}".to_owned(),
        kind: Kind::Server,
        context,
        parent: Some(taken),
        links: Vec::new(),
        began,
        took: ingress.clock.monotonic().saturating_sub(at),
        attributes: vec![
            ("http.request.method", "GET".to_owned()),
            ("http.route", "/v1/requests/{ticket}".to_owned()),
            ("request.id", request.to_string()),
        ],
        failed: None,
    };
    spans::end(span, context);
}

/// The step in which a message was taken.
fn received(sent: TraceParent) -> TraceParent {
    sent.child("receive", 0)
}
