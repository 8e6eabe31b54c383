//! The contracts of [`Ledger`], [`LedgerReader`] and [`LedgerOperator`].

use std::time::Duration;

use keyturn_domain::ids::LaneId;
use keyturn_domain::lane::Lane;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::{
    Commit, Committed, History, Issued, Ledger, LedgerOperator, LedgerReader, Loaded, MARKS_REMEMBERED,
    Stored, Wanted,
};
use keyturn_ports::queue::{Queue, QueueName};

use super::{Subject, sample};

fn wanted(of: u8, lane: LaneId, n: u8) -> Wanted {
    Wanted {
        device: sample::device(of),
        lane,
        request: sample::request(n),
        nonce: sample::nonce(n),
        mark: sample::mark(n),
        versions: (1..=9).map(sample::version).collect(),
    }
}

async fn load(ledger: &impl Ledger, of: u8, n: u8) -> Loaded {
    let lane = sample::lane_key(of, 1).id();
    ledger.load(vec![wanted(of, lane, n)]).await.unwrap().remove(0)
}

async fn commit(ledger: &impl Ledger, commits: Vec<Commit>) -> Vec<Committed> {
    ledger.commit(commits).await.unwrap()
}

fn issued(n: u8) -> Issued {
    Issued { version: sample::version(n), vault_ref: format!("vault/{n}") }
}

/// A commit with everything in it.
pub(super) fn full(n: u8, lane: Lane, revision: u64) -> Commit {
    Commit {
        issued: vec![issued(n)],
        events: vec![sample::event(1, n)],
        outbox: vec![(QueueName::Outcomes, sample::message(n))],
        ..sample::commit(n, lane, revision)
    }
}

async fn sent(queue: &impl Queue) -> u64 {
    queue.depth(QueueName::Outcomes).await.unwrap().total
}

/// Nothing is known of a device that never spoke.
pub async fn an_unknown_device_has_nothing(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let loaded = load(subject.engine(), 1, 1).await;
    assert_eq!(
        loaded,
        Loaded { lanes: Vec::new(), issued: [].into(), history: History::Unseen, restored: None }
    );
    assert!(subject.engine().lanes(sample::device(1)).await.unwrap().is_empty());
    assert!(subject.engine().devices(None, 10).await.unwrap().is_empty());
    assert_eq!(subject.engine().vault_ref(sample::version(1)).await.unwrap(), None);
}

/// Lane, version, event, memory and outbox come together.
pub async fn a_commit_is_loaded_whole(subject: &impl Subject<Engine: Ledger + LedgerReader + Queue>) {
    let engine = subject.engine();
    let lane = sample::lane_with(1, 1, sample::version(1));
    assert_eq!(commit(engine, vec![full(1, lane.clone(), 0)]).await, [Committed::Applied]);
    let loaded = load(engine, 1, 1).await;
    assert_eq!(loaded.lanes, [Stored { value: lane.clone(), revision: 1 }]);
    assert_eq!(loaded.issued, [sample::version(1)].into());
    assert_eq!(loaded.history, History::Done);
    assert_eq!(engine.lanes(sample::device(1)).await.unwrap(), [lane]);
    assert_eq!(engine.vault_ref(sample::version(1)).await.unwrap().as_deref(), Some("vault/1"));
    assert_eq!(engine.timeline(sample::device(1), 10).await.unwrap().len(), 1);
    let sent = engine.lease(QueueName::Outcomes, 32, Duration::from_mins(1)).await.unwrap();
    assert_eq!(sent.into_iter().map(|leased| leased.message).collect::<Vec<_>>(), [sample::message(1)]);
}

