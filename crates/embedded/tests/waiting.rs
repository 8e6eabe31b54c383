//! Waiting for messages, across processes and by those who stop waiting.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::queue::{Leased, NewMessage, Queue as _, QueueName, Settlement};
use tempfile::TempDir;

const QUEUE: QueueName = QueueName::Findings;
const LEASE: Duration = Duration::from_mins(1);
const NEVER: Duration = Duration::from_secs(30);

fn open(path: &Path) -> Database {
    Database::open(OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy))).unwrap()
}

fn message(number: usize) -> NewMessage {
    let body = number.to_string();
    NewMessage { request: RequestId::of(&body), device: DeviceId::from_bytes([1; 16]), body }
}

async fn next(database: &Database, max: usize) -> Vec<Leased> {
    let looking = async {
        loop {
            let leased = database.next(QUEUE, max, LEASE).await.unwrap();
            if !leased.is_empty() {
                return leased;
            }
        }
    };
    tokio::time::timeout(NEVER, looking).await.unwrap()
}

#[tokio::test]
async fn what_another_process_sends_ends_the_wait() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyturn.db");
    let (one, two) = (open(&path), open(&path));
    let sending = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        two.send(QUEUE, vec![message(1)]).await.unwrap();
    };
    let (leased, ()) = tokio::join!(next(&one, 32), sending);
    assert_eq!(leased.len(), 1);
}

#[tokio::test]
async fn those_who_wait_share_what_comes() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder.path().join("keyturn.db"));
    let sending = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        database.send(QUEUE, (0..3).map(message).collect()).await.unwrap();
    };
    let (one, two, ()) = tokio::join!(next(&database, 2), next(&database, 2), sending);
    let bodies: BTreeSet<String> = one.iter().chain(&two).map(|leased| leased.message.body.clone()).collect();
    assert_eq!((one.len() + two.len(), bodies.len()), (3, 3));
}

/// Waiters go away at every point there is between asking and having; a message that one of them was given is visible
/// again at once, and has not been delivered.
#[tokio::test]
async fn whoever_goes_away_takes_nothing_along() {
    let folder = TempDir::new().unwrap();
    let database = open(&folder.path().join("keyturn.db"));
    let (mut gone, mut had) = (0, 0);
    for number in 0..400 {
        let polls = number % 20;
        {
            let mut waiting = pin!(database.next(QUEUE, 32, LEASE));
            let poll = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context)));
            assert!(poll.await.is_pending());
            let sending = tokio::spawn({
                let database = database.clone();
                async move { database.send(QUEUE, vec![message(number)]).await.unwrap() }
            });
            let mut early = Vec::new();
            for _ in 0..polls {
                tokio::time::sleep(Duration::from_micros(20)).await;
                if let Poll::Ready(leased) =
                    poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await
                {
                    early = leased.unwrap();
                    break;
                }
            }
            if !early.is_empty() {
                had += 1;
                done(&database, early).await;
                sending.await.unwrap();
                continue;
            }
            // A wait that ended without a message may not be polled again; it is over either way.
            sending.await.unwrap();
        }
        gone += 1;
        let leased = next(&database, 32).await;
        assert_eq!(leased.len(), 1, "message {number}");
        assert_eq!(leased[0].deliveries, 1);
        done(&database, leased).await;
    }
    assert_eq!(database.depth(QUEUE).await.unwrap().total, 0);
    assert!(gone > 20, "{gone} went away");
    assert!(had > 0, "{had} had their message");
}

async fn done(database: &Database, leased: Vec<Leased>) {
    let settled = leased.into_iter().map(|leased| (leased.receipt, Settlement::Complete)).collect();
    assert!(database.settle(QUEUE, settled, Vec::new()).await.unwrap().is_empty());
}
