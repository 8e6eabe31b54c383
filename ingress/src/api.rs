//! The routes, and what every answer carries.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::live::Live;
use keyturn_ports::intake::Intake;
use keyturn_ports::queue::Queue;
use keyturn_ports::results::ResultReader;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::key_set;
use keyturn_schemas::message::MessageKind;
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::stamp::{Freshness, StampKeys};
use keyturn_schemas::ticket::TicketKeys;

use crate::load::Load;
use crate::refusal::Refusal;
use crate::{poll, submit};

/// What an ingress goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The audience of messages.
    pub deployment: Deployment,
    /// The name of this ingress, in stamps.
    pub name: String,
    /// The limits of freshness.
    pub freshness: Freshness,
    /// What it takes on.
    pub limits: Limits,
}

/// What an ingress takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// How long a body may take to come in.
    pub body_time: Duration,
    /// The longest long-poll.
    pub poll_wait: Duration,
    /// Long-polls held open at once; further ones are answered at once.
    pub polls: usize,
    /// With more messages than this on the `requests` queue, new ones are turned away with 503.
    pub depth: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 16 * 1024,
            body_time: Duration::from_secs(10),
            poll_wait: Duration::from_secs(30),
            polls: 20_000,
            depth: 1_000_000,
        }
    }
}

/// The keys an ingress holds.
#[derive(Clone, Debug)]
pub struct Keys {
    /// To give out and check nonces.
    pub nonces: NonceKeys,
    /// To stamp.
    pub stamps: StampKeys,
    /// To give out and open tickets.
    pub tickets: TicketKeys,
    /// The signed key set that every answer carries.
    pub key_set: String,
}

/// What an ingress works on.
#[derive(Clone)]
pub struct Ports {
    /// Where messages go.
    pub intake: Arc<dyn Intake>,
    /// For its depth only.
    pub queue: Arc<dyn Queue>,
    /// Where results come from.
    pub results: Arc<dyn ResultReader>,
}

/// The ingress. [`Ingress::router`] is all there is to it.
pub struct Ingress {
    pub(crate) settings: Settings,
    pub(crate) keys: Live<Keys>,
    pub(crate) ports: Ports,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) load: Load,
    pub(crate) polls: tokio::sync::Semaphore,
}

/// Every answer carries a fresh nonce in this header (RFC 8555 section 6.5).
pub(crate) const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
const KEY_SET: HeaderName = HeaderName::from_static(key_set::HEADER);

impl Ingress {
    /// An ingress. It works on with whatever its keys are replaced by.
    pub fn new(
        settings: Settings,
        keys: impl Into<Live<Keys>>,
        ports: Ports,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Arc<Self> {
        let load = Load::new(Arc::clone(&ports.queue), settings.limits.depth, Arc::clone(&clock));
        let polls = tokio::sync::Semaphore::new(settings.limits.polls);
        Arc::new(Self { settings, keys: keys.into(), ports, clock, entropy, load, polls })
    }

    /// The device API.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v1/nonce", get(nonce))
            .route(
                "/v1/requests",
                post(|State(ingress), request| submit::submit(ingress, MessageKind::Request, request)),
            )
            .route(
                "/v1/reports",
                post(|State(ingress), request| submit::submit(ingress, MessageKind::Report, request)),
            )
            .route(
                "/v1/events",
                post(|State(ingress), request| submit::submit(ingress, MessageKind::Event, request)),
            )
            .route("/v1/requests/{ticket}", get(poll::poll))
            .method_not_allowed_fallback(async || Refusal::Method)
            .fallback(async || Refusal::NoSuchPath)
            .layer(middleware::from_fn_with_state(Arc::clone(self), complete))
            .with_state(Arc::clone(self))
    }

    /// A fresh nonce.
    pub(crate) fn nonce(&self) -> Option<String> {
        self.keys.now().nonces.issue(self.clock.now(), &*self.entropy).map(|nonce| nonce.to_string())
    }
}

/// `GET /v1/nonce`.
async fn nonce(State(ingress): State<Arc<Ingress>>) -> Response {
    match ingress.nonce() {
        Some(nonce) => {
            let body = serde_json::json!({ "nonce": nonce }).to_string();
            let header = HeaderValue::from_str(&nonce).unwrap_or(HeaderValue::from_static(""));
            (
                [
                    (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                    (REPLAY_NONCE, header),
                ],
                body,
            )
                .into_response()
        }
        None => Refusal::Unavailable.into_response(),
    }
}

/// Gives every answer a nonce for the next message, the key set, and the instruction not to keep it.
async fn complete(State(ingress): State<Arc<Ingress>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if !headers.contains_key(REPLAY_NONCE)
        && let Some(nonce) = ingress.nonce().and_then(|nonce| HeaderValue::from_str(&nonce).ok())
    {
        headers.insert(REPLAY_NONCE, nonce);
    }
    if let Ok(key_set) = HeaderValue::from_str(&ingress.keys.now().key_set) {
        headers.insert(KEY_SET, key_set);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
