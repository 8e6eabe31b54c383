//! What is no longer needed goes away by itself.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock as _;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::intake::{Intake as _, Submission};
use keyturn_ports::queue::{Queue as _, QueueName, Settlement};
use keyturn_ports::results::{NewResult, ResultBody, ResultWriter as _};
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

#[tokio::test]
async fn accepted_messages_are_forgotten_after_a_day() {
    let (_folder, database, clock) = fresh();
    let accept = |n| vec![Submission { nonce: clock.now(), message: sample::message(n) }];
    for n in 1..=4 {
        database.accept(accept(n)).await.unwrap();
    }
    clock.advance(Duration::from_hours(25));
    for (n, left) in [(5, 3), (6, 2), (7, 3)] {
        database.accept(accept(n)).await.unwrap();
        assert_eq!(rows(&database, "accepted"), left);
    }
}

#[tokio::test]
async fn expired_results_are_taken_away() {
    let (_folder, database, clock) = fresh();
    let publish = |n| {
        let expires = clock.now().plus(Duration::from_mins(1));
        vec![NewResult { request: sample::request(n), carries: None, body: ResultBody::Refused, expires }]
    };
    for n in 1..=4 {
        database.publish(publish(n)).await.unwrap();
    }
    clock.advance(Duration::from_mins(1));
    for (n, left) in [(5, 3), (6, 2), (7, 3)] {
        database.publish(publish(n)).await.unwrap();
        assert_eq!(rows(&database, "results"), left);
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
