//! What a vault holds.

use std::collections::{BTreeMap, HashMap};

use axum::http::StatusCode;
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use serde_json::{Map, Value, json};

use super::Refusal;

/// The most items on a page of a list.
const PAGE: usize = 25;
/// The most bytes in a value.
const VALUE_BYTES: usize = 25_600;
/// The most tags, and characters in a tag's name and value.
const TAGS: (usize, usize) = (15, 256);
/// How long what was deleted can be recovered.
const RECOVERABLE_S: u64 = 90 * 86_400;

#[derive(Debug, Default)]
pub(super) struct Secrets {
    live: BTreeMap<String, Secret>,
    deleted: BTreeMap<String, (Secret, u64)>,
}

/// Versions by their ids, which are random: so is the order of a list.
#[derive(Debug, Default)]
struct Secret {
    versions: BTreeMap<String, Version>,
    current: String,
}

#[derive(Debug, Clone)]
struct Version {
    value: String,
    content_type: Option<String>,
    tags: BTreeMap<String, String>,
    enabled: bool,
    created: u64,
    updated: u64,
}

fn members(body: &Value, known: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let body = body.as_object().ok_or_else(|| Refusal::bad("the body must be an object"))?;
    match body.keys().find(|name| !known.contains(&name.as_str())) {
        Some(strange) => Err(Refusal::bad(format!("Unrecognized member {strange}"))),
        None => Ok(body.clone()),
    }
}

fn tags(given: Option<&Value>) -> Result<Option<BTreeMap<String, String>>, Refusal> {
    let Some(given) = given.filter(|given| !given.is_null()) else { return Ok(None) };
    let given = given.as_object().ok_or_else(|| Refusal::bad("tags must be an object"))?;
    let (most, chars) = TAGS;
    if given.len() > most {
        return Err(Refusal::bad(format!("more than {most} tags")));
    }
    let tag = |(name, value): (&String, &Value)| {
        let value = value.as_str().ok_or_else(|| Refusal::bad("a tag must be text"))?;
        if name.chars().count() > chars || value.chars().count() > chars {
            return Err(Refusal::bad(format!("a tag of more than {chars} characters")));
        }
        Ok((name.clone(), value.to_owned()))
    };
    given.iter().map(tag).collect::<Result<_, _>>().map(Some)
}

fn enabled(attributes: Option<&Value>) -> Option<bool> {
    attributes.and_then(|attributes| attributes["enabled"].as_bool())
}

fn bundle(origin: &str, name: &str, id: Option<&str>, version: &Version, with_value: bool) -> Value {
    let id =
        id.map_or_else(|| format!("{origin}/secrets/{name}"), |id| format!("{origin}/secrets/{name}/{id}"));
    let Version { value, content_type, tags, enabled, created, updated } = version;
    let mut told = json!({
        "id": id,
        "attributes": {
            "enabled": enabled, "created": created, "updated": updated,
            "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
        },
        "tags": tags,
    });
    if let Some(told) = told.as_object_mut() {
        if let Some(kind) = content_type {
            told.insert("contentType".to_owned(), json!(kind));
        }
        if with_value {
            told.insert("value".to_owned(), json!(value));
        }
    }
    told
}

/// A page of a list. The next one is asked for under an address of the vault's choice.
fn page(mut all: Vec<Value>, at: &str, query: &HashMap<String, String>) -> Result<Value, Refusal> {
    let number = |name: &str, otherwise: usize| {
        query.get(name).map_or(Ok(otherwise), |text| text.parse().map_err(|_| Refusal::bad(name)))
    };
    let (skip, most) = (number("$skiptoken", 0)?, number("maxresults", PAGE)?);
    if !(1..=PAGE).contains(&most) {
        return Err(Refusal::bad("maxresults must be 1 to 25"));
    }
    let rest = all.split_off(skip.min(all.len()));
    let more = rest.len() > most;
    let next = more.then(|| format!("{at}?api-version=7.5&$skiptoken={}&maxresults={most}", skip + most));
    Ok(json!({ "value": rest.into_iter().take(most).collect::<Vec<_>>(), "nextLink": next }))
}

impl Secrets {
    fn secret(&self, name: &str) -> Result<&Secret, Refusal> {
        self.live.get(name).ok_or_else(|| Refusal::not_found(name))
    }

    pub(super) fn set(&mut self, origin: &str, name: &str, body: &Value, now: u64) -> Result<Value, Refusal> {
        let named = (1..=127).contains(&name.len())
            && name.bytes().all(|one| one.is_ascii_alphanumeric() || one == b'-');
        if !named {
            return Err(Refusal::bad("The request URI contains an invalid name"));
        }
        let body = members(body, &["value", "tags", "contentType", "attributes"])?;
        let value =
            body.get("value").and_then(Value::as_str).ok_or_else(|| Refusal::bad("value is missing"))?;
        if value.len() > VALUE_BYTES {
            return Err(Refusal::bad("The value is too long"));
        }
        if self.deleted.contains_key(name) {
            let message = format!("Secret {name} is currently in a deleted but recoverable state");
            return Err(Refusal(
                StatusCode::CONFLICT,
                "Conflict",
                Some("ObjectIsDeletedButRecoverable"),
                message,
            ));
        }
        let version = Version {
            value: value.to_owned(),
            content_type: body.get("contentType").and_then(Value::as_str).map(str::to_owned),
            tags: tags(body.get("tags"))?.unwrap_or_default(),
            enabled: enabled(body.get("attributes")).unwrap_or(true),
            created: now,
            updated: now,
        };
        let entropy: &dyn Entropy = &SystemEntropy;
        let id = format!("{:032x}", u128::from_be_bytes(entropy.bytes()));
        let told = bundle(origin, name, Some(&id), &version, true);
        let secret = self.live.entry(name.to_owned()).or_default();
        secret.versions.insert(id.clone(), version);
        secret.current = id;
        Ok(told)
    }

