//! What one message does to its lane.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{About, Alarm, Dated, Hints, Lane, LaneEvent, LaneKey, Order, RotationPolicy};
use crate::ids::{GroupId, VersionId};
use crate::time::UnixMillis;

/// A message whose signature and freshness hold, reduced to what a decision needs.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The lane it speaks for.
    pub key: LaneKey,
    /// What it asks.
    pub kind: HeardKind,
    /// When it was said.
    pub order: Order,
    /// What the device says about its account.
    pub state: Reported,
    /// What the device demands of passwords.
    pub hints: Hints,
    /// What the device says about itself.
    pub about: About,
    /// The groups of the directory it is in, unless the directory did not vouch for it.
    pub groups: Option<BTreeSet<GroupId>>,
    /// When the directory vouched for the device.
    pub directory_answered: UnixMillis,
}

/// What a message asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeardKind {
    /// A new password, if one is due. The sender waits this long for an answer.
    Request {
        /// How long.
        wait: Duration,
    },
    /// Nothing: it reports what was done.
    Report,
}

/// A device's account as its journal has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// The version in use, if the device knows.
    pub cur: Option<VersionId>,
    /// Versions that may be in use.
    pub in_doubt: BTreeSet<VersionId>,
    /// Versions the operating system refused.
    pub refused: BTreeSet<VersionId>,
    /// Whether the managed account is missing on the device.
    pub account_missing: bool,
    /// Those of the versions above that the ledger knows to have been made for this lane.
    pub issued: BTreeSet<VersionId>,
    /// Versions that the vault has of this lane and the ledger does not know. Looked for only while the ledger may
    /// have lost some; see [`Lane::restored`].
    pub found: BTreeSet<VersionId>,
}

/// What to do about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The lane as it is now; none when nothing is to be stored.
    pub lane: Option<Lane>,
    /// What to answer.
    pub reply: Reply,
    /// What to write down.
    pub events: Vec<LaneEvent>,
}

/// The answer to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Generate a version, store it, then call [`minted`].
    Mint(MintReason),
    /// Seal this version for the sender, again.
    Reseal(VersionId),
    /// Nothing is due before this instant.
    NotDue(UnixMillis),
    /// Too many versions or refusals; try again at this instant.
    Held(UnixMillis),
    /// The report was taken.
    Recorded,
    /// The message is not newer than what is known; the sender must ask anew.
    Stale,
    /// The message waited longer than its sender; only its report was taken.
    Expired,
    /// The directory must be asked again before this can be decided.
    Revalidate,
    /// A report for a lane that does not exist, or one lane too many.
    Refused,
}

/// Why a version is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MintReason {
    /// The lane has no version yet.
    First,
    /// The confirmed version is old enough.
    Due,
    /// Somebody, or an anomaly, asked for it.
    Forced,
    /// The account does not exist on the device.
    AccountMissing,
}

/// Decides what `heard` does to the lanes of its device.
///
/// - A message for a lane that does not exist opens one, if it is a request, the directory vouched for the
///   device after the message came in, and the device has fewer lanes than allowed. A further lane is an alarm.
/// - A message that is not newer than the lane's last changes nothing and is answered `Stale`. A last message
///   that lies in the future is forgotten, and the lane widens.
/// - A lane of a ledger that was restored from a backup takes in what the vault has of it and the ledger lost.
///   The first report that names a known current version ends that, and with it what the backup took for
///   outstanding: the device is past it, and says so itself if it holds it in doubt.
/// - The report in a newer message is applied first, whatever else becomes of it: a known current version is
///   confirmed and what the device holds in doubt replaces what the ledger held. An unknown one only ever widens:
///   nothing is forgotten, and if the lane had been confirmed before, an alarm and a rotation follow. They follow
///   as well when the device is back at a version it had left behind.
/// - An outstanding version that was refused is outstanding no more but stays in doubt. Several refusals in a
///   day hold the lane, until the day is over or the device demands something else of passwords.
/// - An operator's hold is ended by an operator or by its end, and by nothing that a device says. A held lane gets
///   what is outstanding again, and nothing new.
/// - A request that outlived its sender's patience gets no version. Otherwise an outstanding version is sent
///   again; else one is minted if it is the first, forced, due, or the account is missing, within the day's limit.
///
/// `restored` is when the ledger was last found to be restored, if ever: a lane that it does not know may be one that
/// it lost.
pub fn decide(
    lanes: &[Lane],
    restored: Option<UnixMillis>,
    heard: &Heard,
    policy: &RotationPolicy,
    now: UnixMillis,
) -> Decision {
    let mut events = Vec::new();
    let mut lane = match lanes.iter().find(|lane| lane.key == heard.key) {
        Some(lane) => lane.clone(),
        None => match open(lanes, heard, policy, now, &mut events) {
            Ok(mut lane) => {
                if let Some(at) = restored {
                    lane.restore(at);
                }
                lane
            }
            Err(reply) => return Decision { lane: None, reply, events: Vec::new() },
        },
    };
    forget_future(&mut lane, policy, now, &mut events);
    if !lane.is_news(heard.order) {
        return Decision { lane: None, reply: Reply::Stale, events: Vec::new() };
    }
    apply_report(&mut lane, heard, policy, now, &mut events);
    let reply = match heard.kind {
        HeardKind::Report => Reply::Recorded,
        HeardKind::Request { wait } => answer(&lane, lanes, heard, wait, policy, now),
    };
    Decision { lane: Some(lane), reply, events }
}

