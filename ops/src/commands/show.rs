//! `keyturn device list` and `device show`: what is known of devices, in words. No password, ever.

mod json;

use keyturn_domain::ids::{DeviceId, VersionId};
use keyturn_domain::lane::{About, Lane, LaneEvent, MintReason, Standing};
use keyturn_domain::policies::Policies;
use keyturn_domain::span::Span;
use keyturn_domain::standing::{self, Cap};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::directory::{Answer, DeviceRecord, Listed};
use keyturn_ports::ledger::{Event, Happening};
use keyturn_ports::{Error, Kind};
use serde::Serialize;
use serde_json::json;

use super::hold::{self, Hold};
use super::{Deployment, dead_letters};
use crate::cli::Output;
use crate::failure::Result;
use crate::output;
use crate::output::say;
use crate::resolve::Named;

/// Records read at once.
const PAGE: usize = 500;
/// Facts of the timeline shown.
const TIMELINE: usize = 20;
/// Facts of the timeline that the last refusal is looked for in.
const LOOKED_THROUGH: usize = 200;

pub(super) async fn list(deployment: &Deployment) -> Result<()> {
    let ledger = deployment.engines.ledger_reader();
    let (mut rows, mut after) = (Vec::new(), None);
    let listed = lists(deployment).await?;
    loop {
        let page = page(deployment, listed, after).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|listed| listed.id);
        for listed in page {
            let lanes = ledger.lanes(listed.id).await?;
            rows.push(describe(listed, &lanes));
        }
        if !full {
            break;
        }
    }
    let cells = rows.iter().map(|row| {
        [row.name.clone(), row.device_id.to_string(), row.enabled.to_owned(), row.password.clone()]
    });
    output::table(deployment.output, ["NAME", "DEVICE", "ENABLED", "PASSWORD"], cells, &rows)
}

/// Whether the directory lists its devices: one elsewhere does once its feed was read.
async fn lists(deployment: &Deployment) -> Result<bool> {
    match deployment.engines.directory().page(None, 1).await {
        Ok(_) => Ok(true),
        Err(error) if deployment.engines.directory_admin().is_some() => Err(error.into()),
        Err(error) => {
            eprintln!("Devices that ever rotated, and no others: {error}");
            Ok(false)
        }
    }
}

/// A page of the directory, or else of the devices that ever rotated.
async fn page(deployment: &Deployment, listed: bool, after: Option<DeviceId>) -> Result<Vec<Listed>> {
    let directory = deployment.engines.directory();
    if listed {
        return Ok(directory.page(after, PAGE).await?);
    }
    let ids = deployment.engines.ledger_reader().devices(after, PAGE).await?;
    let answers = directory.look_up(ids.clone()).await;
    let absent = || Error::new(Kind::Corrupt, "looking a device up", "the directory does not have it once");
    let listed = |(id, answer): (DeviceId, Result<Answer, Error>)| {
        let only = answer.and_then(|answer| match <[DeviceRecord; 1]>::try_from(answer.records) {
            Ok([record]) => Ok(record),
            Err(_) => Err(absent()),
        });
        Listed { id, record: only }
    };
    Ok(ids.into_iter().zip(answers).map(listed).collect())
}

/// A device in the list.
#[derive(Serialize)]
struct Listing {
    device_id: DeviceId,
    name: String,
    enabled: &'static str,
    password: String,
}

fn describe(listed: Listed, lanes: &[Lane]) -> Listing {
    let (name, enabled) = match listed.record {
        Ok(record) => {
            let enabled = if record.account_enabled == Some(true) { "yes" } else { "no" };
            (record.display_name.unwrap_or_default(), enabled)
        }
        Err(_) => ("(unreadable record)".to_owned(), "?"),
    };
    Listing { device_id: listed.id, name, enabled, password: state(lanes) }
}

/// All that is told of a device.
struct Page<'a> {
    named: &'a Named,
    lanes: &'a [Lane],
    /// Newest first, more of it than is shown.
    timeline: &'a [Event],
    letters: Option<dead_letters::OfDevice>,
    hold: Option<Hold>,
}

