//! The spans of a batch: its lease, and for each message what was done with it and what was sent on.

use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ids::RequestId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::queue::{Leased, QueueName};
use keyturn_schemas::envelope::TraceParent;

use super::Worker;
use crate::handler::{Handled, Verdict};
use crate::spans::{self, Kind, Place, Span};

/// The most links of one span.
const LINKS: usize = 128;

/// A batch on its way through a worker.
pub(super) struct Trail<'a> {
    worker: &'a Worker,
    batch: Arc<[Leased]>,
    /// Where each message stands, if its trace is kept.
    places: Vec<Option<Place>>,
    began: UnixMillis,
    at: Duration,
}

/// What a handler answered, before it is settled.
pub(super) struct Told {
    outcome: &'static str,
    failed: Option<String>,
    rotation: Option<String>,
    sent: Vec<QueueName>,
}

impl<'a> Trail<'a> {
    /// Begins when a batch was leased, which took that long.
    pub(super) fn begin(worker: &'a Worker, batch: &Arc<[Leased]>, waited: Duration) -> Self {
        let kept = |leased: &Leased| Place::of(&leased.message.body).filter(|place| place.came.is_sampled());
        let places: Vec<Option<Place>> =
            if spans::wanted() { batch.iter().map(kept).collect() } else { Vec::new() };
        let (began, at) = (worker.clock.now(), worker.clock.monotonic());
        let trail = Self { worker, batch: Arc::clone(batch), places, began, at };
        trail.leased(waited);
        trail
    }

    /// A trace of its own: the messages of a batch belong to many.
    fn leased(&self, waited: Duration) {
        let links: Vec<TraceParent> = self.places.iter().flatten().map(|place| place.came).collect();
        if links.is_empty() {
            return;
        }
        let context = TraceParent::of(RequestId(self.worker.entropy.bytes())).sampled(true);
        let queue = self.worker.name;
        let attributes = vec![
            ("messaging.system", self.worker.queue.system(queue).to_owned()),
            ("messaging.destination.name", queue.as_str().to_owned()),
            ("messaging.operation.name", "lease".to_owned()),
            ("messaging.operation.type", "receive".to_owned()),
            ("messaging.batch.message_count", self.batch.len().to_string()),
        ];
        let span = || Span {
            name: format!("lease {queue}"),
            kind: Kind::Client,
            context,
            parent: None,
            links: links.into_iter().take(LINKS).collect(),
            began: self.began.minus(waited),
            took: waited,
            attributes,
            failed: None,
        };
        spans::end(span, context);
    }

    /// Keeps what is told of the answers, which are used up by settling.
    pub(super) fn prepare(&self, handled: &[Handled]) -> Vec<Told> {
        if self.places.iter().all(Option::is_none) {
            return Vec::new();
        }
        handled.iter().map(told).collect()
    }

    /// Ends with the batch's settlement.
    pub(super) fn end(self, told: Vec<Told>, unsettled: Option<&Error>) {
        let took = self.worker.clock.monotonic().saturating_sub(self.at);
        for ((leased, place), told) in self.batch.iter().zip(&self.places).zip(told) {
            if let Some(place) = place {
                self.message(leased, *place, told, unsettled, took);
            }
        }
    }

    fn message(&self, leased: &Leased, place: Place, told: Told, unsettled: Option<&Error>, took: Duration) {
        let (operation, queue) = (self.worker.handler.operation(), self.worker.name);
        let system = self.worker.queue.system(queue);
        let (context, parent, links) = place.handling(operation, leased.deliveries);
        let Told { outcome, failed, rotation, sent } = told;
        let failed = failed.or_else(|| unsettled.map(ToString::to_string));
        // What a failed settlement would have sent is sent by whoever repeats it.
        let sent = if unsettled.is_none() { sent } else { Vec::new() };
        let about = |operation: &str| spans::about(system, queue, operation, leased);
        let process = || {
            let mut attributes = about(operation);
            attributes.push(("outcome", outcome.to_owned()));
            attributes.extend(rotation.map(|rotation| ("rotation.id", rotation)));
            let name = format!("{operation} {queue}");
            Span {
                name,
                kind: Kind::Consumer,
                context,
                parent,
                links,
                began: self.began,
                took,
                attributes,
                failed,
            }
        };
        spans::end(process, context);
        for (number, onto) in (0..).zip(sent) {
            // The first has the context that is in the messages; further ones (alarms) carry the same.
            let next = spans::sent_on(place.came);
            let sending = if number == 0 { next } else { next.child("further", number) };
            let span = || Span {
                name: format!("send {onto}"),
                kind: Kind::Producer,
                context: sending,
                parent: Some(context),
                links: Vec::new(),
                began: self.began.plus(took),
                took: Duration::ZERO,
                attributes: vec![
                    ("messaging.system", self.worker.queue.system(onto).to_owned()),
                    ("messaging.destination.name", onto.as_str().to_owned()),
                    ("messaging.operation.name", "send".to_owned()),
                    ("messaging.operation.type", "send".to_owned()),
                    ("messaging.message.id", leased.message.request.to_string()),
                ],
                failed: None,
            };
            spans::end(span, sending);
        }
    }
}

fn told(handled: &Handled) -> Told {
    let (outcome, failed) = match &handled.verdict {
        Verdict::Done => ("done", None),
        Verdict::Failed(failure) => ("failed", Some(failure.to_string())),
        Verdict::Dead(reason, error) => ("dead", Some(format!("{reason}: {error}"))),
    };
    let forward = handled.forward.iter().map(|(queue, _)| *queue);
    let sent = forward.chain(handled.sent.iter().copied()).collect();
    let rotation = handled.rotation.map(|version| version.to_string());
    Told { outcome, failed, rotation, sent: if failed_nothing(handled) { sent } else { Vec::new() } }
}

fn failed_nothing(handled: &Handled) -> bool {
    handled.verdict == Verdict::Done
}