/// A commit decided on an old revision leaves no trace: no lane, no version, no event, no message, no memory.
pub async fn a_stale_revision_changes_nothing(subject: &impl Subject<Engine: Ledger + LedgerReader + Queue>) {
    let engine = subject.engine();
    commit(engine, vec![sample::commit(1, sample::lane(1, 1), 0)]).await;
    for stale in [0, 2, 7] {
        let lane = sample::lane_with(1, 1, sample::version(2));
        assert_eq!(commit(engine, vec![full(2, lane, stale)]).await, [Committed::Conflict]);
    }
    let unborn = sample::commit(3, sample::lane(2, 1), 1);
    assert_eq!(commit(engine, vec![unborn]).await, [Committed::Conflict], "a lane begins with revision 0");
    let loaded = load(engine, 1, 2).await;
    assert_eq!(loaded.lanes, [Stored { value: sample::lane(1, 1), revision: 1 }]);
    assert_eq!((loaded.issued.len(), loaded.history), (0, History::Unseen));
    assert!(engine.timeline(sample::device(1), 10).await.unwrap().is_empty());
    assert_eq!(sent(engine).await, 0);
}

/// The same commit again, after an unknown outcome, changes nothing and sends nothing.
pub async fn a_message_takes_effect_once(subject: &impl Subject<Engine: Ledger + LedgerReader + Queue>) {
    let engine = subject.engine();
    let first = full(1, sample::lane(1, 1), 0);
    assert_eq!(commit(engine, vec![first.clone()]).await, [Committed::Applied]);
    let again = commit(engine, vec![first.clone(), Commit { lane: None, ..first }]).await;
    assert_eq!(again, [Committed::Duplicate, Committed::Duplicate]);
    let lanes = load(engine, 1, 1).await.lanes;
    assert_eq!(lanes.into_iter().map(|lane| lane.revision).collect::<Vec<_>>(), [1]);
    assert_eq!(sent(engine).await, 1);
    assert_eq!(engine.timeline(sample::device(1), 10).await.unwrap().len(), 1);
}

/// Each names the revision the one before it makes.
pub async fn commits_of_one_lane_follow_each_other(subject: &impl Subject<Engine: Ledger>) {
    let engine = subject.engine();
    let last = sample::lane_with(1, 1, sample::version(3));
    let chain = vec![
        sample::commit(1, sample::lane(1, 1), 0),
        sample::commit(2, sample::lane_with(1, 1, sample::version(2)), 1),
        sample::commit(3, last.clone(), 2),
    ];
    assert_eq!(commit(engine, chain).await, [Committed::Applied; 3]);
    assert_eq!(load(engine, 1, 1).await.lanes, [Stored { value: last, revision: 3 }]);
}

/// What stands beside a conflict in the batch takes effect.
pub async fn a_conflict_stops_only_itself(subject: &impl Subject<Engine: Ledger + Queue>) {
    let engine = subject.engine();
    let batch =
        vec![full(1, sample::lane(1, 1), 0), full(2, sample::lane(1, 1), 0), full(3, sample::lane(2, 1), 0)];
    let answers = commit(engine, batch).await;
    assert_eq!(answers, [Committed::Applied, Committed::Conflict, Committed::Applied]);
    assert_eq!(sent(engine).await, 2);
}

/// Other bytes under a mark that was used are told apart from a repetition, and take no effect.
pub async fn a_reused_mark_is_noticed(subject: &impl Subject<Engine: Ledger + Queue>) {
    let engine = subject.engine();
    commit(engine, vec![full(1, sample::lane(1, 1), 0)]).await;
    let forged = Commit { mark: sample::mark(1), ..full(2, sample::lane(1, 1), 1) };
    assert_eq!(commit(engine, vec![forged]).await, [Committed::Conflict]);
    let asked = Wanted { mark: sample::mark(1), ..wanted(1, sample::lane_key(1, 1).id(), 2) };
    let loaded = engine.load(vec![asked]).await.unwrap().remove(0);
    assert_eq!(loaded.history, History::MarkReused);
    assert_eq!(sent(engine).await, 1);
}