/// Records that `version` was made for `lane` and is in the vault.
pub fn minted(
    lane: &mut Lane,
    version: VersionId,
    reason: MintReason,
    policy: &RotationPolicy,
    now: UnixMillis,
) -> LaneEvent {
    lane.outstanding = Some(Dated { version, at: now });
    lane.minted.retain(|at| now.since(*at) < policy.version_window);
    lane.minted.push(now);
    LaneEvent::PasswordMinted { version, reason }
}

fn open(
    lanes: &[Lane],
    heard: &Heard,
    policy: &RotationPolicy,
    now: UnixMillis,
    events: &mut Vec<LaneEvent>,
) -> Result<Lane, Reply> {
    let open = lanes.iter().filter(|lane| lane.is_open(lanes, policy, now)).count();
    if heard.kind == HeardKind::Report || open >= policy.lanes_per_device {
        return Err(Reply::Refused);
    }
    if heard.directory_answered < heard.order.received {
        return Err(Reply::Revalidate);
    }
    events.push(LaneEvent::LaneOpened);
    let others = || lanes.iter().filter(|lane| lane.is_open(lanes, policy, now));
    if others().any(|lane| lane.key.install != heard.key.install && lane.key.key == heard.key.key) {
        events.push(LaneEvent::AlarmRaised { alarm: Alarm::Clone });
    } else if others().next().is_some() {
        events.push(LaneEvent::AlarmRaised { alarm: Alarm::SecondLane });
    }
    Ok(Lane::open(heard.key.clone(), now))
}

fn forget_future(lane: &mut Lane, policy: &RotationPolicy, now: UnixMillis, events: &mut Vec<LaneEvent>) {
    if lane.last.is_some_and(|last| last.received > now.plus(policy.future_skew)) {
        lane.last = None;
        lane.in_doubt.extend(lane.outstanding.map(|dated| dated.version));
        lane.in_doubt.extend(lane.confirmed.map(|dated| dated.version));
        events.push(LaneEvent::AlarmRaised { alarm: Alarm::ClockReset });
    }
}

fn apply_report(
    lane: &mut Lane,
    heard: &Heard,
    policy: &RotationPolicy,
    now: UnixMillis,
    events: &mut Vec<LaneEvent>,
) {
    let state = &heard.state;
    let known = |version: &VersionId| state.issued.contains(version) || state.found.contains(version);
    let in_doubt = || state.in_doubt.iter().filter(|version| known(version)).copied();
    lane.last = Some(heard.order);
    lane.closed = None;
    lane.about = heard.about.clone();
    if let Some(groups) = &heard.groups {
        lane.groups.clone_from(groups);
    }
    lane.find_again(state.found.iter().copied());
    match state.cur.filter(known) {
        Some(cur) => {
            notice_rollback(lane, cur, now, events);
            confirm(lane, cur, heard.order.received, events);
            lane.in_doubt = in_doubt().collect();
            if lane.restored.take().is_some() {
                lane.outstanding = None;
                events.push(LaneEvent::LaneRestored);
            }
        }
        None => widen(lane, state.cur, in_doubt(), now, events),
    }
    if let Some(refused) = lane.outstanding.filter(|dated| state.refused.contains(&dated.version)) {
        refuse(lane, refused.version, policy, now, events);
    }
    lane.refused.retain(|version| lane.in_doubt.contains(version));
    if heard.hints != lane.hints {
        lane.hints = heard.hints;
        lane.held_until = None;
    }
}

