//! The contract of [`Roster`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::ObjectId;
use keyturn_ports::Kind;
use keyturn_ports::roster::{Change, Next, Roster, Standing, Turn};
use keyturn_ports::shipping::Holder;
use serde_json::{Value, json};

use super::{Subject, sample};

const ONE: Holder = Holder::from_bytes([1; 16]);
const TWO: Holder = Holder::from_bytes([2; 16]);
const MINUTE: Duration = Duration::from_mins(1);
const EVERY: Duration = Duration::from_mins(3);

fn object(n: u8) -> ObjectId {
    ObjectId::from_bytes([n | 0x80; 16])
}

fn seen(n: u8, enabled: bool) -> Change {
    said(
        object(n),
        &json!({"deviceId": sample::device(n), "displayName": format!("D{n}"), "accountEnabled": enabled}),
    )
}

fn said(object: ObjectId, properties: &Value) -> Change {
    Change::Seen(object, properties.as_object().unwrap().clone())
}

fn more(place: &str) -> Next {
    Next::More(place.to_owned())
}

fn done(place: &str) -> Next {
    Next::Done(place.to_owned(), EVERY)
}

fn turn(step: u64, place: &str) -> Turn {
    Turn { step, place: (!place.is_empty()).then(|| place.to_owned()) }
}

/// The first device of each number and whether it is enabled.
async fn list(engine: &impl Roster) -> Vec<(u8, bool)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = engine.devices(after, 2).await.unwrap();
        let Some(last) = page.last() else { return found };
        after = Some(last.id);
        let one = |id: keyturn_domain::ids::DeviceId| id.as_bytes().first().copied().unwrap();
        found.extend(page.into_iter().map(|listed| {
            let enabled = listed.record.unwrap().account_enabled;
            (one(listed.id), enabled.unwrap())
        }));
    }
}

/// A round from the beginning, then one that tells a change and a deletion.
pub async fn a_round_is_filed_page_by_page(subject: &impl Subject<Engine: Roster>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    assert_eq!(engine.standing().await.unwrap(), Standing::default());
    let begun = clock.now();
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), Some(turn(0, "")));
    clock.advance(Duration::from_secs(30));
    assert!(engine.file(ONE, 0, vec![seen(3, true), seen(1, true)], more("p1"), MINUTE).await.unwrap());
    assert_eq!(engine.standing().await.unwrap().read, None, "half a round tells nothing");
    assert!(engine.file(ONE, 1, vec![seen(2, false)], done("d1"), MINUTE).await.unwrap());
    assert_eq!(list(engine).await, [(1, true), (2, false), (3, true)]);
    let standing = engine.standing().await.unwrap();
    assert_eq!(standing, Standing { step: 2, read: Some(begun), devices: 3 });

    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), None, "not due");
    clock.advance(EVERY);
    assert_eq!(engine.take(TWO, MINUTE).await.unwrap(), Some(turn(2, "d1")));
    let off = said(object(1), &json!({"accountEnabled": false}));
    assert!(engine.file(TWO, 2, vec![off, Change::Gone(object(3))], done("d2"), MINUTE).await.unwrap());
    assert_eq!(list(engine).await, [(1, false), (2, false)]);
    clock.advance(EVERY);
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), Some(turn(3, "d2")));
}

/// Whoever dies leaves the turn, and what was filed, to another, and is not heard any more.
pub async fn one_reads_at_a_time_and_another_goes_on(subject: &impl Subject<Engine: Roster>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), Some(turn(0, "")));
    assert_eq!(engine.take(TWO, MINUTE).await.unwrap(), None);
    assert!(!engine.file(TWO, 0, vec![seen(9, true)], more("x"), MINUTE).await.unwrap());
    assert!(engine.file(ONE, 0, vec![seen(1, true)], more("p1"), MINUTE).await.unwrap());
    clock.advance(MINUTE);
    assert_eq!(engine.take(TWO, MINUTE).await.unwrap(), Some(turn(1, "p1")), "in the middle of the round");
    assert!(!engine.file(ONE, 1, vec![seen(9, true)], done("x"), MINUTE).await.unwrap());
    engine.give_back(ONE, Duration::ZERO).await.unwrap();
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), None, "it was not its turn to give back");
    engine.give_back(TWO, MINUTE).await.unwrap();
    assert_eq!(engine.take(TWO, MINUTE).await.unwrap(), None, "after the pause");
    clock.advance(MINUTE);
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), Some(turn(1, "p1")));
    assert!(engine.file(ONE, 1, vec![seen(2, true)], done("d1"), MINUTE).await.unwrap());
    assert_eq!(list(engine).await, [(1, true), (2, true)], "what the first one filed was seen in this round");
}

