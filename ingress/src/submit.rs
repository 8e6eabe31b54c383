//! Taking a message: parse, verify, stamp, enqueue, 202.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use keyturn_domain::lane::Order;
use keyturn_domain::network::Client;
use keyturn_pipeline::aside::aside;
use keyturn_pipeline::measures::Meter;
use keyturn_ports::intake::{Accepted, Submission};
use keyturn_ports::queue::{NewMessage, QueueName};
use keyturn_schemas::answers::TicketAnswer;
use keyturn_schemas::envelope::{Envelope, Stamped};
use keyturn_schemas::message::{MessageKind, SignedMessage, VerifiedMessage};
use keyturn_schemas::stamp::StampKeys;
use tracing::{info, warn};

use crate::api::{self, Ingress};
use crate::body;
use crate::refusal::Refusal;
use crate::traces::{Arrival, Context};

/// How soon a device may look for its result, in seconds. It may long-poll at once.
const LOOK_AGAIN: u64 = 1;

/// `POST /v1/requests`, `/v1/reports` and `/v1/events`.
pub(crate) async fn submit(
    ingress: Arc<Ingress>,
    kind: MessageKind,
    request: Request,
) -> Result<Response, Refusal> {
    let client = request.extensions().get::<Client>().copied().ok_or(Refusal::Unavailable)?;
    let arrival = Arrival::of(&ingress, request.headers());
    let text = body::read(request, ingress.settings.limits).await?;
    let message = verify(text, kind).await?;
    let rid = message.message().rid();
    let keys = ingress.keys.now();
    let ticket = keys.tickets.ticket(rid).ok_or(Refusal::Unavailable)?;
    let common = message.message().claims().common();
    if common.aud != ingress.settings.deployment {
        return Err(Refusal::Audience);
    }
    let received = ingress.clock.now();
    let nonce = common.nonce;
    if !keys.nonces.is_fresh(&nonce, received, ingress.settings.freshness.nonce_ttl) {
        // The same bytes may come again, however late: the agent never learned that they had arrived.
        let genuine = keys.nonces.holds(&nonce);
        let known = genuine && ingress.ports.intake.knows(nonce.issued(), rid).await.unwrap_or(false);
        let fresh =
            || ingress.nonce().map_or(Refusal::Unavailable, |nonce| Refusal::Nonce(nonce.to_string()));
        return if known { accepted(ticket) } else { Err(fresh()) };
    }
    // After the nonce: a message that somebody saw and kept uses up its device's share for five minutes at most.
    ingress.admission.by_key(client, message.message().certificate().key_hash()).await?;
    if ingress.load.is_over().await {
        return Err(Refusal::Unavailable);
    }
    let order = Order { received, nonce: nonce.issued() };
    let context = arrival.context(&keys.tickets, rid);
    enqueue(&ingress, &keys.stamps, message, order, (&arrival, context)).await?;
    accepted(ticket)
}

/// Parses and verifies.
async fn verify(text: String, kind: MessageKind) -> Result<VerifiedMessage, Refusal> {
    let verifying = aside(1, move || {
        let message = SignedMessage::parse(text).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if message.claims().kind() != kind {
            return Err(Refusal::Malformed("this path takes another kind of message".to_owned()));
        }
        message.verify().map_err(|_| Refusal::Signature)
    });
    verifying.await.unwrap_or(Err(Refusal::Unavailable))
}

async fn enqueue(
    ingress: &Ingress,
    stamps: &StampKeys,
    message: VerifiedMessage,
    order: Order,
    (arrival, context): (&Arrival, Context),
) -> Result<(), Refusal> {
    let (rid, device) = (message.message().rid(), message.message().claims().common().device_id);
    let stamp = stamps.stamp(rid, order, &ingress.settings.name).ok_or(Refusal::Unavailable)?;
    let trace = context.sent;
    let data = Stamped { jws: message.message().text().to_owned(), stamp };
    let body = Envelope::new(rid, device, "ingress", order.received, trace, data).to_json();
    let submission = Submission { nonce: order.nonce, message: NewMessage { request: rid, device, body } };
    match ingress.ports.intake.accept(vec![submission]).await.as_deref() {
        Ok([Accepted::New]) => {
            info!(request.id = %rid, device.id = %device, trace.id = trace.trace_id(), "message is accepted");
            metrics::counter!("keyturn_accepted_total", "outcome" => "new").increment(1);
            Meter::of(&*ingress.ports.queue, QueueName::Requests).sent(1);
            arrival.taken(ingress, context, (rid, device));
            Ok(())
        }
        Ok([Accepted::Known]) => {
            metrics::counter!("keyturn_accepted_total", "outcome" => "known").increment(1);
            Ok(())
        }
        Ok(_) => Err(Refusal::Unavailable),
        Err(error) => {
            warn!(request.id = %rid, device.id = %device, error = %error, "message could not be enqueued");
            Err(Refusal::Unavailable)
        }
    }
}

/// 202: to a message that was taken, and to a poll whose result is not there yet.
pub(crate) fn accepted(ticket: String) -> Result<Response, Refusal> {
    let location = api::header_value(&format!("/v1/requests/{ticket}"));
    let mut response = api::json(&TicketAnswer { ticket })?;
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(LOOK_AGAIN));
    Ok(response)
}
