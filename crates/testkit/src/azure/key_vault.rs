//! A fake of Key Vault's secrets and keys: <https://learn.microsoft.com/rest/api/keyvault/secrets>.
//!
//! It asks for a token by a challenge, keeps versions with their tags, deletes softly, lists in pages of 25 in no order,
//! and refuses what the service refuses. Faults are put before the next calls of a kind.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "what a test stands on fails by panicking"
)]

mod keys;
mod state;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use keyturn_domain::clock::Clock;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::keys::Keys;
use self::state::Secrets;
use super::https::HttpsServer;
use super::identity;

/// What tokens are for.
pub const RESOURCE: &str = "https://vault.azure.net";
/// The versions of the API that are known here.
const VERSIONS: [&str; 5] = ["7.4", "7.5", "7.6", "2025-07-01", "2026-04-01"];

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Sets a secret.
    Set,
    /// Gets a version.
    Get,
    /// Lists versions.
    List,
    /// Wraps with a key.
    Wrap,
    /// Unwraps with a key.
    Unwrap,
    /// Signs with a key.
    Sign,
    /// Everything else.
    Other,
}

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 429, with so many seconds in `Retry-After`, or without one.
    Throttled(Option<u64>),
    /// 403 with this inner code; none as in a failover, when a vault takes no writes.
    Forbidden(Option<&'static str>),
    /// 503.
    Unavailable,
    /// It is answered after this time.
    Late(Duration),
    /// It has its effect and is never answered.
    DoneInSilence,
    /// It has no effect and is never answered.
    Silence,
    /// It has its effect, and 500 is the answer.
    DoneThen500,
    /// It has its effect, and the answer is a page of a proxy.
    DoneThenHtml,
    /// It has its effect, and the answer is cut short.
    DoneThenCut,
}

/// A vault; gone when it is dropped.
#[derive(Debug)]
pub struct FakeKeyVault {
    /// Its server.
    pub server: HttpsServer,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    origin: String,
    clock: ClockOf,
    state: Mutex<Secrets>,
    keys: Mutex<Keys>,
    faults: Mutex<VecDeque<(Call, Fault)>>,
    always: Mutex<Option<Fault>>,
    of_secret: Mutex<HashMap<String, Fault>>,
    counts: Mutex<HashMap<Call, usize>>,
    at_work: Mutex<HashMap<Call, (usize, usize)>>,
    sets: Mutex<Sets>,
}

/// The sets that came in, as the service counts them: those that it refuses do not count.
#[derive(Debug, Default)]
struct Sets {
    limit: Option<(usize, Duration)>,
    taken: VecDeque<Instant>,
    most: usize,
    refused: usize,
    all: usize,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Sets {
    /// Whether one more is taken now.
    fn take(&mut self, now: Instant) -> bool {
        let Some((limit, window)) = self.limit else { return true };
        while self.taken.front().is_some_and(|first| *first + window <= now) {
            self.taken.pop_front();
        }
        if self.taken.len() >= limit {
            self.refused += 1;
            return false;
        }
        self.taken.push_back(now);
        self.all += 1;
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.most = self.most.max(self.taken.len());
        true
    }
}

/// A call that is not answered yet.
struct AtWork<'a>(&'a Shared, Call);

impl<'a> AtWork<'a> {
    fn begin(shared: &'a Shared, call: Call) -> Self {
        let mut all = lock(&shared.at_work);
        let (now, most) = all.entry(call).or_default();
        *now += 1;
        *most = (*most).max(*now);
        Self(shared, call)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some((now, _)) = lock(&self.0.at_work).get_mut(&self.1) {
            *now -= 1;
        }
    }
}

struct ClockOf(Arc<dyn Clock>);

impl std::fmt::Debug for ClockOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.now().fmt(f)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panicked")
}

