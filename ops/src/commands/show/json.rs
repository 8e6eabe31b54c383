//! What `device show` tells, for programs: all that it has words for, with keys in snake case.

use keyturn_domain::lane::{Lane, LaneEvent};
use keyturn_domain::policies::Policies;
use keyturn_domain::standing;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::directory::DeviceRecord;
use keyturn_ports::ledger::{Event, Happening};
use serde_json::{Value, json};

use super::{Page, TIMELINE};
use crate::commands::hold::FOR_GOOD;
use crate::failure::{OrFail as _, Result};

pub(super) fn page(page: &Page<'_>, policies: &Policies, now: UnixMillis) -> Result<Value> {
    let Page { named, lanes, timeline, letters, hold } = page;
    let cap = standing::capped(lanes, policies, now);
    let lanes_of = lanes.iter().map(|one| lane(one, page, policies, now)).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "device_id": named.id,
        "name": named.record.as_ref().and_then(|record| record.display_name.as_ref()),
        "device": named.record.as_ref().map(record),
        "state": standing::standing(named.record.is_some(), lanes, policies, now),
        "last_heard_ms": super::last_heard(lanes),
        "policy": super::policy(lanes, policies),
        "due_ms": standing::next_due(lanes, policies),
        "capped_until_ms": cap.map(|cap| cap.until),
        "cap": cap.map(|cap| json!({
            "versions": cap.versions, "window_seconds": cap.window.as_secs(), "until_ms": cap.until,
        })),
        "hold": hold,
        "last_refusal": super::last_refusal(timeline).map(refusal),
        "dead_letters": letters,
        "lanes": lanes_of,
        "timeline": timeline.iter().take(TIMELINE).collect::<Vec<_>>(),
    }))
}

/// The directory's record, in our own words instead of Graph's.
fn record(record: &DeviceRecord) -> Value {
    let DeviceRecord { device_id, display_name, account_enabled, trust_type, operating_system, .. } = record;
    let groups = record.groups.as_ref().map(|groups| groups.iter().map(|group| group.id).collect::<Vec<_>>());
    json!({
        "device_id": device_id, "display_name": display_name, "account_enabled": account_enabled == &Some(true),
        "trust_type": trust_type, "operating_system": operating_system, "groups": groups,
        "registered_keys": record.alternative_security_ids.len(),
    })
}

/// A lane as the ledger has it, and what that means now.
fn lane(lane: &Lane, page: &Page<'_>, policies: &Policies, now: UnixMillis) -> Result<Value> {
    let one = std::slice::from_ref(lane);
    let mut value = serde_json::to_value(lane).or_defect()?;
    let Some(fields) = value.as_object_mut() else { return Ok(value) };
    let rest = json!({
        "id": lane.key.id(),
        "open": lane.is_open(page.lanes, &policies.default_policy().rotation, now),
        "state": standing::standing(page.named.record.is_some(), one, policies, now),
        "policy": super::policy(one, policies),
        "due_ms": standing::next_due(one, policies),
        "candidates": lane.candidates(),
        "on_hold": lane.on_hold.map(|until| json!({ "until_ms": (until < FOR_GOOD).then_some(until) })),
    });
    if let Value::Object(rest) = rest {
        fields.extend(rest);
    }
    Ok(value)
}

fn refusal(event: &Event) -> Value {
    let (code, version) = match &event.what {
        Happening::RequestRefused { code } => (Some(code), None),
        Happening::Lane { event: LaneEvent::PasswordRefused { version }, .. } => (None, Some(version)),
        _ => (None, None),
    };
    json!({ "at_ms": event.at, "code": code, "password_refused": version, "request_id": event.request })
}