    pub(super) fn get(&self, origin: &str, name: &str, id: Option<&str>) -> Result<Value, Refusal> {
        let secret = self.secret(name)?;
        let id = id.unwrap_or(&secret.current);
        let version = secret.versions.get(id).ok_or_else(|| Refusal::not_found(name))?;
        if !version.enabled {
            let message = "Operation get is not allowed on a disabled secret.".to_owned();
            return Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", Some("SecretDisabled"), message));
        }
        Ok(bundle(origin, name, Some(id), version, true))
    }

    pub(super) fn list(&self, origin: &str, query: &HashMap<String, String>) -> Result<Value, Refusal> {
        let current = |(name, secret): (&String, &Secret)| {
            secret.versions.get(&secret.current).map(|version| bundle(origin, name, None, version, false))
        };
        page(self.live.iter().filter_map(current).collect(), &format!("{origin}/secrets"), query)
    }

    pub(super) fn list_versions(
        &self,
        origin: &str,
        name: &str,
        query: &HashMap<String, String>,
    ) -> Result<Value, Refusal> {
        let versions = self.secret(name)?.versions.iter();
        let all = versions.map(|(id, version)| bundle(origin, name, Some(id), version, false)).collect();
        page(all, &format!("{origin}/secrets/{name}/versions"), query)
    }

    pub(super) fn update(
        &mut self,
        origin: &str,
        name: &str,
        id: &str,
        body: &Value,
        now: u64,
    ) -> Result<Value, Refusal> {
        let body = members(body, &["tags", "contentType", "attributes"])?;
        let secret = self.live.get_mut(name).ok_or_else(|| Refusal::not_found(name))?;
        let version = secret.versions.get_mut(id).ok_or_else(|| Refusal::not_found(name))?;
        if let Some(tags) = tags(body.get("tags"))? {
            version.tags = tags;
        }
        if let Some(kind) = body.get("contentType").and_then(Value::as_str) {
            version.content_type = Some(kind.to_owned());
        }
        version.enabled = enabled(body.get("attributes")).unwrap_or(version.enabled);
        version.updated = now;
        Ok(bundle(origin, name, Some(id), version, false))
    }

    pub(super) fn delete(&mut self, origin: &str, name: &str, now: u64) -> Result<Value, Refusal> {
        let secret = self.live.remove(name).ok_or_else(|| Refusal::not_found(name))?;
        self.deleted.insert(name.to_owned(), (secret, now));
        self.deleted(origin, name)
    }

    pub(super) fn deleted(&self, origin: &str, name: &str) -> Result<Value, Refusal> {
        let (secret, at) = self.deleted.get(name).ok_or_else(|| Refusal::not_found(name))?;
        let version = secret.versions.get(&secret.current).ok_or_else(|| Refusal::not_found(name))?;
        let mut told = bundle(origin, name, Some(&secret.current), version, false);
        if let Some(told) = told.as_object_mut() {
            told.insert("recoveryId".to_owned(), json!(format!("{origin}/deletedsecrets/{name}")));
            told.insert("deletedDate".to_owned(), json!(at));
            told.insert("scheduledPurgeDate".to_owned(), json!(at + RECOVERABLE_S));
        }
        Ok(told)
    }

    pub(super) fn recover(&mut self, origin: &str, name: &str) -> Result<Value, Refusal> {
        let (secret, _) = self.deleted.remove(name).ok_or_else(|| Refusal::not_found(name))?;
        let current = secret.current.clone();
        self.live.insert(name.to_owned(), secret);
        let version = self.secret(name)?.versions.get(&current).ok_or_else(|| Refusal::not_found(name))?;
        Ok(bundle(origin, name, Some(&current), version, false))
    }

    pub(super) fn purge(&mut self, name: &str) -> Result<(), Refusal> {
        self.deleted.remove(name).map(drop).ok_or_else(|| Refusal::not_found(name))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.live.keys().cloned().collect()
    }

    pub(super) fn versions(&self, name: &str) -> Vec<(String, String, HashMap<String, String>)> {
        let versions = self.live.get(name).into_iter().flat_map(|secret| &secret.versions);
        let told = |(id, version): (&String, &Version)| {
            (id.clone(), version.value.clone(), version.tags.clone().into_iter().collect())
        };
        versions.map(told).collect()
    }

    pub(super) fn retag(&mut self, name: &str, tag: &str, text: &str) {
        for version in self.live.get_mut(name).into_iter().flat_map(|secret| secret.versions.values_mut()) {
            version.tags.insert(tag.to_owned(), text.to_owned());
        }
    }
}