impl FakeKeyVault {
    /// An empty vault on a port of its own.
    pub async fn start(clock: Arc<dyn Clock>) -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 0)), clock).await
    }

    /// An empty vault at this address.
    pub async fn on(address: SocketAddr, clock: Arc<dyn Clock>) -> Self {
        let mut shared = None;
        let server = HttpsServer::serve(address, |address| {
            let made = Arc::new(Shared {
                origin: format!("https://{address}"),
                clock: ClockOf(clock),
                state: Mutex::default(),
                keys: Mutex::default(),
                faults: Mutex::default(),
                always: Mutex::default(),
                of_secret: Mutex::default(),
                counts: Mutex::default(),
                at_work: Mutex::default(),
                sets: Mutex::default(),
            });
            shared = Some(Arc::clone(&made));
            Router::new().fallback(answer).with_state(made)
        })
        .await;
        Self { server, shared: shared.expect("it was made") }
    }

    /// The next calls of a kind go wrong, one each, in this order.
    pub fn faults(&self, call: Call, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.shared.faults).extend(faults.into_iter().map(|fault| (call, fault)));
    }

    /// Every call goes wrong, until told otherwise.
    pub fn always(&self, fault: Option<Fault>) {
        *lock(&self.shared.always) = fault;
    }

    /// Every set of this secret goes wrong, until told otherwise.
    pub fn always_setting(&self, name: &str, fault: Option<Fault>) {
        let mut all = lock(&self.shared.of_secret);
        match fault {
            Some(fault) => drop(all.insert(name.to_owned(), fault)),
            None => drop(all.remove(name)),
        }
    }

    /// Whether every fault has happened.
    pub fn all_happened(&self) -> bool {
        lock(&self.shared.faults).is_empty()
    }

    /// From now on so many sets are taken in any window of this length, and others are throttled.
    pub fn limit_sets(&self, limit: usize, window: Duration) {
        lock(&self.shared.sets).limit = Some((limit, window));
    }

    /// How many sets were above that limit.
    pub fn refused_sets(&self) -> usize {
        lock(&self.shared.sets).refused
    }

    /// How many sets were taken under that limit, and the time from the first to the last of them.
    pub fn taken_sets(&self) -> (usize, Duration) {
        let sets = lock(&self.shared.sets);
        let lasted = sets.first.zip(sets.last).map(|(first, last)| last.saturating_duration_since(first));
        (sets.all, lasted.unwrap_or_default())
    }

    /// The most sets in a window.
    pub fn most_sets(&self) -> usize {
        lock(&self.shared.sets).most
    }

    /// How many calls of a kind came in with a token.
    pub fn count(&self, call: Call) -> usize {
        lock(&self.shared.counts).get(&call).copied().unwrap_or(0)
    }

    /// How many calls of a kind were under way at once, at most.
    pub fn most_at_once(&self, call: Call) -> usize {
        lock(&self.shared.at_work).get(&call).map_or(0, |(_, most)| *most)
    }

    /// The versions of a secret: id, value and tags.
    pub fn versions(&self, name: &str) -> Vec<(String, String, HashMap<String, String>)> {
        lock(&self.shared.state).versions(name)
    }

    /// What people with plain tools see of a secret: the current version, as the service answers it.
    pub fn current(&self, name: &str) -> Option<Value> {
        lock(&self.shared.state).get(&self.shared.origin, name, None).ok()
    }

    /// The names of all secrets.
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared.state).names()
    }

    /// Writes over the tags of every version of a secret, as whoever may set secrets can.
    pub fn retag(&self, name: &str, tag: &str, text: &str) {
        lock(&self.shared.state).retag(name, tag, text);
    }

    /// Makes a new version of an RSA key, as an administrator or a rotation policy does. Returns its id.
    pub fn make_key(&self, name: &str) -> String {
        self.make(name, &json!({ "kty": "RSA", "key_size": 2048 }))
    }

    /// Makes a new version of a key on P-256. Returns its id.
    pub fn make_signing_key(&self, name: &str) -> String {
        self.make(name, &json!({ "kty": "EC", "crv": "P-256" }))
    }

    fn make(&self, name: &str, body: &Value) -> String {
        let (origin, now) = (&self.shared.origin, self.shared.now_s());
        lock(&self.shared.keys).create(origin, name, body, now).expect("a key is made");
        self.key_versions(name).pop().expect("it was made")
    }

    /// Exchanges what two versions of a key are, which the service never does; whoever sits before it could.
    pub fn exchange_keys(&self, name: &str, one: &str, other: &str) {
        lock(&self.shared.keys).exchange(name, one, other);
    }

    /// The ids of a key's versions, oldest first.
    pub fn key_versions(&self, name: &str) -> Vec<String> {
        lock(&self.shared.keys).versions(name)
    }

    /// Enables or disables a version of a key.
    pub fn enable_key(&self, name: &str, id: &str, enabled: bool) {
        lock(&self.shared.keys).enable(name, id, enabled);
    }

    /// Deletes a secret softly, as an administrator does.
    pub fn delete(&self, name: &str) {
        let now = self.shared.now_s();
        lock(&self.shared.state).delete(&self.shared.origin, name, now).expect("it is there");
    }
}

