//! What the ledger makes of a judged message.

use keyturn_domain::ids::VersionId;
use keyturn_domain::lane::{
    Decision, Heard, HeardKind, Lane, MintReason, Order, Reply, Reported, RotationPolicy, capped, decide,
};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::{Happening, History, Issued, Loaded, Stored, Wanted};
use keyturn_schemas::claims::{Request, State};
use keyturn_schemas::finding::Check;
use keyturn_schemas::message::Claims;
use keyturn_schemas::result::Code;

use crate::judge::{Judged, Verdict};
use crate::tell;

/// What is to be done about a message.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Nothing: it took effect before, and its answer is on its way.
    Nothing,
    /// Send it back to the validator.
    Revalidate,
    /// Answer, and let the ledger forget it: its mark belongs to another message.
    Disown,
    /// Take effect and answer.
    Act(Box<Act>),
}

/// An effect and its answer.
#[derive(Debug)]
pub(crate) struct Act {
    /// The lane as it is to be, and the revision it was decided on.
    pub(crate) lane: Option<Stored<Lane>>,
    /// What happened.
    pub(crate) happenings: Vec<Happening>,
    /// Versions that are the lane's and that the ledger lost.
    pub(crate) found: Vec<Issued>,
    /// What to answer.
    pub(crate) reply: Answering,
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    /// The one unsigned refusal.
    Unsigned,
    /// A signed word.
    Word(Code, Option<UnixMillis>),
    /// A version that is outstanding already.
    Outstanding(VersionId),
    /// A version that has yet to be made.
    Fresh(MintReason),
}

/// The code of a refusal because a message's mark was used before.
pub(crate) const MARK_REUSED: &str = "KT-0210";
/// The code of a refusal because the message has no lane and cannot open one.
const NO_LANE: &str = "KT-0211";

/// What to load before [`plan`].
pub(crate) fn wanted(judged: &Judged) -> Wanted {
    let message = judged.message.message();
    let versions = message.claims().state().into_iter().flat_map(named_versions).collect();
    Wanted {
        device: judged.lane.device,
        lane: judged.lane.id(),
        request: message.rid(),
        nonce: message.claims().common().nonce.issued(),
        mark: (judged.lane.key, message.claims().common().jti),
        versions,
    }
}

/// Decides what to do about a message. `lost` is what the vault has of its lane and the ledger does not know.
pub(crate) fn plan(
    judged: &Judged,
    loaded: &Loaded,
    lost: Vec<Issued>,
    policy: &RotationPolicy,
    now: UnixMillis,
) -> Plan {
    match (loaded.history, judged.verdict) {
        (History::Done, _) => Plan::Nothing,
        (History::MarkReused, _) => Plan::Disown,
        (History::Unseen, Verdict::Revalidate) => Plan::Revalidate,
        (History::Unseen, Verdict::Refuse(check)) => Plan::Act(Box::new(refusal(check))),
        (History::Unseen, Verdict::Note) => Plan::Act(Box::new(note(judged))),
        (History::Unseen, Verdict::Decide(order)) => decided(judged, loaded, lost, order, policy, now),
    }
}

impl Answering {
    /// A signed refusal.
    pub(crate) const REFUSED: Self = Self::Word(Code::Refused, None);
}

fn refusal(check: Check) -> Act {
    let reply = if check.is_after_proof() { Answering::REFUSED } else { Answering::Unsigned };
    let happenings = vec![Happening::RequestRefused { code: check.code().to_owned() }];
    Act { lane: None, happenings, found: Vec::new(), reply }
}

fn note(judged: &Judged) -> Act {
    let happenings = match judged.message.message().claims() {
        Claims::Event(event) => {
            vec![Happening::Client { result: event.result.to_string(), message: event.message.to_string() }]
        }
        Claims::Request(_) | Claims::Report(_) => Vec::new(),
    };
    Act { lane: None, happenings, found: Vec::new(), reply: Answering::Word(Code::Recorded, None) }
}

fn decided(
    judged: &Judged,
    loaded: &Loaded,
    lost: Vec<Issued>,
    order: Order,
    policy: &RotationPolicy,
    now: UnixMillis,
) -> Plan {
    let Some(heard) = heard(judged, loaded, &lost, order) else { return Plan::Act(Box::new(note(judged))) };
    let lanes: Vec<Lane> = loaded.lanes.iter().map(|stored| stored.value.clone()).collect();
    let Decision { lane, reply, events } = decide(&lanes, loaded.restored, &heard, policy, now);
    let id = judged.lane.id();
    let known = |stored: &&Stored<Lane>| stored.value.key == judged.lane;
    let revision = loaded.lanes.iter().find(known).map_or(0, |stored| stored.revision);
    let mut happenings: Vec<Happening> =
        events.into_iter().map(|event| Happening::Lane { lane: id, event }).collect();
    let reply = match reply {
        Reply::Mint(reason) => Answering::Fresh(reason),
        Reply::Reseal(version) => Answering::Outstanding(version),
        Reply::NotDue(at) => Answering::Word(Code::NotDue, Some(at)),
        Reply::Held(at) => {
            let capped = capped(&lanes, policy, now) == Some(at);
            tell::held(judged, at, capped.then_some(policy.versions_per_window));
            Answering::Word(Code::Held, Some(at))
        }
        Reply::Recorded => Answering::Word(Code::Recorded, None),
        Reply::Stale => Answering::Word(Code::Stale, None),
        Reply::Expired => Answering::Word(Code::Expired, None),
        Reply::Revalidate => return Plan::Revalidate,
        Reply::Refused => {
            happenings.push(Happening::RequestRefused { code: NO_LANE.to_owned() });
            Answering::REFUSED
        }
    };
    // Without a lane nothing is taken in.
    let found = if lane.is_some() { lost } else { Vec::new() };
    Plan::Act(Box::new(Act { lane: lane.map(|value| Stored { value, revision }), happenings, found, reply }))
}

fn heard(judged: &Judged, loaded: &Loaded, lost: &[Issued], order: Order) -> Option<Heard> {
    let claims = judged.message.message().claims();
    let (kind, hints) = match claims {
        Claims::Request(request) => (HeardKind::Request { wait: request.wait() }, request.policy),
        Claims::Report(report) => (HeardKind::Report, report.policy),
        Claims::Event(_) => return None,
    };
    let state = claims.state()?;
    Some(Heard {
        key: judged.lane.clone(),
        kind,
        order,
        state: Reported {
            cur: state.cur,
            in_doubt: state.in_doubt.clone(),
            refused: state.refused.clone(),
            account_missing: state.account_missing,
            issued: loaded.issued.clone(),
            found: lost.iter().map(|issued| issued.version).collect(),
        },
        hints,
        about: claims.common().about(),
        groups: judged.groups.clone(),
        directory_answered: judged.directory_answered,
    })
}

/// The request in a judged message, if it is one.
pub(crate) fn request(judged: &Judged) -> Option<&Request> {
    match judged.message.message().claims() {
        Claims::Request(request) => Some(request),
        Claims::Report(_) | Claims::Event(_) => None,
    }
}

fn named_versions(state: &State) -> impl Iterator<Item = VersionId> + '_ {
    state.cur.iter().chain(&state.in_doubt).chain(&state.refused).copied()
}
