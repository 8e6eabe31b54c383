//! Which dead letters are worth a replay.
//!
//! A replay of a letter that is not eligible does no harm, for every check is made again: it does no good either, and
//! fills the queues and the timeline. So a replay of many leaves such letters out and says why. What is decided on here is the word of a letter that
//! nobody has checked; it decides about a plan, and about nothing else.

use std::time::Duration;

use keyturn_domain::lane::{Lane, Order};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::QueueName;
use keyturn_schemas::envelope::{Envelope, Stamped};
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::outcome::Outcome;
use serde::Serialize;

/// What is known of the device of a letter.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Now.
    pub now: UnixMillis,
    /// A request that is older than this gets no version, however long its device would wait.
    pub request_max_age: Duration,
    /// Whether the directory lists the device.
    pub listed: bool,
    /// The lanes of the device.
    pub lanes: &'a [Lane],
}

/// Why a letter is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// It cannot be read, so it would die again.
    Unreadable,
    /// Its device waits no longer, or its result has expired.
    Expired,
    /// Its lane has heard this message or a newer one, or its version is no longer outstanding.
    Superseded,
    /// The directory does not list its device any more.
    DeviceGone,
}

impl Skip {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::DeviceGone => "device_gone",
        }
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Unreadable => "it cannot be read and would die again",
            Self::Expired => "its device waits no longer",
            Self::Superseded => "a newer message has said more, or its password is not outstanding any more",
            Self::DeviceGone => "the directory does not list its device",
        }
    }
}

/// Where a letter would go and with what body, or why a replay of many leaves it out. The first reason that holds, in this order: unreadable,
/// device gone, superseded, expired. A report does not expire: it tells what the device uses.
pub fn judge(letter: &DeadLetter, facts: &Facts<'_>) -> Result<(DeadLetterId, QueueName, String), Skip> {
    let planned = super::plan(letter).map_err(|_| Skip::Unreadable)?;
    let (_, _, body) = &planned;
    match letter.queue {
        QueueName::Requests | QueueName::Findings => message(body, facts)?,
        QueueName::Outcomes => outcome(body, facts)?,
        QueueName::Alarms => {}
    }
    Ok(planned)
}

fn message(body: &str, facts: &Facts<'_>) -> Result<(), Skip> {
    let Stamped { jws, stamp } = Envelope::<Stamped>::parse(body).map_err(|_| Skip::Unreadable)?.data;
    if !facts.listed {
        return Err(Skip::DeviceGone);
    }
    // A signature that does not hold is for the validator to say.
    let Ok(message) = SignedMessage::parse(jws).map_err(|_| Skip::Unreadable)?.verify() else {
        return Ok(());
    };
    let order = Order { received: stamp.received_ms, nonce: stamp.nonce_ms };
    let key = message.lane();
    let heard = facts.lanes.iter().find(|lane| lane.key == key).and_then(|lane| lane.last);
    let claims = message.message().claims();
    if claims.state().is_some() && heard.is_some_and(|last| !order.is_newer_than(last)) {
        return Err(Skip::Superseded);
    }
    match claims {
        Claims::Request(request)
            if facts.now.since(stamp.received_ms) > request.wait().min(facts.request_max_age) =>
        {
            Err(Skip::Expired)
        }
        _ => Ok(()),
    }
}

fn outcome(body: &str, facts: &Facts<'_>) -> Result<(), Skip> {
    let outcome = Envelope::<Outcome>::parse(body).map_err(|_| Skip::Unreadable)?.data;
    if let Some(carried) = outcome.carries {
        let lane = facts.lanes.iter().find(|lane| lane.key.id() == carried.lane);
        let outstanding = lane.and_then(|lane| lane.outstanding).map(|dated| dated.version);
        if outstanding != Some(carried.version) {
            return Err(Skip::Superseded);
        }
    }
    if outcome.expires_ms <= facts.now { Err(Skip::Expired) } else { Ok(()) }
}
