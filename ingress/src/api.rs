//! The routes, and what every answer carries.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use keyturn_domain::admission::AdmissionPolicy;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::live::Live;
use keyturn_ports::intake::Intake;
use keyturn_ports::ledger::LedgerReader;
use keyturn_ports::queue::Queue;
use keyturn_ports::results::ResultReader;
use keyturn_schemas::answers::NonceAnswer;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::key_set;
use keyturn_schemas::message::MessageKind;
use keyturn_schemas::nonce::{Nonce, NonceKeys};
use keyturn_schemas::stamp::{Freshness, StampKeys};
use keyturn_schemas::ticket::TicketKeys;
use tracing::debug;

use crate::admission::{Admission, Class};
use crate::load::Load;
use crate::refusal::{Refusal, Told};
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
    /// How much it takes from whom.
    pub admission: AdmissionPolicy,
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
    /// For the keys it knows only.
    pub ledger: Arc<dyn LedgerReader>,
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
    pub(crate) admission: Admission,
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
        let admission =
            Admission::new(settings.admission.clone(), Arc::clone(&ports.ledger), Arc::clone(&clock));
        Arc::new(Self { settings, keys: keys.into(), ports, clock, entropy, load, polls, admission })
    }

    /// The device API.
    pub fn router(self: &Arc<Self>) -> Router {
        let taking = |kind| {
            post(move |State(ingress), request| submit::submit(ingress, kind, request))
                .fallback(async || Refusal::Method("POST"))
        };
        // Without an answer of its own, HEAD would be taken for GET: a poll without a body is of no use to anybody.
        let only_get = async || Refusal::Method("GET");
        Router::new()
            .route("/v1/nonce", get(nonce).head(only_get).fallback(only_get))
            .route("/v1/requests", taking(MessageKind::Request))
            .route("/v1/reports", taking(MessageKind::Report))
            .route("/v1/events", taking(MessageKind::Event))
            .route("/v1/requests/{ticket}", get(poll::poll).head(only_get).fallback(only_get))
            .fallback(async || Refusal::NoSuchPath)
            .layer(middleware::from_fn_with_state(Arc::clone(self), complete))
            .with_state(Arc::clone(self))
    }

    /// A fresh nonce.
    pub(crate) fn nonce(&self) -> Option<Nonce> {
        self.keys.now().nonces.issue(self.clock.now(), &*self.entropy)
    }

    /// At least `wait`, and more by chance, so that those who were turned away together do not return together.
    fn retry_after(&self, wait: Duration) -> HeaderValue {
        let spread = u32::try_from(self.admission.retry_spread().as_secs()).unwrap_or(u32::MAX);
        let extra = self.entropy.below(spread.saturating_add(1));
        let whole = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        HeaderValue::from(whole.saturating_add(extra.into()))
    }
}

/// `GET /v1/nonce`.
async fn nonce(State(ingress): State<Arc<Ingress>>) -> Result<Response, Refusal> {
    let nonce = ingress.nonce().ok_or(Refusal::Unavailable)?;
    let mut response = json(&NonceAnswer { nonce })?;
    response.headers_mut().insert(REPLAY_NONCE, header_value(&nonce.to_string()));
    Ok(response)
}

/// 200 with a document.
pub(crate) fn json(document: &impl serde::Serialize) -> Result<Response, Refusal> {
    let body = serde_json::to_string(document).map_err(|_| Refusal::Unavailable)?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

/// A text of our own making as a header's value.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Counts a request against its client before anything else is done with it. Gives every answer a nonce for the
/// next message, the key set, and the instruction not to keep it; and tells problems to whoever looks for a fault.
async fn complete(State(ingress): State<Arc<Ingress>>, mut request: Request, next: Next) -> Response {
    let client = ingress.admission.client(&request);
    request.extensions_mut().insert(client);
    let poll = request.method() == Method::GET && request.uri().path().starts_with("/v1/requests/");
    // RFC 9112 section 6.1: a body whose length two fields tell differently may hide a request of somebody else's
    // from a proxy, and to close is what ends that. None of our clients sends one in chunks.
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let class = if poll { Class::Poll } else { Class::Other };
    let mut response = match ingress.admission.by_address(client, class) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let crowded = response.status() == StatusCode::TOO_MANY_REQUESTS && !ingress.admission.pause().await;
    let told = response.extensions_mut().remove::<Told>();
    let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    if let Some(Told { code, wait }) = told {
        debug!(code, client.address = %client, "a request is answered with a problem");
        if let Some(wait) = wait {
            let least = if unavailable { ingress.admission.retry_after() } else { Duration::ZERO };
            headers.insert(header::RETRY_AFTER, ingress.retry_after(wait.max(least)));
        }
    }
    if chunked || crowded {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if !headers.contains_key(REPLAY_NONCE)
        && let Some(nonce) = ingress.nonce()
    {
        headers.insert(REPLAY_NONCE, header_value(&nonce.to_string()));
    }
    if let Ok(key_set) = HeaderValue::from_str(&ingress.keys.now().key_set) {
        headers.insert(KEY_SET, key_set);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
