//! A fake of the Logs Ingestion API: <https://learn.microsoft.com/azure/azure-monitor/logs/logs-ingestion-api-overview>.
//!
//! It knows the streams of one data collection rule, takes what the service takes, keeps the rows in the order in which
//! they came, and merges no repeats. Stricter than the service in one: a row with a column that the stream does not
//! declare is refused, where the service drops the column and says nothing.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "what a test stands on fails by panicking"
)]

mod rows;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Frame;
use serde_json::{Value, json};

use self::rows::Columns;
use super::https::HttpsServer;
use super::identity;

/// What tokens are for.
pub const AUDIENCE: &str = "https://monitor.azure.com";
/// The immutable id of the rule.
pub const RULE: &str = "dcr-0123456789abcdef0123456789abcdef";
/// The most bytes of a body, compressed or not. The service says 1 MB; this is the larger of the two things it may mean.
const MOST_BYTES: usize = 1 << 20;

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 429, with so many seconds in `Retry-After`, or without one.
    Throttled(Option<u64>),
    /// 403, as for an identity without the role.
    Forbidden,
    /// 503, and nothing is taken over.
    Unavailable,
    /// It is answered after so long.
    Late(Duration),
    /// It is not taken over and never answered.
    Silence,
    /// It is taken over and never answered.
    DoneInSilence,
    /// It is taken over, and 500 is the answer.
    DoneThen500,
    /// It is taken over, and the answer breaks off.
    DoneThenCut,
    /// 200 with a page of a proxy, and nothing is taken over.
    Html,
}

impl Fault {
    /// Whether the rows of the call are taken over before it goes wrong.
    const fn is_after_the_fact(&self) -> bool {
        matches!(self, Self::DoneInSilence | Self::DoneThen500 | Self::DoneThenCut)
    }
}

/// A rule with its streams; gone when it is dropped.
#[derive(Debug)]
pub struct FakeLogs {
    /// Its server.
    pub server: HttpsServer,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    streams: BTreeMap<String, Columns>,
    tables: Mutex<BTreeMap<String, Vec<Value>>>,
    /// Each for the next call of its stream, or of any.
    faults: Mutex<VecDeque<(Option<String>, Fault)>>,
    always: Mutex<Option<Fault>>,
    limit: Mutex<Option<usize>>,
    calls: Mutex<usize>,
}

impl Shared {
    /// Takes the fault of a call, if it is to have one of its own.
    fn next_fault(&self, path: &str, asks: bool) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let concerns = |stream: &Option<String>| stream.as_ref().is_none_or(|stream| path.ends_with(stream));
        let at = faults.iter().position(|(stream, _)| concerns(stream))?;
        let kept = asks && faults.get(at).is_some_and(|(_, fault)| fault.is_after_the_fact());
        if kept { None } else { faults.remove(at).map(|(_, fault)| fault) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

impl FakeLogs {
    /// A rule on a port of its own, with the streams that the one of a deployment template declares.
    pub async fn start(template: &Value) -> Self {
        let resources = template["resources"].as_array().expect("a template has resources").iter();
        let mut rules = resources.filter(|one| one["type"] == "Microsoft.Insights/dataCollectionRules");
        let rule = rules.next().expect("it has a data collection rule");
        assert!(rules.next().is_none(), "it has one data collection rule");
        let declared = rule["properties"]["streamDeclarations"].as_object().expect("it declares streams");
        let streams =
            declared.iter().map(|(name, stream)| (name.clone(), Columns::declared(stream))).collect();
        let shared = Arc::new(Shared { streams, ..Shared::default() });
        let state = Arc::clone(&shared);
        let server = HttpsServer::serve(SocketAddr::from(([127, 0, 0, 1], 0)), |_| {
            Router::new().fallback(answer).with_state(state)
        })
        .await;
        Self { server, shared }
    }

    /// The rows of a stream in the order in which they were taken over, repeats and all.
    pub fn rows(&self, stream: &str) -> Vec<Value> {
        lock(&self.shared.tables).get(stream).cloned().unwrap_or_default()
    }

    /// The next calls go wrong, one each.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.shared.faults).extend(faults.into_iter().map(|fault| (None, fault)));
    }

    /// The next call of this stream goes wrong, whatever others do first.
    pub fn fault_of(&self, stream: &str, fault: Fault) {
        lock(&self.shared.faults).push_back((Some(stream.to_owned()), fault));
    }

    /// Whether every fault has happened.
    pub fn all_happened(&self) -> bool {
        lock(&self.shared.faults).is_empty()
    }

    /// Every call goes wrong, until told otherwise.
    pub fn always(&self, fault: Option<Fault>) {
        *lock(&self.shared.always) = fault;
    }

    /// Bodies of more bytes than this are answered with 413.
    pub fn limit(&self, bytes: usize) {
        *lock(&self.shared.limit) = Some(bytes);
    }

    /// How many calls came in with a token.
    pub fn calls(&self) -> usize {
        *lock(&self.shared.calls)
    }
}

/// The lengths of a body without rows, plain and compressed.
const EMPTY: [&[u8]; 2] = [b"2", b"22"];

/// A body that breaks off, and the connection with it.
struct Cut(Option<&'static str>);

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let next = self.0.take().map(|text| Frame::data(Bytes::from_static(text.as_bytes())));
        Poll::Ready(Some(next.ok_or_else(|| std::io::Error::other("the answer is cut"))))
    }
}