/// A page whose filing had an unknown outcome.
pub async fn what_was_filed_is_not_filed_again(subject: &impl Subject<Engine: Roster>) {
    let engine = subject.engine();
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    assert!(engine.file(ONE, 0, vec![seen(1, true)], more("p1"), MINUTE).await.unwrap());
    assert!(!engine.file(ONE, 0, vec![seen(1, false)], more("p0"), MINUTE).await.unwrap());
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), Some(turn(1, "p1")));
    assert_eq!(list(engine).await, [(1, true)]);
}

/// After a restart nothing is missing while the feed is read again, and at the end what was not seen is gone.
pub async fn a_round_from_the_beginning_ends_in_what_was_seen(subject: &impl Subject<Engine: Roster>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    let three = vec![seen(1, true), seen(2, true), seen(3, true)];
    assert!(engine.file(ONE, 0, three, done("d1"), MINUTE).await.unwrap());
    clock.advance(EVERY);
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    assert!(engine.file(ONE, 1, vec![], Next::Restart, MINUTE).await.unwrap());
    assert_eq!(engine.take(TWO, MINUTE).await.unwrap(), None, "who found out has the turn");
    assert_eq!(engine.take(ONE, MINUTE).await.unwrap(), Some(turn(2, "")));
    assert!(engine.file(ONE, 2, vec![seen(3, true)], more("p1"), MINUTE).await.unwrap());
    assert_eq!(list(engine).await.len(), 3);
    assert!(engine.file(ONE, 3, vec![seen(1, false)], done("d2"), MINUTE).await.unwrap());
    assert_eq!(list(engine).await, [(1, false), (3, true)]);
    let changed = engine.changed(1, 10).await.unwrap();
    let mut devices = changed.devices.unwrap();
    devices.sort();
    assert_eq!(devices, [1, 2].map(sample::device), "the third is what it was");

    clock.advance(EVERY);
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    assert!(engine.file(ONE, 4, vec![seen(2, true)], done("d3"), MINUTE).await.unwrap());
    assert_eq!(list(engine).await, [(1, false), (2, true), (3, true)], "a round that goes on sweeps nothing");
}

/// Each process asks from where it was, and is told if it is too much to tell.
pub async fn what_changed_is_told_by_its_step(subject: &impl Subject<Engine: Roster>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    assert_eq!(engine.changed(0, 10).await.unwrap().devices, Some(vec![]));
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    assert!(engine.file(ONE, 0, vec![seen(1, true), seen(2, true)], done("d1"), MINUTE).await.unwrap());
    let first = engine.changed(0, 2).await.unwrap();
    assert_eq!((first.step, first.devices.map(|devices| devices.len())), (1, Some(2)));
    assert_eq!(engine.changed(0, 1).await.unwrap().devices, None, "more than that");
    clock.advance(EVERY);
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    let page = vec![seen(1, true), Change::Gone(object(2)), Change::Gone(object(7))];
    assert!(engine.file(ONE, 1, page, done("d2"), MINUTE).await.unwrap());
    let second = engine.changed(1, 2).await.unwrap();
    assert_eq!((second.step, second.devices), (2, Some(vec![sample::device(2)])));
    assert!(second.read.is_some());
    assert_eq!(engine.changed(2, 2).await.unwrap().devices, Some(vec![]));
}

/// It is nobody's, and is listed once.
pub async fn a_device_with_two_objects_is_told_as_such(subject: &impl Subject<Engine: Roster>) {
    let engine = subject.engine();
    engine.take(ONE, MINUTE).await.unwrap().unwrap();
    let twin = said(object(9), &json!({"deviceId": sample::device(1), "displayName": "twin"}));
    let nameless = said(object(8), &json!({"displayName": "without an id"}));
    assert!(engine.file(ONE, 0, vec![seen(1, true), twin, nameless], done("d1"), MINUTE).await.unwrap());
    let listed = engine.devices(None, 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed.into_iter().all(|one| one.record.is_err_and(|error| error.kind() == Kind::Corrupt)));
    assert_eq!(engine.standing().await.unwrap().devices, 1);
}
