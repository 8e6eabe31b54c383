//! A queue remembers how far it was given out. What was is never new again, whatever happens to the rows.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock as _;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::queue::{Leased, Queue as _, QueueName, Receipt, Settlement};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use tempfile::TempDir;

const QUEUE: QueueName = QueueName::Findings;

fn open(folder: &Path, clock: &ManualClock) -> Database {
    let path = folder.join("keyturn.db");
    Database::open(OpenOptions::new(path, Arc::new(clock.clone()), Arc::new(SystemEntropy))).unwrap()
}

async fn send(database: &Database, messages: impl IntoIterator<Item = u8>) {
    database.send(QUEUE, messages.into_iter().map(sample::message).collect()).await.unwrap();
}

async fn lease(database: &Database, max: usize) -> Vec<Leased> {
    database.lease(QUEUE, max, Duration::from_mins(1)).await.unwrap()
}

async fn settle(database: &Database, leased: &Leased, settlement: Settlement) -> Vec<Receipt> {
    let settled = vec![(leased.receipt.clone(), settlement)];
    database.settle(QUEUE, settled, Vec::new()).await.unwrap()
}

fn bodies(leased: &[Leased]) -> Vec<String> {
    leased.iter().map(|leased| leased.message.body.clone()).collect()
}

fn sent(messages: impl IntoIterator<Item = u8>) -> Vec<String> {
    messages.into_iter().map(|n| sample::message(n).body).collect()
}

#[tokio::test]
async fn a_number_is_not_given_twice_though_the_queue_was_empty_and_closed() {
    let (folder, clock) = (TempDir::new().unwrap(), ManualClock::default());
    let database = open(folder.path(), &clock);
    send(&database, 1..=3).await;
    let first = lease(&database, 3).await;
    for leased in &first {
        assert_eq!(settle(&database, leased, Settlement::Complete).await, []);
    }
    drop(database);
    let database = open(folder.path(), &clock);
    send(&database, 4..=6).await;
    let second = lease(&database, 3).await;
    assert_eq!(bodies(&second), sent(4..=6));
    for leased in &first {
        assert!(second.iter().all(|other| other.receipt.message != leased.receipt.message));
        assert_eq!(settle(&database, leased, Settlement::Complete).await.first(), Some(&leased.receipt));
    }
}

#[tokio::test]
async fn what_is_released_comes_back_first_and_brings_nobody_else_back() {
    let (folder, clock) = (TempDir::new().unwrap(), ManualClock::default());
    let database = open(folder.path(), &clock);
    send(&database, 1..=4).await;
    let held = lease(&database, 3).await;
    clock.advance(Duration::from_secs(1));
    settle(&database, &held[0], Settlement::Release).await;
    let next = lease(&database, 4).await;
    assert_eq!(bodies(&next), sent([1, 4]), "two and three are still out");
    assert_eq!(lease(&database, 4).await, []);
    clock.advance(Duration::from_mins(2));
    assert_eq!(lease(&database, 9).await.len(), 4, "and all four come back once their leases ran out");
}

#[tokio::test]
async fn a_retry_takes_its_turn_among_the_new() {
    let (folder, clock) = (TempDir::new().unwrap(), ManualClock::default());
    let database = open(folder.path(), &clock);
    send(&database, 1..=1).await;
    let failing = lease(&database, 1).await.remove(0);
    let retry = Settlement::Retry { after: Duration::from_secs(5), error: "not yet".to_owned() };
    settle(&database, &failing, retry).await;
    for n in 2..=4 {
        clock.advance(Duration::from_secs(3));
        send(&database, [n]).await;
    }
    // Two was sent at 3, one is visible again from 5, three was sent at 6.
    assert_eq!(bodies(&lease(&database, 2).await), sent([2, 1]));
    assert_eq!(bodies(&lease(&database, 2).await), sent([3, 4]));
}

#[tokio::test]
async fn a_clock_that_jumps_while_messages_are_sent_skips_none() {
    let (folder, clock) = (TempDir::new().unwrap(), ManualClock::default());
    let database = open(folder.path(), &clock);
    let begun = clock.now();
    clock.advance(Duration::from_hours(30));
    send(&database, [1]).await;
    let failing = lease(&database, 1).await.remove(0);
    settle(&database, &failing, Settlement::Release).await;
    send(&database, [2]).await;
    clock.set(begun);
    send(&database, [3]).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(bodies(&lease(&database, 1).await));
    }
    seen.sort_unstable();
    assert_eq!(seen, sent(1..=3));
}
