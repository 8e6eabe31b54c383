//! The contract of [`Shipping`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, AuditSink, NewRow};
use keyturn_ports::ledger::{Ledger, LedgerReader};
use keyturn_ports::shipping::{Holder, Position, Shipping, Stream};
use keyturn_ports::upkeep::{Before, Upkeep};

use super::{Subject, sample};

const ONE: Holder = Holder::from_bytes([1; 16]);
const TWO: Holder = Holder::from_bytes([2; 16]);
const MINUTE: Duration = Duration::from_mins(1);

async fn append(audit: &impl AuditSink, at: u64) -> u64 {
    let row = NewRow {
        at: UnixMillis(at),
        actor: "ada (uid 1000)".to_owned(),
        action: Action::SecretGet,
        device: None,
        reason: "ticket".to_owned(),
        detail: String::new(),
    };
    audit.append(row).await.unwrap()
}

/// Nothing was shipped at first, and what waits is told by the oldest row.
pub async fn a_stream_begins_before_its_first_row(
    subject: &impl Subject<Engine: Shipping + AuditSink + Ledger>,
) {
    let engine = subject.engine();
    let empty = Position { place: 0, newest: 0, waiting_since: None, held_by: None };
    for stream in Stream::ALL {
        assert_eq!(engine.position(stream).await.unwrap(), empty, "{stream:?}");
    }
    for at in [70, 80] {
        append(engine, at).await;
    }
    let waiting = Position { newest: 2, waiting_since: Some(UnixMillis(70)), ..empty };
    assert_eq!(engine.position(Stream::Audit).await.unwrap(), waiting);
    let mut commit = sample::commit(1, sample::lane(1, 1), 0);
    commit.events = vec![sample::event(1, 1), sample::event(1, 1)];
    engine.commit(vec![commit]).await.unwrap();
    let events = engine.position(Stream::Events).await.unwrap();
    assert_eq!((events.place, events.waiting_since), (0, Some(sample::event(1, 1).at)));
    assert!(events.newest >= 2, "{events:?}");
}

/// Only who holds a cursor moves it, and it stays where it was moved.
pub async fn a_cursor_moves_for_its_holder_alone(subject: &impl Subject<Engine: Shipping + AuditSink>) {
    let engine = subject.engine();
    for at in 1..=3 {
        append(engine, at).await;
    }
    assert!(!engine.advance(Stream::Audit, ONE, 0, 2, MINUTE).await.unwrap(), "nobody held it");
    assert!(engine.hold(Stream::Audit, ONE, 0, MINUTE).await.unwrap());
    assert!(!engine.hold(Stream::Audit, TWO, 0, MINUTE).await.unwrap(), "one at a time");
    assert!(!engine.advance(Stream::Audit, TWO, 0, 3, MINUTE).await.unwrap());
    assert!(engine.advance(Stream::Audit, ONE, 0, 2, MINUTE).await.unwrap());
    let found = engine.position(Stream::Audit).await.unwrap();
    let expected = Position { place: 2, newest: 3, waiting_since: Some(UnixMillis(3)), held_by: Some(ONE) };
    assert_eq!(found, expected);
    assert!(!engine.hold(Stream::Audit, ONE, 0, MINUTE).await.unwrap(), "it is not there any more");
    assert!(engine.hold(Stream::Audit, ONE, 2, MINUTE).await.unwrap(), "who holds it may hold it anew");
}

/// Who dies holds a cursor for so long and no longer; and who was too slow does not move it any more.
pub async fn a_cursor_is_given_to_another_when_its_time_is_over(
    subject: &impl Subject<Engine: Shipping + AuditSink>,
) {
    let engine = subject.engine();
    append(engine, 1).await;
    assert!(engine.hold(Stream::Audit, ONE, 0, MINUTE).await.unwrap());
    subject.clock().advance(Duration::from_secs(59));
    assert!(!engine.hold(Stream::Audit, TWO, 0, MINUTE).await.unwrap());
    assert_eq!(engine.position(Stream::Audit).await.unwrap().held_by, Some(ONE));
    subject.clock().advance(Duration::from_secs(1));
    assert_eq!(engine.position(Stream::Audit).await.unwrap().held_by, None);
    assert!(engine.hold(Stream::Audit, TWO, 0, MINUTE).await.unwrap());
    assert!(!engine.advance(Stream::Audit, ONE, 0, 1, MINUTE).await.unwrap());
    assert!(engine.advance(Stream::Audit, TWO, 0, 1, Duration::ZERO).await.unwrap(), "and lets go of it");
    assert!(engine.hold(Stream::Audit, ONE, 1, MINUTE).await.unwrap());
}

/// A move from where the cursor is not, or back, is none.
pub async fn a_cursor_moves_forward_from_where_it_is(subject: &impl Subject<Engine: Shipping + AuditSink>) {
    let engine = subject.engine();
    for at in 1..=5 {
        append(engine, at).await;
    }
    assert!(engine.hold(Stream::Audit, ONE, 0, MINUTE).await.unwrap());
    assert!(engine.advance(Stream::Audit, ONE, 0, 4, MINUTE).await.unwrap());
    assert!(!engine.advance(Stream::Audit, ONE, 0, 4, MINUTE).await.unwrap(), "a repeat changes nothing");
    assert!(!engine.advance(Stream::Audit, ONE, 4, 3, MINUTE).await.unwrap(), "back");
    assert_eq!(engine.position(Stream::Audit).await.unwrap().place, 4);
}

/// What is done to one stream is not done to the other.
pub async fn streams_are_apart(subject: &impl Subject<Engine: Shipping + AuditSink>) {
    let engine = subject.engine();
    append(engine, 1).await;
    assert!(engine.hold(Stream::Audit, ONE, 0, MINUTE).await.unwrap());
    assert!(engine.advance(Stream::Audit, ONE, 0, 1, MINUTE).await.unwrap());
    assert!(engine.hold(Stream::Events, TWO, 0, MINUTE).await.unwrap());
    let events = engine.position(Stream::Events).await.unwrap();
    assert_eq!((events.place, events.held_by), (0, Some(TWO)));
}

/// Facts after the given place are kept however old they are, and go when it has passed them.
pub async fn what_was_not_shipped_stays(subject: &impl Subject<Engine: Upkeep + Ledger + LedgerReader>) {
    let engine = subject.engine();
    for n in 1..=5_u8 {
        let mut commit = sample::commit(n, sample::lane(1, 1), u64::from(n) - 1);
        commit.events = vec![sample::event(1, n)];
        engine.commit(vec![commit]).await.unwrap();
    }
    let places: Vec<u64> = engine.events(0, 10).await.unwrap().iter().map(|(place, _)| *place).collect();
    let second = places.get(1).copied();
    assert_eq!(places.len(), 5);
    let later = UnixMillis(subject.clock().now().0 + 1_000_000);
    let never = UnixMillis(0);
    let through = |place| Before {
        accepted: never,
        effects: never,
        events: later,
        events_through: place,
        results: never,
    };
    for (place, left) in [(Some(0), 5), (second, 3), (second, 3), (None, 1)] {
        engine.forget(through(place), 10).await.unwrap();
        assert_eq!(engine.events(0, 10).await.unwrap().len(), left, "through {place:?}");
    }
}
