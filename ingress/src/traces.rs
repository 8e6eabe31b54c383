//! The spans of the edge. A trace begins here, and under an id of ours: what a device says about traces is a link at most,
//! and only once its signature or its ticket has passed.
//!
//! A message that follows another of the same run is in that one's trace. A device says so by that one's ticket: only the
//! server can make one, only its own device was given it, and whose it is is told without looking anything up.

use std::time::Duration;

use axum::http::HeaderMap;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::spans::{self, Kind, Span};
use keyturn_ports::queue::QueueName;
use keyturn_schemas::envelope::TraceParent;
use keyturn_schemas::ticket::{FOLLOWS, TicketKeys};

use crate::api::Ingress;

/// A call that is being answered.
pub(crate) struct Arrival {
    began: UnixMillis,
    at: Duration,
    /// What the device says that it is part of.
    claimed: Option<TraceParent>,
    /// The ticket of the message that this one follows, as the device says.
    follows: Option<String>,
}

/// Where a message is in its trace.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    /// The context that it is sent on with.
    pub(crate) sent: TraceParent,
    /// The step in which the message was taken that it follows.
    follows: Option<TraceParent>,
}

impl Arrival {
    /// A call with these headers, whose body is to be read.
    pub(crate) fn of(ingress: &Ingress, headers: &HeaderMap) -> Self {
        Self {
            began: ingress.clock.now(),
            at: ingress.clock.monotonic(),
            claimed: only(headers, "traceparent").and_then(|text| text.parse().ok()),
            follows: only(headers, FOLLOWS).map(str::to_owned),
        }
    }

    /// Where this message is in its trace. The same whoever asks, so that a poll finds what the message began.
    pub(crate) fn context(&self, tickets: &TicketKeys, request: RequestId) -> Context {
        let own = TraceParent::of(request);
        let first = self.follows.as_deref().and_then(|ticket| tickets.open(ticket));
        match first.filter(|first| *first != request).map(TraceParent::of) {
            None => Context { sent: spans::begin(own), follows: None },
            Some(first) => {
                let sent = spans::begin(own.within(first));
                Context { sent, follows: Some(received(first).sampled(sent.is_sampled())) }
            }
        }
    }

    /// It was taken for the first time, and sent on under `context`.
    pub(crate) fn taken(&self, ingress: &Ingress, context: Context, about: (RequestId, DeviceId)) {
        let took = ingress.clock.monotonic().saturating_sub(self.at);
        let (received, sent) = (received(context.sent), context.sent);
        let serving = || Span {
            name: "POST message".to_owned(),
            kind: Kind::Server,
            context: received,
            parent: None,
            links: self.claimed.into_iter().chain(context.follows).collect(),
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
            context: sent,
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
        spans::end(sending, sent);
    }

    /// A result was given out to this poll.
    pub(crate) fn polled(&self, ingress: &Ingress, tickets: &TicketKeys, request: RequestId) {
        let taken = received(self.context(tickets, request).sent);
        // A result may be asked for again, and each time is another.
        let context = taken.child("poll", u64::from_be_bytes(ingress.entropy.bytes()));
        let span = || Span {
            name: "GET /v1/requests/{ticket}".to_owned(),
            kind: Kind::Server,
            context,
            parent: Some(taken),
            links: self.claimed.into_iter().collect(),
            began: self.began,
            took: ingress.clock.monotonic().saturating_sub(self.at),
            attributes: vec![
                ("http.request.method", "GET".to_owned()),
                ("http.route", "/v1/requests/{ticket}".to_owned()),
                ("request.id", request.to_string()),
            ],
            failed: None,
        };
        spans::end(span, context);
    }
}

/// The text of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The step in which a message was taken.
fn received(sent: TraceParent) -> TraceParent {
    sent.child("receive", 0)
}

#[cfg(test)]
mod tests {
    use keyturn_schemas::mac::{KeyId, KeyRing};

    use super::*;

    fn tickets(key: u8) -> TicketKeys {
        TicketKeys::new(KeyRing::new([(KeyId(1), [key; 32])]))
    }

    fn following(ticket: Option<String>) -> Arrival {
        Arrival { began: UnixMillis(0), at: Duration::ZERO, claimed: None, follows: ticket }
    }

    #[test]
    fn a_message_is_in_the_trace_of_the_one_whose_ticket_it_shows() {
        let (first, report) = (RequestId([1; 32]), RequestId([2; 32]));
        let context = following(tickets(1).ticket(first)).context(&tickets(1), report);
        assert_eq!(context.sent.trace(), TraceParent::of(first).trace());
        assert_eq!(context.sent.span(), TraceParent::of(report).span());
        assert_eq!(context.follows, Some(received(TraceParent::of(first))));
        // Of itself it is the first, whatever it says.
        let own = following(tickets(1).ticket(first)).context(&tickets(1), first);
        assert_eq!((own.sent, own.follows), (TraceParent::of(first), None));
    }

    #[test]
    fn what_is_no_ticket_of_ours_changes_nothing() {
        let (first, report) = (RequestId([1; 32]), RequestId([2; 32]));
        let ours = tickets(1).ticket(first).unwrap();
        for said in [
            None,
            tickets(2).ticket(first),
            Some(String::new()),
            Some("x".repeat(5000)),
            Some(ours[..65].to_owned()),
        ] {
            let context = following(said).context(&tickets(1), report);
            assert_eq!((context.sent, context.follows), (TraceParent::of(report), None));
        }
    }

    #[test]
    fn a_header_that_is_there_twice_says_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(only(&headers, FOLLOWS), None);
        headers.append(FOLLOWS, "one".parse().unwrap());
        assert_eq!(only(&headers, FOLLOWS), Some("one"));
        headers.append(FOLLOWS, "two".parse().unwrap());
        assert_eq!(only(&headers, FOLLOWS), None);
    }
}
