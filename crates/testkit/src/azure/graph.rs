//! A fake of what is asked of Microsoft Graph: `GET /v1.0/devices` with a filter on `deviceId` or
//! `displayName` (<https://learn.microsoft.com/graph/api/device-list>), `GET /v1.0/devices(deviceId='…')`
//! (<https://learn.microsoft.com/graph/api/device-get>), and `POST /v1.0/devices(deviceId='…')/checkMemberGroups` or
//! `/v1.0/devices/…/checkMemberGroups` (<https://learn.microsoft.com/graph/api/directoryobject-checkmembergroups>). Its
//! feed of changes is in [`delta`].

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "what a test stands on fails by panicking"
)]

mod delta;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use keyturn_ports::directory::DeviceRecord;
use serde_json::{Map, Value, json};

use self::delta::{Delta, Told};
use super::https::HttpsServer;
use super::identity;

/// What becomes of a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// None, after all: the call before the one that goes wrong.
    Pass,
    /// This status, with so many seconds in `Retry-After`, or without one.
    Status(u16, Option<u64>),
    /// 200 with a page of a proxy.
    Html,
    /// 200 with half of the answer.
    Cut,
    /// No answer.
    Silence,
}

/// A directory; gone when it is dropped.
#[derive(Debug)]
pub struct FakeGraph {
    /// Its server.
    pub server: HttpsServer,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    origin: String,
    devices: Mutex<Vec<Value>>,
    faults: Mutex<VecDeque<Fault>>,
    always: Mutex<Option<Fault>>,
    calls: Mutex<usize>,
    delta: Delta,
    feed_faults: Mutex<VecDeque<Fault>>,
    feed_calls: Mutex<usize>,
}

impl FakeGraph {
    /// An empty directory on a port of its own.
    pub async fn start() -> Self {
        let mut shared = None;
        let server = HttpsServer::serve(SocketAddr::from(([127, 0, 0, 1], 0)), |address| {
            let made = Arc::new(Shared { origin: format!("https://{address}"), ..Shared::default() });
            shared = Some(Arc::clone(&made));
            Router::new().fallback(answer).with_state(made)
        })
        .await;
        Self { server, shared: shared.expect("it was made") }
    }

    /// Adds a record. There may be several of one device, which a real directory should not have.
    pub fn add(&self, record: &DeviceRecord) {
        let mut value = serde_json::to_value(record).expect("a record is JSON");
        // Capitals, as GUIDs may come.
        let id = record.device_id.to_string().to_ascii_uppercase();
        value["deviceId"] = json!(id);
        let mut devices = self.shared.devices.lock().expect("nobody panicked");
        value["id"] = json!(object_id(devices.len()));
        devices.push(value);
    }

    /// Deletes the devices of which this is true.
    pub fn delete(&self, which: impl Fn(&Value) -> bool) {
        self.shared.devices.lock().expect("nobody panicked").retain(|device| !which(device));
    }

    /// The feed of changes has pages of so many objects.
    pub fn feed_pages_of(&self, objects: usize) {
        self.shared.delta.page_size(objects);
    }

    /// The feed tells the first object of each page again on the next one.
    pub fn feed_replays(&self) {
        self.shared.delta.replays();
    }

    /// The links of the feed lead to another host, until told otherwise.
    pub fn feed_leads_to(&self, origin: Option<String>) {
        self.shared.delta.leads_to(origin);
    }

    /// All places of the feed that were given out expire.
    pub fn expire_feed(&self) {
        self.shared.delta.expire();
    }

    /// The next calls of the feed go wrong, one each.
    pub fn feed_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.feed_faults.lock().expect("nobody panicked").extend(faults);
    }

    /// How many calls of the feed came in with a token.
    pub fn feed_calls(&self) -> usize {
        *self.shared.feed_calls.lock().expect("nobody panicked")
    }

    /// Changes every record.
    pub fn change(&self, change: impl FnMut(&mut Value)) {
        self.shared.devices.lock().expect("nobody panicked").iter_mut().for_each(change);
    }

    /// Adds a second record of every device.
    pub fn duplicate(&self) {
        let mut devices = self.shared.devices.lock().expect("nobody panicked");
        let mut twins = devices.clone();
        for (twin, number) in twins.iter_mut().zip(devices.len()..) {
            twin["id"] = json!(object_id(number));
        }
        devices.extend(twins);
    }

    /// The next calls that are not the feed's go wrong, one each.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.faults.lock().expect("nobody panicked").extend(faults);
    }

    /// Leaves one record of each device.
    pub fn single(&self) {
        let mut devices = self.shared.devices.lock().expect("nobody panicked");
        let mut seen = BTreeSet::new();
        devices.retain(|device| seen.insert(device["deviceId"].to_string()));
    }

    /// Every call goes wrong, until told otherwise.
    pub fn always(&self, fault: Option<Fault>) {
        *self.shared.always.lock().expect("nobody panicked") = fault;
    }

    /// How many calls came in with a token, without the feed's.
    pub fn calls(&self) -> usize {
        *self.shared.calls.lock().expect("nobody panicked")
    }
}