pub(super) async fn one(deployment: &Deployment, named: &Named) -> Result<()> {
    let (engines, now) = (&deployment.engines, deployment.engines.clock().now());
    let ledger = engines.ledger_reader();
    let lanes = ledger.lanes(named.id).await?;
    let mut timeline = ledger.timeline(named.id, LOOKED_THROUGH).await?;
    let letters = dead_letters::of_device(engines, named.id).await?;
    let hold = hold::of(engines, named.id, &lanes).await?;
    let page = Page { named, lanes: &lanes, timeline: &timeline, letters, hold };
    if deployment.output == Output::Json {
        return output::json(&json::page(&page, &deployment.config.policies, now)?);
    }
    let Page { letters, hold, .. } = page;
    say!("{}", named.title());
    say!("  {}", about(named.record.as_ref()));
    summary(deployment, named, &lanes, &timeline);
    if let Some(hold) = hold {
        say!("  held by an operator {}", output::printable(hold.told()));
    }
    if let Some(letters) = letters {
        let least = if letters.complete { "" } else { "at least " };
        let last = output::ago(letters.last_died_ms, now);
        say!(
            "  dead letters: {least}{}, the last {last} ago; see `keyturn dead-letters list --each --where device:{}`",
            letters.count,
            named.id
        );
        for letter in &letters.newest {
            say!("    {}", output::printable(letter.told(now)));
        }
    }
    for lane in &lanes {
        tell_lane(deployment, lane, &lanes, now);
    }
    timeline.truncate(TIMELINE);
    for event in &timeline {
        say!("  {}  {}", output::when(event.at), output::printable(tell(event)));
    }
    Ok(())
}

/// A lane, the versions that may be in use, and what keeps it from another one now.
fn tell_lane(deployment: &Deployment, lane: &Lane, lanes: &[Lane], now: UnixMillis) {
    let open = lane.is_open(lanes, &deployment.config.policies.default_policy().rotation, now);
    let closed = if open { "" } else { ", closed" };
    let About { account_name, host, serial, .. } = &lane.about;
    say!("  lane {}{closed}: account {account_name} on host {host}, serial {serial}", lane.key.id());
    for candidate in lane.candidates() {
        say!("    version {}  {}", candidate.version, standing(candidate.standing));
    }
    if let Some(at) = lane.restored {
        let at = output::when(at);
        say!("    the ledger was restored at {at}, other versions may be in use: `device history`");
    }
    if let Some(asked) = lane.forced {
        say!("    a rotation was asked for at {}", output::when(asked));
    }
    if let Some(until) = lane.held_until.filter(|until| *until > now) {
        say!("    held until {} because its operating system refused passwords", output::when(until));
    }
    if let Some(until) = lane.on_hold.filter(|until| *until > now) {
        say!("    held by an operator {}", hold::until(until));
    }
}

/// How it stands, when it was heard of, when the next password is due, and why it was refused last.
fn summary(deployment: &Deployment, named: &Named, lanes: &[Lane], timeline: &[Event]) {
    let (now, policies) = (deployment.engines.clock().now(), &deployment.config.policies);
    let standing = standing::standing(named.record.is_some(), lanes, policies, now);
    say!("  state: {}", standing.words());
    match last_heard(lanes) {
        Some(at) => say!("  last heard {}, {} ago", output::when(at), output::ago(at, now)),
        None => match timeline.first() {
            Some(event) => {
                say!("  last heard {}, and nothing of what it said was ever taken", output::when(event.at));
            }
            None => say!("  never heard of"),
        },
    }
    if let Some(policy) = policy(lanes, policies) {
        say!("  policy: {policy}");
    }
    match standing::next_due(lanes, policies) {
        Some(due) if due <= now => say!("  the next password is due since {}", output::when(due)),
        Some(due) => say!("  the next password is due {}", output::when(due)),
        None => say!("  the next password is due when it checks in"),
    }
    if let Some(cap) = standing::capped(lanes, policies, now) {
        say!("  {}", limit(&cap));
    }
    if let Some(event) = last_refusal(timeline) {
        say!("  last refusal {}: {}", output::when(event.at), output::printable(tell(event)));
    }
}

/// When the device was last heard.
fn last_heard(lanes: &[Lane]) -> Option<UnixMillis> {
    lanes.iter().filter_map(|lane| lane.last).map(|last| last.received).max()
}

/// The policy of the lane that was heard last.
fn policy<'a>(lanes: &[Lane], policies: &'a Policies) -> Option<&'a str> {
    let lane = lanes.iter().max_by_key(|lane| lane.last.map(|last| last.received))?;
    Some(policies.group_of(lane).map_or("default", |group| &group.name))
}