impl Shared {
    fn now_s(&self) -> u64 {
        self.clock.0.now().0 / 1000
    }

    fn next_fault(&self, call: Call, path: &[&str]) -> Option<Fault> {
        if let (Call::Set, [_, name]) = (call, path)
            && let Some(fault) = lock(&self.of_secret).get(*name)
        {
            return Some(fault.clone());
        }
        let mut faults = lock(&self.faults);
        let next = faults.iter().position(|(of, _)| *of == call).and_then(|at| faults.remove(at));
        next.map(|(_, fault)| fault).or_else(|| lock(&self.always).clone())
    }
}

/// An answer: a status and a body.
type Answer = Result<(StatusCode, Value), Refusal>;

/// An error of the service: status, code, inner code, message.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str, Option<&'static str>, String);

impl Refusal {
    fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, "BadParameter", None, message.into())
    }

    fn not_found(name: &str) -> Self {
        let message = format!("A secret with (name/id) {name} was not found in this key vault.");
        Self(StatusCode::NOT_FOUND, "SecretNotFound", None, message)
    }
}

fn respond(answer: Answer) -> Response {
    let (status, value) = answer.unwrap_or_else(|Refusal(status, code, inner, message)| {
        let mut error = json!({ "code": code, "message": message });
        if let (Some(inner), Some(error)) = (inner, error.as_object_mut()) {
            error.insert("innererror".to_owned(), json!({ "code": inner }));
        }
        (status, json!({ "error": error }))
    });
    let body = if status == StatusCode::NO_CONTENT { String::new() } else { value.to_string() };
    (status, [("content-type", "application/json; charset=utf-8")], body).into_response()
}