/// A device that goes back to a version it had left behind was restored from an image: that password is old.
fn notice_rollback(lane: &mut Lane, cur: VersionId, now: UnixMillis, events: &mut Vec<LaneEvent>) {
    // Of a restored ledger it is the server that went back, and what it took for current says nothing.
    let left_behind = lane.restored.is_none() && lane.confirmed.is_some_and(|dated| dated.version != cur);
    let expected = lane.outstanding.is_some_and(|dated| dated.version == cur) || lane.in_doubt.contains(&cur);
    if left_behind && !expected {
        lane.forced.get_or_insert(now);
        events.push(LaneEvent::AlarmRaised { alarm: Alarm::RolledBack });
    }
}

fn confirm(lane: &mut Lane, cur: VersionId, at: UnixMillis, events: &mut Vec<LaneEvent>) {
    let outstanding = lane.outstanding.filter(|dated| dated.version == cur);
    if lane.confirmed.is_none_or(|dated| dated.version != cur) {
        lane.confirmed = Some(Dated { version: cur, at });
        events.push(LaneEvent::PasswordConfirmed { version: cur });
    }
    if let Some(made) = outstanding {
        lane.outstanding = None;
        if lane.forced.is_some_and(|asked| made.at >= asked) {
            lane.forced = None;
        }
    }
}

fn widen(
    lane: &mut Lane,
    claimed: Option<VersionId>,
    reported: impl Iterator<Item = VersionId>,
    now: UnixMillis,
    events: &mut Vec<LaneEvent>,
) {
    lane.in_doubt.extend(reported);
    // A device that has never confirmed anything has nothing to know yet; anything else has lost its memory.
    if lane.confirmed.is_some() || claimed.is_some() {
        lane.in_doubt.extend(lane.outstanding.map(|dated| dated.version));
        lane.forced.get_or_insert(now);
        events.push(LaneEvent::AlarmRaised { alarm: Alarm::UnknownCurrent });
    }
}

fn refuse(
    lane: &mut Lane,
    version: VersionId,
    policy: &RotationPolicy,
    now: UnixMillis,
    events: &mut Vec<LaneEvent>,
) {
    lane.outstanding = None;
    lane.in_doubt.insert(version);
    lane.refused.insert(version);
    lane.refusals.retain(|at| now.since(*at) < policy.hold_window);
    lane.refusals.push(now);
    events.push(LaneEvent::PasswordRefused { version });
    if lane.refusals.len() >= policy.refusals_to_hold {
        lane.refusals.clear();
        lane.held_until = Some(now.plus(policy.hold_window));
        events.push(LaneEvent::AlarmRaised { alarm: Alarm::Held });
    }
}

fn answer(
    lane: &Lane,
    lanes: &[Lane],
    heard: &Heard,
    wait: Duration,
    policy: &RotationPolicy,
    now: UnixMillis,
) -> Reply {
    if now > heard.order.received.plus(wait.min(policy.request_max_age)) {
        return Reply::Expired;
    }
    if let Some(outstanding) = lane.outstanding {
        return Reply::Reseal(outstanding.version);
    }
    if let Some(until) = lane.held(now) {
        return Reply::Held(until);
    }
    match mint_reason(lane, heard, policy, now) {
        Ok(reason) => capped(lanes, policy, now).map_or(Reply::Mint(reason), Reply::Held),
        Err(due) => Reply::NotDue(due),
    }
}

/// Why a version is to be made now, or when the next one is due.
fn mint_reason(
    lane: &Lane,
    heard: &Heard,
    policy: &RotationPolicy,
    now: UnixMillis,
) -> Result<MintReason, UnixMillis> {
    let due = lane.confirmed.map(|dated| dated.at.plus(policy.update_frequency));
    match due {
        _ if !lane.has_versions() => Ok(MintReason::First),
        _ if lane.forced.is_some() => Ok(MintReason::Forced),
        _ if heard.state.account_missing => Ok(MintReason::AccountMissing),
        Some(due) if due > now => Err(due),
        _ => Ok(MintReason::Due),
    }
}

/// When the next version may be made, if the device has had its share for now: `versions_per_window` of them, over all
/// its lanes, in the last `version_window`. An outstanding version is sent again all the same.
pub fn capped(lanes: &[Lane], policy: &RotationPolicy, now: UnixMillis) -> Option<UnixMillis> {
    let mut recent: Vec<UnixMillis> = lanes
        .iter()
        .flat_map(|lane| &lane.minted)
        .copied()
        .filter(|at| now.since(*at) < policy.version_window)
        .collect();
    recent.sort_unstable();
    // There may be more than the limit allows, where it was lowered: the one that has to be old enough is not the first.
    let over = recent.len().checked_sub(policy.versions_per_window)?;
    recent.get(over).or(recent.last()).map(|last_over| last_over.plus(policy.version_window))
}