/// A mark is remembered with its lane whatever nonce it comes with again, for a number of messages; and with its nonce
/// where there is no lane.
pub async fn a_mark_is_remembered_with_its_lane(subject: &impl Subject<Engine: Ledger>) {
    let engine = subject.engine();
    let last = u8::try_from(MARKS_REMEMBERED).unwrap() + 1;
    for n in 1..=last {
        let next = sample::commit(n, sample::lane(1, 1), u64::from(n) - 1);
        assert_eq!(commit(engine, vec![next]).await, [Committed::Applied]);
    }
    let history = async |of: u8, mark: u8, nonce| {
        let asked =
            Wanted { mark: sample::mark(mark), nonce, ..wanted(of, sample::lane_key(of, 1).id(), 99) };
        engine.load(vec![asked]).await.unwrap().remove(0).history
    };
    let later = UnixMillis(9999);
    assert_eq!(history(1, 2, later).await, History::MarkReused);
    assert_eq!(history(1, last, later).await, History::MarkReused);
    assert_eq!(history(1, 1, later).await, History::Unseen, "forgotten with so many after it");
    assert_eq!(history(1, 1, sample::nonce(1)).await, History::MarkReused, "but with its nonce");
    assert_eq!(history(2, 2, later).await, History::Unseen, "of another lane");
}

/// Several versions become the lane's at once; one that is not new is a fault, and nothing takes effect.
pub async fn several_versions_are_issued_at_once(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let engine = subject.engine();
    let both = |n, revision| Commit {
        issued: vec![issued(1), issued(2)],
        ..sample::commit(n, sample::lane(1, 1), revision)
    };
    assert_eq!(commit(engine, vec![both(1, 0)]).await, [Committed::Applied]);
    assert_eq!(load(engine, 1, 9).await.issued, [1, 2].map(sample::version).into());
    assert!(engine.commit(vec![both(2, 1)]).await.is_err());
    assert_eq!(load(engine, 1, 9).await.lanes.first().map(|lane| lane.revision), Some(1));
}

/// A version of one lane is unknown to another, even of the same device.
pub async fn versions_belong_to_their_lane(subject: &impl Subject<Engine: Ledger>) {
    let engine = subject.engine();
    commit(engine, vec![full(1, sample::lane(1, 1), 0), full(2, sample::lane(1, 2), 0)]).await;
    let asked = [1, 2].map(|n| wanted(1, sample::lane_key(1, n).id(), 9));
    let loaded = engine.load(asked.to_vec()).await.unwrap();
    let found: Vec<_> =
        loaded.iter().map(|loaded| loaded.issued.iter().copied().collect::<Vec<_>>()).collect();
    assert_eq!(found, [[sample::version(1)], [sample::version(2)]]);
    assert!(loaded.iter().all(|loaded| loaded.lanes.len() == 2), "every lane of the device is loaded");
}

/// A refusal has events and a message, but no lane.
pub async fn a_commit_without_a_lane_takes_effect(
    subject: &impl Subject<Engine: Ledger + LedgerReader + Queue>,
) {
    let engine = subject.engine();
    let refusal = Commit {
        events: vec![sample::event(1, 1)],
        outbox: vec![(QueueName::Outcomes, sample::message(1))],
        ..sample::effect(1)
    };
    assert_eq!(commit(engine, vec![refusal.clone()]).await, [Committed::Applied]);
    assert_eq!(commit(engine, vec![refusal]).await, [Committed::Duplicate]);
    assert_eq!(sent(engine).await, 1);
    assert!(engine.lanes(sample::device(1)).await.unwrap().is_empty());
    assert_eq!(engine.timeline(sample::device(1), 10).await.unwrap().len(), 1);
}

/// Facts come newest first, of this device only, and as told.
pub async fn timelines_are_newest_first(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let engine = subject.engine();
    let told = |n, of| Commit { events: vec![sample::event(of, n)], ..sample::effect(n) };
    commit(engine, vec![told(1, 1), told(2, 1), told(3, 2), told(4, 1)]).await;
    let events = engine.timeline(sample::device(1), 2).await.unwrap();
    assert_eq!(events.iter().map(|event| event.request).collect::<Vec<_>>(), [4, 2].map(sample::request));
    let (newest, as_told) = (events.into_iter().next().unwrap(), sample::event(1, 4));
    assert_eq!((newest.at, newest.device, newest.what), (as_told.at, as_told.device, as_told.what));
}