/// The id of an object, which is not its device's.
fn object_id(number: usize) -> String {
    format!("0B53CC85-EB81-4A3C-9A24-{number:012X}")
}

fn refuse(status: u16, code: &str, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    // As Graph has it, though the fake has no clock and no log.
    let ids = ["request-id", "client-request-id"].map(|id| (id.to_owned(), json!(object_id(0))));
    let mut inner: Map<String, Value> = ids.into_iter().collect();
    inner.insert("date".to_owned(), json!("2026-11-23T00:00:00"));
    let body = json!({ "error": { "code": code, "message": "a fake's message", "innerError": inner } });
    let body = body.to_string();
    let mut response = (status, [("content-type", "application/json")], body).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    // The fake has no clock: its tokens expire in 2100.
    if !identity::admits(request.headers(), &shared.origin, 0) {
        return refuse(401, "InvalidAuthenticationToken", None);
    }
    // Graph takes both for the same; Microsoft's own client says the second.
    let of_feed = ["/v1.0/devices/delta", "/v1.0/devices/delta()"].contains(&request.uri().path());
    let (calls, faults) =
        if of_feed { (&shared.feed_calls, &shared.feed_faults) } else { (&shared.calls, &shared.faults) };
    *calls.lock().expect("nobody panicked") += 1;
    let next = faults.lock().expect("nobody panicked").pop_front();
    let fault = next.or_else(|| shared.always.lock().expect("nobody panicked").clone());
    match fault {
        Some(Fault::Status(status, retry_after)) => return refuse(status, "Fault", retry_after),
        Some(Fault::Html) => {
            return (StatusCode::OK, [("content-type", "text/html")], "<html>sign in</html>").into_response();
        }
        Some(Fault::Silence) => return std::future::pending().await,
        _ => {}
    }
    if of_feed {
        let devices = shared.devices.lock().expect("nobody panicked").clone();
        let told = shared.delta.ask(&shared.origin, request.uri().query().unwrap_or(""), &devices);
        return match told {
            Told::Page(page) if request.method() == Method::GET => {
                json_answer(page.to_string(), fault.as_ref())
            }
            Told::Expired => refuse(410, "syncStateNotFound", None),
            _ => refuse(400, "BadRequest", None),
        };
    }
    let path = request.uri().path().to_owned();
    let (method, query) = (request.method().clone(), request.uri().query().map(str::to_owned));
    match address(&path) {
        Some((device, "/checkMemberGroups")) if method == Method::POST && query.is_none() => {
            return check_member_groups(&shared, device, request, fault.as_ref()).await;
        }
        Some((device @ Address::Device(_), "")) if method == Method::GET => {
            return one(&shared, device, query.as_deref().unwrap_or(""), fault.as_ref());
        }
        Some(_) => return refuse(405, "BadRequest", None),
        None => {}
    }
    if (&method, path.as_str()) != (&Method::GET, "/v1.0/devices") {
        return refuse(400, "BadRequest", None);
    }
    let Some(found) = find(&shared, request.uri().query().unwrap_or("")) else {
        return refuse(400, "Request_UnsupportedQuery", None);
    };
    reply(&shared, "devices", &found, fault.as_ref())
}

fn reply(shared: &Shared, kind: &str, found: &[Value], fault: Option<&Fault>) -> Response {
    let context = format!("{}/v1.0/$metadata#{kind}", shared.origin);
    json_answer(json!({ "@odata.context": context, "value": found }).to_string(), fault)
}

fn json_answer(mut text: String, fault: Option<&Fault>) -> Response {
    if matches!(fault, Some(Fault::Cut)) {
        text.truncate(text.len() / 2);
    }
    (StatusCode::OK, [("content-type", "application/json;odata.metadata=minimal")], Body::from(text))
        .into_response()
}

