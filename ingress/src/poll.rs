//! Polling for a result, with long-polls.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keyturn_domain::ids::RequestId;
use keyturn_domain::network::Client;
use keyturn_ports::results::ResultBody;
use tracing::warn;

use crate::api::Ingress;
use crate::refusal::Refusal;
use crate::submit::accepted;
use crate::traces::Arrival;

/// `GET /v1/requests/{ticket}`.
pub(crate) async fn poll(
    State(ingress): State<Arc<Ingress>>,
    Extension(client): Extension<Client>,
    ticket: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    // What is no text once its escapes are undone is no ticket either.
    let Path(ticket) = ticket.map_err(|_| Refusal::Ticket)?;
    let keys = ingress.keys.now();
    let rid = keys.tickets.open(&ticket).ok_or(Refusal::Ticket)?;
    ingress.admission.by_ticket(rid)?;
    let wait = preferred_wait(&headers).min(ingress.settings.limits.poll_wait);
    let arrival = Arrival::of(&ingress, &headers);
    let found = result(&ingress, client, rid, wait).await?;
    if found.is_some() {
        arrival.polled(&ingress, &keys.tickets, rid);
    }
    match found {
        None => accepted(ticket),
        Some(ResultBody::Refused) => Err(Refusal::Refused),
        Some(ResultBody::Signed(jws)) => Ok(answered(rid, jws, &headers)),
    }
}

/// The result, as soon as there is one, for at most `wait`.
async fn result(
    ingress: &Ingress,
    client: Client,
    rid: RequestId,
    wait: Duration,
) -> Result<Option<ResultBody>, Refusal> {
    let look = async || {
        ingress.ports.results.result(rid).await.map_err(|error| {
            warn!(request.id = %rid, error = %error, "a result could not be read");
            Refusal::Unavailable
        })
    };
    if wait.is_zero() {
        return look().await;
    }
    let (Ok(_all), Some(_own)) = (ingress.polls.try_acquire(), ingress.admission.wait(client)) else {
        return look().await;
    };
    let waiting = async {
        loop {
            // Interest is registered before looking, so that nothing published in between is missed.
            let publication = ingress.ports.results.publication(rid);
            tokio::pin!(publication);
            let published = tokio::select! {
                biased;
                () = &mut publication => true,
                () = std::future::ready(()) => false,
            };
            match look().await {
                Ok(None) if published => {}
                Ok(None) => publication.await,
                found => return found,
            }
        }
    };
    match tokio::time::timeout(wait, waiting).await {
        Ok(found) => found,
        Err(_) => look().await,
    }
}

/// The `wait` of a `Prefer` header (RFC 7240 section 4.3), in seconds.
fn preferred_wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wait =
        preferences.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix("wait="));
    Duration::from_secs(wait.and_then(|seconds| seconds.parse::<u32>().ok()).unwrap_or(0).into())
}

/// A result never changes, so its message's id is its entity tag.
fn answered(rid: RequestId, jws: String, headers: &HeaderMap) -> Response {
    let tag = format!("\"{rid}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""));
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/jose")), (header::ETAG, tag)], jws)
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_wait_is_read_leniently() {
        for (value, seconds) in [
            ("wait=5", 5),
            ("respond-async, wait=10", 10),
            ("wait=", 0),
            ("wait=-1", 0),
            ("wait=99999999999", 0),
            ("x", 0),
        ] {
            let headers =
                HeaderMap::from_iter([(header::HeaderName::from_static("prefer"), value.parse().unwrap())]);
            assert_eq!(preferred_wait(&headers), Duration::from_secs(seconds), "{value}");
        }
    }
}