/// Facts of all devices come oldest first, and pages do not overlap.
pub async fn facts_of_all_devices_are_paged(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let engine = subject.engine();
    let told = |n, of| Commit { events: vec![sample::event(of, n)], ..sample::effect(n) };
    commit(engine, vec![told(1, 1), told(2, 2), told(3, 1)]).await;
    let first = engine.events(0, 2).await.unwrap();
    let rest = engine.events(first.last().unwrap().0, 2).await.unwrap();
    let requests: Vec<_> = first.iter().chain(&rest).map(|(_, event)| event.request).collect();
    assert_eq!(requests, [1, 2, 3].map(sample::request));
    assert!(engine.events(rest.last().unwrap().0, 2).await.unwrap().is_empty());
}

/// Devices come in order and once each, however many lanes they have.
pub async fn devices_are_paged(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let engine = subject.engine();
    let lanes = [(3, 1), (1, 1), (1, 2), (2, 1)];
    let commits = (1..).zip(lanes).map(|(n, (of, lane))| sample::commit(n, sample::lane(of, lane), 0));
    commit(engine, commits.collect()).await;
    assert_eq!(engine.devices(None, 2).await.unwrap(), [1, 2].map(sample::device));
    assert_eq!(engine.devices(Some(sample::device(2)), 2).await.unwrap(), [sample::device(3)]);
}

/// A device is found by what its lanes say now, not by what they said before.
pub async fn labels_are_found_in_any_case(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let engine = subject.engine();
    let mut moved = sample::lane(2, 1);
    moved.about.host = sample::lane(1, 1).about.host;
    commit(engine, vec![sample::commit(1, sample::lane(1, 1), 0), sample::commit(2, sample::lane(2, 1), 0)])
        .await;
    commit(engine, vec![sample::commit(3, moved, 1)]).await;
    assert_eq!(engine.labelled("sn-1").await.unwrap(), [sample::device(1)]);
    assert_eq!(engine.labelled("HOST-1").await.unwrap(), [1, 2].map(sample::device));
    assert!(engine.labelled("host-2").await.unwrap().is_empty());
    assert!(engine.labelled("").await.unwrap().is_empty(), "devices without labels share no label");
}

/// Every open lane is asked, a closed one is not, and a later wish is not replaced by an earlier one.
pub async fn forcing_reaches_open_lanes(
    subject: &impl Subject<Engine: Ledger + LedgerReader + LedgerOperator>,
) {
    let engine = subject.engine();
    let closed = Lane { closed: Some(UnixMillis(5)), ..sample::lane(1, 3) };
    let lanes = [sample::lane(1, 1), sample::lane(1, 2), closed, sample::lane(2, 1)];
    commit(engine, (1..).zip(lanes).map(|(n, lane)| sample::commit(n, lane, 0)).collect()).await;
    assert_eq!(engine.force(sample::device(1), UnixMillis(20)).await.unwrap(), 2);
    assert_eq!(engine.force(sample::device(1), UnixMillis(10)).await.unwrap(), 2);
    assert_eq!(engine.force(sample::device(9), UnixMillis(10)).await.unwrap(), 0);
    let lanes = engine.lanes(sample::device(1)).await.unwrap();
    let asked = |lane: &Lane| lane.closed.is_some() || lane.forced == Some(UnixMillis(20));
    assert!(lanes.iter().all(asked) && lanes.iter().any(|lane| lane.forced.is_none()));
    let stale = sample::commit(9, sample::lane(1, 1), 1);
    assert_eq!(commit(engine, vec![stale]).await, [Committed::Conflict], "a wish is not overwritten unseen");
}

