//! Things to store that differ by a number.

use keyturn_domain::ids::{
    AccountId, DeviceId, EventId, InstallId, KeyHash, MessageMark, RequestId, VersionId,
};
use keyturn_domain::label::Label;
use keyturn_domain::lane::{Dated, Lane, LaneEvent, LaneKey};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::{Commit, Happening, NewEvent, Stored};
use keyturn_ports::queue::NewMessage;

/// A device.
pub fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

/// A message's name.
pub fn request(n: u8) -> RequestId {
    RequestId([n; 32])
}

/// A version.
pub fn version(n: u8) -> VersionId {
    VersionId([n; 16])
}

/// A message of device `n`.
pub fn message(n: u8) -> NewMessage {
    NewMessage { request: request(n), device: device(n), body: format!("body {n} \u{1f511}") }
}

/// What makes lane `n` of device `of`.
pub fn lane_key(of: u8, n: u8) -> LaneKey {
    LaneKey {
        device: device(of),
        account: "S-1-5-21-7-500".parse::<AccountId>().unwrap(),
        install: InstallId([n; 32]),
        key: KeyHash([of; 32]),
    }
}

/// Lane `n` of device `of`, with nothing in it but labels.
pub fn lane(of: u8, n: u8) -> Lane {
    let mut lane = Lane::open(lane_key(of, n), UnixMillis(1));
    lane.about.serial = Label::parse(&format!("SN-{of}")).unwrap();
    lane.about.host = Label::parse(&format!("Host-{of}")).unwrap();
    lane
}

/// The same lane with an outstanding version.
pub fn lane_with(of: u8, n: u8, outstanding: VersionId) -> Lane {
    Lane { outstanding: Some(Dated { version: outstanding, at: UnixMillis(2) }), ..lane(of, n) }
}

/// When the nonce of message `n` was given out.
pub fn nonce(n: u8) -> UnixMillis {
    UnixMillis(1000 + u64::from(n))
}

/// The mark of message `n`.
pub fn mark(n: u8) -> (KeyHash, MessageMark) {
    (KeyHash([7; 32]), MessageMark([n; 16]))
}

/// The effect of message `n` on a lane.
pub fn commit(n: u8, lane: Lane, revision: u64) -> Commit {
    Commit { lane: Some(Stored { value: lane, revision }), ..effect(n) }
}

/// The effect of message `n`, on nothing.
pub fn effect(n: u8) -> Commit {
    Commit {
        request: request(n),
        nonce: nonce(n),
        mark: mark(n),
        lane: None,
        issued: Vec::new(),
        events: Vec::new(),
        outbox: Vec::new(),
    }
}

/// A fact about a device, told by message `n`.
pub fn event(of: u8, n: u8) -> NewEvent {
    let lane = lane_key(of, 1).id();
    NewEvent {
        id: EventId([n; 16]),
        at: UnixMillis(u64::from(n)),
        device: device(of),
        request: request(n),
        what: Happening::Lane { lane, event: LaneEvent::LaneOpened },
    }
}
