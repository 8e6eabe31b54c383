//! A fake of what is asked of Microsoft Graph: `GET /v1.0/devices` with a filter on `deviceId` or
//! `displayName` (<https://learn.microsoft.com/graph/api/device-list>), and `POST
//! /v1.0/devices(deviceId='…')/checkMemberGroups`
//! (<https://learn.microsoft.com/graph/api/directoryobject-checkmembergroups>). Its feed of changes is in [`delta`].

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "what a test stands on fails by panicking"
)]

mod delta;

use std::collections::{HashMap, VecDeque};
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
        devices.dedup_by_key(|device| device["deviceId"].clone());
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
    let body =
        json!({ "error": { "code": code, "message": "a fake's message", "innerError": {} } }).to_string();
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
    let of_feed = request.uri().path() == "/v1.0/devices/delta";
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
    if let Some(device) = asked_for_groups(request.uri().path()) {
        if *request.method() != Method::POST || request.uri().query().is_some() {
            return refuse(405, "BadRequest", None);
        }
        let device = device.to_owned();
        return check_member_groups(&shared, &device, request, fault.as_ref()).await;
    }
    if (request.method(), request.uri().path()) != (&Method::GET, "/v1.0/devices") {
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

fn asked_for_groups(path: &str) -> Option<&str> {
    path.strip_prefix("/v1.0/devices(deviceId='")?.strip_suffix("')/checkMemberGroups")
}

/// Strict: one list of 1 to 20 GUIDs. Groups that nobody knows are left out, as Graph does.
async fn check_member_groups(
    shared: &Shared,
    device: &str,
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
    let of_device =
        |value: &&Value| value["deviceId"].as_str().is_some_and(|has| has.eq_ignore_ascii_case(device));
    let devices = shared.devices.lock().expect("nobody panicked").clone();
    let Some(found) = devices.iter().find(of_device) else {
        return refuse(404, "Request_ResourceNotFound", None);
    };
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
    let select: Vec<&str> = query.get("$select")?.split(',').collect();
    let fits =
        |device: &&Value| device[property].as_str().is_some_and(|has| has.eq_ignore_ascii_case(&wanted));
    let chosen = |device: &Value| {
        let all = device.as_object().into_iter().flatten();
        let named = all.filter(|(name, _)| select.contains(&name.as_str()));
        Value::Object(named.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
    };
    let devices = shared.devices.lock().expect("nobody panicked");
    Some(devices.iter().filter(fits).take(top).map(chosen).collect())
}