/// Closing reaches the lane that is named, of the device that is named, and once.
pub async fn closing_reaches_its_lane_alone(
    subject: &impl Subject<Engine: Ledger + LedgerReader + LedgerOperator>,
) {
    let engine = subject.engine();
    let lanes = [sample::lane(1, 1), sample::lane(1, 2), sample::lane(2, 1)];
    let named = lanes[0].key.id();
    commit(engine, (1..).zip(lanes).map(|(n, lane)| sample::commit(n, lane, 0)).collect()).await;
    assert!(!engine.close(sample::device(2), named, UnixMillis(7)).await.unwrap());
    assert!(engine.close(sample::device(1), named, UnixMillis(7)).await.unwrap());
    assert!(engine.close(sample::device(1), named, UnixMillis(9)).await.unwrap());
    let closed = |lane: &Lane| lane.closed == (lane.key.id() == named).then_some(UnixMillis(7));
    assert!(engine.lanes(sample::device(1)).await.unwrap().iter().all(closed));
    assert!(engine.lanes(sample::device(2)).await.unwrap().iter().all(|lane| lane.closed.is_none()));
}

/// Releasing ends the holds of a device and counts them.
pub async fn releasing_ends_holds(subject: &impl Subject<Engine: Ledger + LedgerReader + LedgerOperator>) {
    let engine = subject.engine();
    let held = Lane { held_until: Some(UnixMillis(5)), refusals: vec![UnixMillis(1)], ..sample::lane(1, 1) };
    commit(
        engine,
        (1..).zip([held, sample::lane(1, 2)]).map(|(n, lane)| sample::commit(n, lane, 0)).collect(),
    )
    .await;
    assert_eq!(engine.release(sample::device(1)).await.unwrap(), 1);
    assert_eq!(engine.release(sample::device(1)).await.unwrap(), 0);
    let until = UnixMillis(9_000);
    assert_eq!(engine.hold(sample::device(1), until).await.unwrap(), 2);
    let lanes = engine.lanes(sample::device(1)).await.unwrap();
    assert!(
        lanes.iter().all(|lane| lane.held(UnixMillis(8_999)) == Some(until) && lane.held(until).is_none())
    );
    assert_eq!(
        engine.hold(sample::device(1), UnixMillis(1)).await.unwrap(),
        2,
        "a shorter hold shortens none"
    );
    assert!(engine.lanes(sample::device(1)).await.unwrap() == lanes);
    assert_eq!(engine.release(sample::device(1)).await.unwrap(), 2);
    let free = |lane: &Lane| lane.held(UnixMillis(0)).is_none() && lane.refusals.is_empty();
    assert!(engine.lanes(sample::device(1)).await.unwrap().iter().all(free));
}

/// A key is known from its first lane on, however often the lane is replaced, and whatever lanes other keys have.
pub async fn keys_are_known_by_their_lanes(subject: &impl Subject<Engine: Ledger + LedgerReader>) {
    let engine = subject.engine();
    let key = |n| sample::lane_key(n, 1).key;
    assert!(!engine.knows_key(key(1)).await.unwrap());
    commit(engine, vec![sample::commit(1, sample::lane(1, 1), 0)]).await;
    commit(engine, vec![sample::commit(2, sample::lane_with(1, 1, sample::version(1)), 1)]).await;
    assert!(engine.knows_key(key(1)).await.unwrap());
    assert!(!engine.knows_key(key(2)).await.unwrap());
}

/// Where a version is changes for whoever knows where it was, and once.
pub async fn a_version_is_relocated_from_where_it_was(
    subject: &impl Subject<Engine: Ledger + LedgerReader + LedgerOperator>,
) {
    let engine = subject.engine();
    let mut commit = sample::commit(1, sample::lane(1, 1), 0);
    commit.issued = vec![Issued { version: sample::version(1), vault_ref: "old".to_owned() }];
    engine.commit(vec![commit]).await.unwrap();
    let (one, two) = (sample::version(1), sample::version(2));
    assert!(!engine.relocate(one, "elsewhere", "new").await.unwrap());
    assert!(!engine.relocate(two, "old", "new").await.unwrap());
    assert_eq!(engine.vault_ref(one).await.unwrap().as_deref(), Some("old"));
    assert!(engine.relocate(one, "old", "new").await.unwrap());
    assert!(!engine.relocate(one, "old", "new").await.unwrap(), "it is there already");
    assert_eq!(engine.vault_ref(one).await.unwrap().as_deref(), Some("new"));
}