/// How a device is named in a path.
#[derive(Clone, Copy)]
enum Address<'a> {
    /// By the id of the device.
    Device(&'a str),
    /// By the id of its object.
    Object(&'a str),
}

impl Address<'_> {
    fn find(self, shared: &Shared) -> Option<Value> {
        let (property, wanted) = match self {
            Self::Device(id) => ("deviceId", id),
            Self::Object(id) => ("id", id),
        };
        let is =
            |value: &&Value| value[property].as_str().is_some_and(|has| has.eq_ignore_ascii_case(wanted));
        shared.devices.lock().expect("nobody panicked").iter().find(is).cloned()
    }
}

/// The device that a path names, and what follows on it.
fn address(path: &str) -> Option<(Address<'_>, &str)> {
    let rest = path.strip_prefix("/v1.0/devices")?;
    if let Some(device) = rest.strip_prefix("(deviceId='") {
        return device.split_once("')").map(|(id, rest)| (Address::Device(id), rest));
    }
    let object = rest.strip_prefix('/')?;
    let (id, _) = object.split_once('/')?;
    Some((Address::Object(id), object.get(id.len()..)?))
}

/// Strict: a selection and nothing else, or all that there is.
fn one(shared: &Shared, device: Address<'_>, query: &str, fault: Option<&Fault>) -> Response {
    let query: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let select = match query.as_slice() {
        [] => None,
        [(name, list)] if name == "$select" => Some(list),
        _ => return refuse(400, "Request_UnsupportedQuery", None),
    };
    let Some(found) = device.find(shared) else { return refuse(404, "Request_ResourceNotFound", None) };
    let mut found = select.map_or_else(|| found.clone(), |list| chosen(&found, list));
    found["@odata.context"] = json!(format!("{}/v1.0/$metadata#devices/$entity", shared.origin));
    json_answer(found.to_string(), fault)
}

/// What is selected of a device.
fn chosen(device: &Value, select: &str) -> Value {
    let names: Vec<&str> = select.split(',').collect();
    let all = device.as_object().into_iter().flatten();
    let named = all.filter(|(name, _)| names.contains(&name.as_str()));
    Value::Object(named.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Strict: one list of 1 to 20 GUIDs. Groups that nobody knows are left out, as Graph does.
async fn check_member_groups(
    shared: &Shared,
    device: Address<'_>,
    request: Request,
    fault: Option<&Fault>,
) -> Response {
    let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.expect("a small body");
    let asked: Option<Value> = serde_json::from_slice(&body).ok();
    let ids = asked
        .as_ref()
        .and_then(|asked| asked["groupIds"].as_array())
        .filter(|_| asked.as_ref().and_then(Value::as_object).is_some_and(|object| object.len() == 1));
    let ids: Option<Vec<&str>> = ids.and_then(|ids| ids.iter().map(Value::as_str).collect());
    let Some(ids) = ids.filter(|ids| (1..=20).contains(&ids.len())) else {
        return refuse(400, "Request_BadRequest", None);
    };
    let Some(found) = device.find(shared) else { return refuse(404, "Request_ResourceNotFound", None) };
    let member = |id: &&str| {
        let groups = found["transitiveMemberOf"].as_array().into_iter().flatten();
        groups.filter_map(|group| group["id"].as_str()).any(|has| has.eq_ignore_ascii_case(id))
    };
    let told: Vec<Value> = ids.into_iter().filter(member).map(|id| json!(id.to_ascii_uppercase())).collect();
    reply(shared, "Collection(Edm.String)", &told, fault)
}

/// Strict: exactly a filter of one equality, a selection and a bound.
fn find(shared: &Shared, query: &str) -> Option<Vec<Value>> {
    let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    if query.len() != 3 {
        return None;
    }
    let top: usize = query.get("$top")?.parse().ok().filter(|top| (1..=999).contains(top))?;
    let (property, text) = query.get("$filter")?.split_once(" eq ")?;
    let text = text.strip_prefix('\'')?.strip_suffix('\'')?;
    // A quote within is doubled; a single one would end the text.
    if text.replace("''", "").contains('\'') || !["deviceId", "displayName"].contains(&property) {
        return None;
    }
    let wanted = text.replace("''", "'");
    let select = query.get("$select")?;
    let fits =
        |device: &&Value| device[property].as_str().is_some_and(|has| has.eq_ignore_ascii_case(&wanted));
    let devices = shared.devices.lock().expect("nobody panicked");
    Some(devices.iter().filter(fits).take(top).map(|device| chosen(device, select)).collect())
}
