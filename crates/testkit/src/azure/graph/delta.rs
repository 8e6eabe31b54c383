//! The fake's feed of changes: `GET /v1.0/devices/delta`
//! (<https://learn.microsoft.com/graph/api/device-delta>,
//! <https://learn.microsoft.com/graph/delta-query-overview>).
//!
//! Every token stands for one moment of the directory. A round that goes on from a token tells what differs now: of a
//! changed object its id and the changed properties and no more, which is the least that Graph promises; of a deleted
//! one its id. Tokens that were never given out are 400, expired ones 410 with `syncStateNotFound`. The first object of a
//! page may come again on the next one, as replays do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use serde_json::{Map, Value, json};

/// Objects by their ids, with the selected properties.
type Moment = BTreeMap<String, Map<String, Value>>;

/// The feed.
#[derive(Debug, Default)]
pub(super) struct Delta(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    given: u64,
    page: Option<usize>,
    replays: bool,
    elsewhere: Option<String>,
    select: BTreeSet<String>,
    /// Where a round begins.
    rounds: HashMap<String, Moment>,
    /// What is left of a round, and what its end stands for.
    pages: HashMap<String, (Vec<Value>, Moment)>,
    expired: BTreeSet<String>,
}

/// What is answered.
pub(super) enum Told {
    Page(Value),
    /// No such call.
    Wrong,
    /// The token has expired.
    Expired,
}

impl Delta {
    pub(super) fn page_size(&self, size: usize) {
        self.0.lock().expect("nobody panicked").page = Some(size);
    }

    pub(super) fn replays(&self) {
        self.0.lock().expect("nobody panicked").replays = true;
    }

    pub(super) fn leads_to(&self, elsewhere: Option<String>) {
        self.0.lock().expect("nobody panicked").elsewhere = elsewhere;
    }

    pub(super) fn expire(&self) {
        let mut inner = self.0.lock().expect("nobody panicked");
        let Inner { rounds, pages, expired, .. } = &mut *inner;
        expired.extend(rounds.drain().map(|(token, _)| token));
        expired.extend(pages.drain().map(|(token, _)| token));
    }

    /// Strict: the first call has a selection and nothing else, every later one a token and nothing else.
    pub(super) fn ask(&self, origin: &str, query: &str, devices: &[Value]) -> Told {
        let query: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let [(name, value)] = query.as_slice() else { return Told::Wrong };
        let mut inner = self.0.lock().expect("nobody panicked");
        if inner.expired.contains(value) {
            return Told::Expired;
        }
        let (left, end) = match name.as_str() {
            "$select" => {
                inner.select = value.split(',').map(str::to_owned).collect();
                let now = moment(devices, &inner.select);
                (differences(&Moment::new(), &now), now)
            }
            "$deltatoken" => {
                let Some(then) = inner.rounds.get(value).cloned() else { return Told::Wrong };
                let now = moment(devices, &inner.select);
                (differences(&then, &now), now)
            }
            "$skiptoken" => {
                let Some(page) = inner.pages.get(value).cloned() else { return Told::Wrong };
                page
            }
            _ => return Told::Wrong,
        };
        Told::Page(inner.page(origin, left, end))
    }
}

impl Inner {
    fn page(&mut self, origin: &str, mut left: Vec<Value>, end: Moment) -> Value {
        let size = self.page.unwrap_or(100).min(left.len());
        let mut rest = left.split_off(size);
        self.given += 1;
        let token = format!("t-{}+/=", self.given);
        let base = self.elsewhere.as_deref().unwrap_or(origin);
        let link = |kind: &str| {
            let query =
                url::form_urlencoded::Serializer::new(String::new()).append_pair(kind, &token).finish();
            format!("{base}/v1.0/devices/delta?{query}")
        };
        let context = format!("{origin}/v1.0/$metadata#devices");
        if rest.is_empty() {
            let answer =
                json!({"@odata.context": context, "@odata.deltaLink": link("$deltatoken"), "value": left});
            self.rounds.insert(token, end);
            return answer;
        }
        if self.replays {
            rest.extend(left.first().cloned());
        }
        let answer = json!({"@odata.context": context, "@odata.nextLink": link("$skiptoken"), "value": left});
        self.pages.insert(token, (rest, end));
        answer
    }
}

fn moment(devices: &[Value], select: &BTreeSet<String>) -> Moment {
    let object = |device: &Value| {
        let id = device["id"].as_str().expect("every object has one").to_owned();
        let all = device.as_object().into_iter().flatten();
        let chosen = all.filter(|(name, _)| select.contains(*name));
        (id, chosen.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    devices.iter().map(object).collect()
}

fn differences(then: &Moment, now: &Moment) -> Vec<Value> {
    let mut found = Vec::new();
    for (id, properties) in now {
        let old = then.get(id);
        let new = |(name, value): &(&String, &Value)| old.and_then(|old| old.get(*name)) != Some(*value);
        let mut told: Map<String, Value> =
            properties.iter().filter(new).map(|(name, value)| (name.clone(), value.clone())).collect();
        if old.is_none() || !told.is_empty() {
            told.insert("id".to_owned(), json!(id));
            found.push(Value::Object(told));
        }
    }
    let gone = then.keys().filter(|id| !now.contains_key(*id));
    found.extend(gone.map(|id| json!({"id": id, "@removed": {"reason": "deleted"}})));
    found
}
