//! What a finding means: is this message to be decided on, refused, asked about again, or thrown out?

use std::collections::BTreeSet;
use std::time::Duration;

use keyturn_domain::ids::GroupId;
use keyturn_domain::lane::{LaneKey, Order};
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::handler::Handled;
use keyturn_ports::queue::DeadReason;
use keyturn_schemas::envelope::{Envelope, Found, TraceParent};
use keyturn_schemas::finding::Check;
use keyturn_schemas::message::{Claims, SignedMessage, VerifiedMessage};
use keyturn_schemas::stamp::{Freshness, StampError};

use crate::handler::Keys;

/// A message whose seals hold, with what is to become of it.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) message: VerifiedMessage,
    pub(crate) lane: LaneKey,
    pub(crate) directory_answered: UnixMillis,
    /// The device's groups, unless the directory did not vouch for it.
    pub(crate) groups: Option<BTreeSet<GroupId>>,
    pub(crate) trace: TraceParent,
    pub(crate) verdict: Verdict,
    /// The message as it came, for asking the directory again.
    pub(crate) envelope: Envelope<Found>,
}

/// What is to become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Decide on it, in this place of the order.
    Decide(Order),
    /// Note it down; it asks for nothing.
    Note,
    /// Refuse it, in the way that fits the check it failed.
    Refuse(Check),
    /// The finding is too old to act on.
    Revalidate,
}

/// Judges one message of the findings queue.
///
/// - Anything whose seals do not hold was written by somebody else and goes to the dead letters, untouched.
/// - A report is taken whatever the directory says today, as long as its signature and its times hold: it tells
///   what has happened already, and it can only speak for a lane with its own key.
/// - A request or event that failed a check is refused. One whose finding is older than `max_age` is looked at
///   again first.
pub(crate) fn judge(
    envelope: Envelope<Found>,
    keys: &Keys,
    freshness: Freshness,
    max_age: Duration,
    now: UnixMillis,
) -> Result<Judged, Handled> {
    let untrusted = |why: &str| Handled::dead(DeadReason::Untrusted, why);
    let message = SignedMessage::parse(envelope.data.jws.clone())
        .map_err(|error| Handled::dead(DeadReason::Undecodable, format!("the device message: {error}")))?;
    let (rid, key) = (message.rid(), message.certificate().key_hash());
    let finding = &envelope.data.finding;
    let facts =
        keys.findings.open(finding, rid, key).ok_or_else(|| untrusted("the finding's seal does not hold"))?;
    if rid != envelope.id || message.claims().common().device_id != envelope.subject {
        return Err(untrusted("the envelope names another message or device"));
    }
    let message = message.verify().map_err(|error| untrusted(&error.to_string()))?;
    let order = order(&message, &envelope.data, keys, freshness, now);
    let verdict = match (message.message().claims(), facts.failed, order) {
        (Claims::Report(_), _, Ok(order)) => Verdict::Decide(order),
        (_, Some(check), _) => Verdict::Refuse(check),
        (_, None, Err(StampError::Forged)) => return Err(untrusted("the stamp's seal does not hold")),
        (_, None, Err(StampError::Late | StampError::Future)) => Verdict::Refuse(Check::Freshness),
        _ if now.since(facts.directory_ms) > max_age => Verdict::Revalidate,
        (Claims::Event(_), None, Ok(_)) => Verdict::Note,
        (_, None, Ok(order)) => Verdict::Decide(order),
    };
    let (lane, trace) = (message.lane(), envelope.traceparent);
    let groups = facts.failed.is_none().then_some(facts.groups);
    Ok(Judged { message, lane, directory_answered: facts.directory_ms, groups, trace, verdict, envelope })
}

fn order(
    message: &VerifiedMessage,
    found: &Found,
    keys: &Keys,
    freshness: Freshness,
    now: UnixMillis,
) -> Result<Order, StampError> {
    let nonce = message.message().claims().common().nonce;
    if !keys.nonces.holds(&nonce) {
        return Err(StampError::Forged);
    }
    keys.stamps.check(&found.stamp, message.message().rid(), nonce.issued(), freshness, now)
}
