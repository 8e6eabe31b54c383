//! outcomes → results that agents poll, and alarms → webhooks ([`webhooks`]).
//!
//! The notifier holds no key of the protocol: results come to it signed and sealed, and it sees no password. It puts a result if
//! there is none for the message yet, and only while the version it carries is still outstanding.

pub mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use keyturn_pipeline::decode::decode;
use keyturn_pipeline::handler::{Failure, Handled, Handler};
use keyturn_ports::queue::{DeadReason, Leased};
use keyturn_ports::results::{NewResult, Published, ResultBody, ResultWriter};
use keyturn_schemas::envelope::Envelope;
use keyturn_schemas::outcome::Outcome;
use tracing::{debug, info};

/// The notifier's handler.
pub struct Notifier {
    results: Arc<dyn ResultWriter>,
}

impl Notifier {
    /// A notifier that publishes to `results`.
    pub fn new(results: Arc<dyn ResultWriter>) -> Self {
        Self { results }
    }
}

#[async_trait]
impl Handler for Notifier {
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        let opened: Vec<Result<Envelope<Outcome>, Handled>> = batch.iter().map(open).collect();
        let results = opened.iter().flatten().map(|envelope| result(&envelope.data)).collect();
        let mut published = match self.results.publish(results).await {
            Ok(published) => published.into_iter(),
            Err(error) => return batch.iter().map(|_| Handled::failed(Failure::from(&error))).collect(),
        };
        let tell = |opened: Result<Envelope<Outcome>, Handled>| match (opened, published.len()) {
            (Err(handled), _) => handled,
            (Ok(_), 0) => {
                Handled::failed(Failure::Engine("the result store lost count of its answers".to_owned()))
            }
            (Ok(envelope), _) => {
                published.next().inspect(|published| tell(&envelope, *published));
                Handled::done()
            }
        };
        opened.into_iter().map(tell).collect()
    }
}

fn open(leased: &Leased) -> Result<Envelope<Outcome>, Handled> {
    let envelope = decode::<Outcome>(leased)?;
    if envelope.data.rid != envelope.id {
        return Err(Handled::dead(DeadReason::Untrusted, "the envelope names another message"));
    }
    Ok(envelope)
}

fn result(outcome: &Outcome) -> NewResult {
    NewResult {
        request: outcome.rid,
        carries: outcome.carries.map(|carried| (carried.lane, carried.version)),
        body: outcome.result.clone().map_or(ResultBody::Refused, ResultBody::Signed),
        expires: outcome.expires_ms,
    }
}

fn tell(envelope: &Envelope<Outcome>, published: Published) {
    let (rid, device, trace) = (envelope.id, envelope.subject, envelope.traceparent.trace_id());
    let outcome = match published {
        Published::Stored => {
            info!(request.id = %rid, device.id = %device, trace.id = trace, "result is published");
            "stored"
        }
        Published::Existing => {
            debug!(request.id = %rid, device.id = %device, trace.id = trace, "a result was published before");
            "existing"
        }
        Published::Superseded => {
            info!(request.id = %rid, device.id = %device, trace.id = trace,
                "result is not published: its version is outstanding no more");
            "superseded"
        }
    };
    metrics::counter!("keyturn_results_total", "outcome" => outcome).increment(1);
}