/// The newest refusal of a message, or of a password by the device's operating system.
fn last_refusal(timeline: &[Event]) -> Option<&Event> {
    timeline.iter().find(|event| {
        let refused = matches!(&event.what, Happening::Lane { event: LaneEvent::PasswordRefused { .. }, .. });
        refused || matches!(event.what, Happening::RequestRefused { .. })
    })
}

/// The cap in words, and that nothing lifts it.
pub(super) fn limit(cap: &Cap) -> String {
    format!(
        "no new password before {}: it has had {} in {}, as many as rotation.versions_per_day allows; a release does \
         not lift that",
        output::when(cap.until),
        cap.versions,
        Span(cap.window)
    )
}

/// Every version ever made for a device, newest first, and what the ledger says of it.
pub(super) async fn history(deployment: &Deployment, named: &Named) -> Result<()> {
    deployment.keys.unlock().await?;
    let vault = deployment.engines.vault(|| deployment.keys.vault())?;
    let lanes = deployment.engines.ledger_reader().lanes(named.id).await?;
    let word = |version: VersionId| {
        let candidate =
            lanes.iter().flat_map(Lane::candidates).find(|candidate| candidate.version == version);
        candidate.map_or_else(|| "older".to_owned(), |candidate| standing(candidate.standing))
    };
    let entries = vault.history(named.id).await?;
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            [
                entry.version.to_string(),
                output::when(entry.created),
                entry.lane.to_string(),
                word(entry.version),
            ]
        })
        .collect();
    let value: Vec<_> = rows
        .iter()
        .map(|[version, made, lane, state]| json!({ "version": version, "made": made, "lane": lane, "state": state }))
        .collect();
    output::table(deployment.output, ["VERSION", "MADE", "LANE", "STATE"], rows, &value)
}

fn about(record: Option<&DeviceRecord>) -> String {
    let Some(record) = record else { return "not in the directory".to_owned() };
    let enabled =
        if record.account_enabled == Some(true) { "enabled" } else { "disabled: it may not rotate" };
    format!("{enabled}, joined as {}", record.trust_type.as_deref().unwrap_or("nothing"))
}

/// The state of a device's password in a few words.
pub(crate) fn state(lanes: &[Lane]) -> String {
    let open = || lanes.iter().filter(|lane| lane.closed.is_none());
    let latest = |at: fn(&Lane) -> Option<UnixMillis>| open().filter_map(at).max();
    let confirmed = latest(|lane| lane.confirmed.map(|dated| dated.at));
    let pending = latest(|lane| lane.outstanding.map(|dated| dated.at));
    match (confirmed, pending) {
        (Some(at), None) => format!("confirmed {}", output::when(at)),
        (Some(_), Some(at)) => format!("confirmed, the next pending since {}", output::when(at)),
        (None, Some(at)) => format!("pending since {}", output::when(at)),
        (None, None) => "none yet".to_owned(),
    }
}

fn standing(standing: Standing) -> String {
    match standing {
        Standing::Confirmed { at } => format!("confirmed {}", output::when(at)),
        Standing::Pending { at } => format!("pending since {}", output::when(at)),
        Standing::InDoubt => "in doubt".to_owned(),
    }
}

fn tell(event: &Event) -> String {
    match &event.what {
        Happening::Lane { event: LaneEvent::LaneOpened, .. } => "first heard of".to_owned(),
        Happening::Lane { event: LaneEvent::LaneRestored, .. } => {
            "known again after the ledger was restored".to_owned()
        }
        Happening::Lane { event: LaneEvent::PasswordMinted { version, reason }, .. } => {
            let why = match reason {
                MintReason::First => "first",
                MintReason::Due => "due",
                MintReason::Forced => "forced",
                MintReason::AccountMissing => "account missing",
            };
            format!("password {version} made ({why}), in the vault and on its way")
        }
        Happening::Lane { event: LaneEvent::PasswordConfirmed { version }, .. } => {
            format!("the device confirmed password {version}")
        }
        Happening::Lane { event: LaneEvent::PasswordRefused { version }, .. } => {
            format!("the device's operating system refused password {version}")
        }
        Happening::Lane { event: LaneEvent::AlarmRaised { alarm }, .. } => {
            format!("alarm: {}", alarm.as_str())
        }
        Happening::RequestRefused { code } => {
            format!("a message was refused: {code}, see docs/errors/{code}.md")
        }
        Happening::Client { result, message } => format!("the device says: {result} {message}"),
    }
}