fn kind(method: &Method, path: &[&str]) -> Call {
    match (method.as_str(), path) {
        ("PUT", ["secrets", _]) => Call::Set,
        ("GET", ["secrets", _, "versions"]) => Call::List,
        ("GET", ["secrets", _] | ["secrets", _, _]) => Call::Get,
        ("POST", ["keys", _, "wrapkey"] | ["keys", _, _, "wrapkey"]) => Call::Wrap,
        ("POST", ["keys", _, "unwrapkey"] | ["keys", _, _, "unwrapkey"]) => Call::Unwrap,
        ("POST", ["keys", _, "sign"] | ["keys", _, _, "sign"]) => Call::Sign,
        _ => Call::Other,
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !identity::admits(&parts.headers, RESOURCE, shared.now_s()) {
        return challenge();
    }
    let path = parts.uri.path().to_owned();
    // A trailing slash stands for «the current version».
    let path: Vec<&str> = path.trim_matches('/').split('/').collect();
    let call = kind(&parts.method, &path);
    *lock(&shared.counts).entry(call).or_default() += 1;
    let _at_work = AtWork::begin(&shared, call);
    if call == Call::Set && !lock(&shared.sets).take(Instant::now()) {
        return throttled(Some(1));
    }
    let fault = shared.next_fault(call, &path);
    match fault {
        Some(Fault::Throttled(seconds)) => return throttled(seconds),
        Some(Fault::Forbidden(inner)) => {
            let message = "Operation is not allowed.".to_owned();
            return respond(Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", inner, message)));
        }
        Some(Fault::Unavailable) => {
            let message = "Try again.".to_owned();
            return respond(Err(Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailable",
                None,
                message,
            )));
        }
        Some(Fault::Silence) => return std::future::pending().await,
        Some(Fault::Late(time)) => tokio::time::sleep(time).await,
        _ => {}
    }
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let done =
        carry_out(&shared, &parts.method, &path, parts.uri.query().unwrap_or(""), &parts.headers, &body);
    match fault {
        Some(Fault::DoneInSilence) => std::future::pending().await,
        Some(Fault::DoneThen500) => {
            let message = "Something went wrong.".to_owned();
            respond(Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", None, message)))
        }
        Some(Fault::DoneThenHtml) => {
            (StatusCode::OK, [("content-type", "text/html")], "<html>please sign in</html>").into_response()
        }
        Some(Fault::DoneThenCut) => {
            let text = respond(done);
            let (parts, body) = text.into_parts();
            let bytes = to_bytes(body, 1 << 20).await.unwrap_or_default();
            Response::from_parts(parts, Body::from(bytes.slice(..bytes.len() / 2)))
        }
        _ => respond(done),
    }
}

fn challenge() -> Response {
    let text =
        format!(r#"Bearer authorization="https://login.microsoftonline.com/t", resource="{RESOURCE}""#);
    let body = json!({ "error": { "code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token." } });
    (StatusCode::UNAUTHORIZED, [("www-authenticate", text)], body.to_string()).into_response()
}

fn throttled(seconds: Option<u64>) -> Response {
    let message = "Request was not processed because too many requests were received.".to_owned();
    let mut response = respond(Err(Refusal(StatusCode::TOO_MANY_REQUESTS, "Throttled", None, message)));
    if let Some(seconds) = seconds {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

fn carry_out(
    shared: &Shared,
    method: &Method,
    path: &[&str],
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    if !query.get("api-version").is_some_and(|version| VERSIONS.contains(&version.as_str())) {
        return Err(Refusal::bad("api-version is missing or not known"));
    }
    let body: Value =
        match (body.is_empty(), headers.get("content-type").map(axum::http::HeaderValue::as_bytes)) {
            (true, _) => Value::Null,
            (false, Some(kind)) if kind.starts_with(b"application/json") => {
                serde_json::from_slice(body).map_err(|_| Refusal::bad("the body is not JSON"))?
            }
            _ => {
                return Err(Refusal(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UnsupportedMediaType",
                    None,
                    String::new(),
                ));
            }
        };
    let (origin, now) = (shared.origin.as_str(), shared.now_s());
    if let ["keys", name, rest @ ..] = path {
        return on_key(shared, method, name, rest, &body).map(|found| (StatusCode::OK, found));
    }
    let mut state = lock(&shared.state);
    let found = match (method.as_str(), path) {
        ("PUT", ["secrets", name]) => state.set(origin, name, &body, now)?,
        ("GET", ["secrets"]) => state.list(origin, &query)?,
        ("GET", ["secrets", name, "versions"]) => state.list_versions(origin, name, &query)?,
        ("GET", ["secrets", name]) => state.get(origin, name, None)?,
        ("GET", ["secrets", name, id]) => state.get(origin, name, Some(id))?,
        ("PATCH", ["secrets", name, id]) => state.update(origin, name, id, &body, now)?,
        ("DELETE", ["secrets", name]) => state.delete(origin, name, now)?,
        ("GET", ["deletedsecrets", name]) => state.deleted(origin, name)?,
        ("POST", ["deletedsecrets", name, "recover"]) => state.recover(origin, name)?,
        ("DELETE", ["deletedsecrets", name]) => {
            state.purge(name)?;
            return Ok((StatusCode::NO_CONTENT, Value::Null));
        }
        _ => return Err(Refusal(StatusCode::NOT_FOUND, "NotFound", None, "no such operation".to_owned())),
    };
    Ok((StatusCode::OK, found))
}

fn on_key(
    shared: &Shared,
    method: &Method,
    name: &str,
    rest: &[&str],
    body: &Value,
) -> Result<Value, Refusal> {
    let (origin, now) = (shared.origin.as_str(), shared.now_s());
    let mut keys = lock(&shared.keys);
    match (method.as_str(), rest) {
        ("POST", ["create"]) => keys.create(origin, name, body, now),
        ("POST", ["rotate"]) => keys.create(origin, name, &json!({ "kty": "RSA" }), now),
        ("GET", []) => keys.get(origin, name, ""),
        ("GET", [id]) => keys.get(origin, name, id),
        ("POST", [operation @ ("wrapkey" | "unwrapkey" | "sign")]) => {
            keys.operate(origin, name, "", operation, body)
        }
        ("POST", [id, operation @ ("wrapkey" | "unwrapkey" | "sign")]) => {
            keys.operate(origin, name, id, operation, body)
        }
        _ => Err(Refusal(StatusCode::NOT_FOUND, "NotFound", None, "no such operation".to_owned())),
    }
}
