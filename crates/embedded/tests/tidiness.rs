//! What is no longer needed goes away, and nothing else.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock as _;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::intake::{Intake as _, Submission};
use keyturn_ports::ledger::{Commit, Ledger as _, LedgerReader as _, NewEvent};
use keyturn_ports::queue::{DeadReason, Queue as _, QueueName, Settlement};
use keyturn_ports::results::{NewResult, ResultBody, ResultWriter as _};
use keyturn_ports::upkeep::{Before, Upkeep as _};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use rusqlite::Connection;
use tempfile::TempDir;

fn fresh() -> (TempDir, Database, ManualClock) {
    let folder = TempDir::new().unwrap();
    let clock = ManualClock::default();
    let path = folder.path().join("keyturn.db");
    let options = OpenOptions::new(path, Arc::new(clock.clone()), Arc::new(SystemEntropy));
    (folder, Database::open(options).unwrap(), clock)
}

fn rows(database: &Database, table: &str) -> i64 {
    let file = Connection::open(database.path()).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Everything before now.
fn all(clock: &ManualClock) -> Before {
    let now = clock.now();
    Before { accepted: now, effects: now, events: now, events_through: None, results: now }
}

#[tokio::test]
async fn what_is_old_is_forgotten_a_little_at_a_time() {
    let (_folder, database, clock) = fresh();
    fill(&database, &clock, 1..=5).await;
    clock.advance(Duration::from_hours(1));
    let before = all(&clock);
    clock.advance(Duration::from_secs(1));
    fill(&database, &clock, 6..=8).await;
    for (forgotten, left) in [(2, 6), (2, 4), (1, 3), (0, 3)] {
        let told = database.forget(before, 2).await.unwrap();
        for (table, rows_forgotten) in told.tables() {
            assert_eq!((rows_forgotten, rows(&database, table)), (forgotten, left), "{table}");
        }
    }
    assert_eq!(rows(&database, "lanes"), 8, "lanes are for good");
}

#[tokio::test]
async fn two_who_forget_at_once_forget_each_row_once() {
    let (_folder, database, clock) = fresh();
    let options = OpenOptions::new(database.path(), Arc::new(clock.clone()), Arc::new(SystemEntropy));
    let other = Database::open(options).unwrap();
    fill(&database, &clock, 1..=9).await;
    clock.advance(Duration::from_hours(1));
    let before = all(&clock);
    let (one, two) = tokio::join!(database.forget(before, 6), other.forget(before, 6));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.accepted + two.accepted, 9);
    assert_eq!(one.effects + two.effects, 9);
    assert_eq!(one.results + two.results, 9);
    // The newest fact stays, so that its number is not given out again.
    assert_eq!((one.events + two.events, rows(&database, "events")), (8, 1));
}

#[tokio::test]
async fn a_timeline_ends_where_it_was_forgotten() {
    let (_folder, database, clock) = fresh();
    for n in 1..=4_u8 {
        let mut commit = sample::commit(n, sample::lane(1, 1), u64::from(n) - 1);
        commit.events = vec![NewEvent { at: clock.now(), ..sample::event(1, n) }];
        database.commit(vec![commit]).await.unwrap();
        clock.advance(Duration::from_mins(1));
    }
    let loose = NewEvent { at: clock.now(), ..sample::event(1, 5) };
    database.commit(vec![Commit { events: vec![loose], ..sample::effect(5) }]).await.unwrap();
    let told = async |limit| -> Vec<_> {
        let timeline = database.timeline(sample::device(1), limit).await.unwrap();
        timeline.into_iter().map(|event| event.request).collect()
    };
    assert_eq!(told(9).await, [5, 4, 3, 2, 1].map(sample::request));
    assert_eq!(told(2).await, [5, 4].map(sample::request));
    let before = Before { events: clock.now().minus(Duration::from_mins(2)), ..all(&clock) };
    assert_eq!(database.forget(before, 100).await.unwrap().events, 2);
    assert_eq!(told(9).await, [5, 4, 3].map(sample::request));
}

#[tokio::test]
async fn what_a_dead_letter_did_is_remembered_as_long_as_it_is_there() {
    let (_folder, database, clock) = fresh();
    clock.advance(Duration::from_hours(48));
    let nonce = clock.now();
    database.commit(vec![Commit { nonce, ..sample::effect(1) }]).await.unwrap();
    database.send(QueueName::Findings, vec![sample::message(1)]).await.unwrap();
    let leased = database.lease(QueueName::Findings, 1, Duration::from_mins(1)).await.unwrap().remove(0);
    let dead = Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "for good".to_owned() };
    database.settle(QueueName::Findings, vec![(leased.receipt, dead)], Vec::new()).await.unwrap();
    clock.advance(Duration::from_hours(24 * 400));
    assert_eq!(database.forget(all(&clock), 100).await.unwrap().effects, 0);
    assert_eq!(database.dead_since(clock.now()).await.unwrap(), 1);
    assert_eq!(database.dead_since(nonce).await.unwrap(), 0);
    let letter = database.list(None, 1).await.unwrap().remove(0);
    database.replay(vec![(letter.id, QueueName::Requests, letter.message.body)]).await.unwrap();
    assert_eq!(database.forget(all(&clock), 100).await.unwrap().effects, 1);
}

/// One row in each table that is tidied, for each number.
async fn fill(database: &Database, clock: &ManualClock, numbers: std::ops::RangeInclusive<u8>) {
    for n in numbers {
        let (nonce, expires) = (clock.now(), clock.now());
        database.accept(vec![Submission { nonce, message: sample::message(n) }]).await.unwrap();
        let body = ResultBody::Refused;
        database
            .publish(vec![NewResult { request: sample::request(n), carries: None, body, expires }])
            .await
            .unwrap();
        let events = vec![NewEvent { at: clock.now(), ..sample::event(n, n) }];
        let commit = Commit { nonce, events, ..sample::commit(n, sample::lane(n, 1), 0) };
        database.commit(vec![commit]).await.unwrap();
        clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_completed_message_leaves_nothing() {
    let (_folder, database, _clock) = fresh();
    database.send(QueueName::Requests, vec![sample::message(1)]).await.unwrap();
    let retry = Settlement::Retry { after: Duration::ZERO, error: "again".to_owned() };
    for settlement in [retry, Settlement::Complete] {
        let leased = database.lease(QueueName::Requests, 1, Duration::from_mins(1)).await.unwrap().remove(0);
        database.settle(QueueName::Requests, vec![(leased.receipt, settlement)], Vec::new()).await.unwrap();
    }
    for table in ["queue_requests", "held_requests", "queue_attempts", "dead_letters"] {
        assert_eq!(rows(&database, table), 0, "{table}");
    }
}