/// An error of the service: status, code, message.
type Refusal = (StatusCode, &'static str, String);

fn refuse((status, code, message): Refusal) -> Response {
    let body = json!({ "error": { "code": code, "message": message } }).to_string();
    (status, [("content-type", "application/json")], body).into_response()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // The fake has no clock: its tokens expire in 2100.
    if !identity::admits(&parts.headers, AUDIENCE, 0) {
        return refuse((StatusCode::UNAUTHORIZED, "InvalidToken", "The token is not valid.".to_owned()));
    }
    *lock(&shared.calls) += 1;
    // What goes wrong after the fact is kept for a call that does something: one without rows only asks whether it might.
    let asks = parts.headers.get("content-length").is_some_and(|length| EMPTY.contains(&length.as_bytes()));
    let next = shared.next_fault(parts.uri.path(), asks);
    let fault = next.or_else(|| lock(&shared.always).clone());
    match fault {
        Some(Fault::Throttled(seconds)) => return throttled(seconds),
        Some(Fault::Forbidden) => {
            let message = "The authentication token provided does not have access to ingest data.".to_owned();
            return refuse((StatusCode::FORBIDDEN, "OperationFailed", message));
        }
        Some(Fault::Unavailable) => {
            return refuse((StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", String::new()));
        }
        Some(Fault::Silence) => return std::future::pending().await,
        Some(Fault::Html) => {
            return (StatusCode::OK, [("content-type", "text/html")], "<html>sign in</html>").into_response();
        }
        Some(Fault::Late(pause)) => tokio::time::sleep(pause).await,
        _ => {}
    }
    // A caller that went away meanwhile has sent nothing.
    let Ok(body) = to_bytes(body, 64 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let query = parts.uri.query().unwrap_or("");
    let done = take_over(&shared, &parts.method, parts.uri.path(), query, &parts.headers, &body);
    match (fault, done) {
        (Some(Fault::DoneInSilence), Ok(())) => std::future::pending().await,
        (Some(Fault::DoneThen500), Ok(())) => {
            refuse((StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", String::new()))
        }
        (Some(Fault::DoneThenCut), Ok(())) => {
            let kind = [("content-type", "application/json")];
            (StatusCode::BAD_GATEWAY, kind, Body::new(Cut(Some("{\"error\":")))).into_response()
        }
        (_, Ok(())) => StatusCode::NO_CONTENT.into_response(),
        (_, Err(refusal)) => refuse(refusal),
    }
}

fn throttled(seconds: Option<u64>) -> Response {
    let message = "Too many requests.".to_owned();
    let mut response = refuse((StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message));
    if let Some(seconds) = seconds {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

/// Takes over all rows of a body or none.
fn take_over(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), Refusal> {
    let not_found = |what: &str| (StatusCode::NOT_FOUND, "NotFound", format!("{what} is not there"));
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let ["dataCollectionRules", rule, "streams", stream] = path.as_slice() else {
        return Err(not_found("the path"));
    };
    if *method != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", String::new()));
    }
    let query: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let version = query.get("api-version").map(String::as_str);
    if query.len() != 1 || !matches!(version, Some("2023-01-01" | "2021-11-01-preview")) {
        let message = "the version of the API is not known".to_owned();
        return Err((StatusCode::BAD_REQUEST, "InvalidApiVersion", message));
    }
    if *rule != RULE {
        return Err(not_found("the data collection rule"));
    }
    let columns = shared.streams.get(*stream).ok_or_else(|| not_found("the stream"))?;
    let most = lock(&shared.limit).unwrap_or(MOST_BYTES);
    let rows = columns.read(headers, body, most)?;
    lock(&shared.tables).entry((*stream).to_owned()).or_default().extend(rows);
    Ok(())
}
