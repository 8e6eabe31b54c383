//! What many long-polls cost the server, counted in its own log.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::RequestId;
use keyturn_ports::results::{NewResult, ResultBody, ResultReader as _, ResultWriter as _};
use keyturn_postgres::{Database, Limits, Settings, Times, Tls};
use keyturn_testkit::postgres::{Cluster, TestDatabase};
use tokio::task::JoinSet;

const WAITING: u16 = 400;
const PUBLICATIONS: usize = 5;

fn request(n: u16) -> RequestId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    RequestId::from_slice(&bytes).unwrap()
}

fn open(database: &TestDatabase) -> Database {
    let settings = Settings::new(&database.address(), None, Tls::Off, Limits::default()).unwrap();
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    Database::make(&settings, clock.clone(), entropy.clone(), Times::Server).unwrap();
    Database::open(&settings, clock, entropy, Times::Server).unwrap()
}

fn result(n: u16) -> NewResult {
    let expires = SystemClock.now().plus(Duration::from_hours(1));
    let body = ResultBody::Signed(format!("result {n}"));
    NewResult { request: request(n), body, expires, carries: None }
}

/// Waits for a result as a long-poll does. Says when it has registered for the next publication.
async fn long_poll(database: Database, n: u16, waits: tokio::sync::mpsc::Sender<()>) -> (u16, ResultBody) {
    loop {
        let mut published = database.publication(request(n));
        // Registered first, looked second.
        assert!(futures_util::poll!(published.as_mut()).is_pending());
        if let Some(body) = database.result(request(n)).await.unwrap() {
            return (n, body);
        }
        waits.send(()).await.unwrap();
        published.await;
    }
}

/// How often the server was asked for results.
fn asked(database: &TestDatabase) -> usize {
    database.cluster().log().lines().filter(|line| line.contains("FROM results")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polls_that_are_woken_together_ask_together() {
    let cluster = Cluster::private();
    cluster.configure("log_statement = 'all'");
    cluster.stop();
    cluster.start();
    let server = TestDatabase::on(cluster);
    let (waiting, publishing) = (open(&server), open(&server));
    let (waits, mut waiters) = tokio::sync::mpsc::channel(usize::from(WAITING));
    let mut polls = JoinSet::new();
    for n in 0..WAITING {
        polls.spawn(long_poll(waiting.clone(), n, waits.clone()));
    }
    for _ in 0..WAITING {
        waiters.recv().await.unwrap();
    }
    let before = asked(&server);
    for published in 0..PUBLICATIONS {
        publishing.publish(vec![result(u16::try_from(published).unwrap())]).await.unwrap();
        // One has its result, and the others wait again.
        for _ in 0..usize::from(WAITING) - published - 1 {
            waiters.recv().await.unwrap();
        }
    }
    let reads = asked(&server) - before;
    println!("{WAITING} long-polls, {PUBLICATIONS} publications: {reads} reads");
    assert!(reads <= 20 * PUBLICATIONS, "{reads} reads");

    // Everybody gets what is theirs, and nobody anything else.
    let rest = (u16::try_from(PUBLICATIONS).unwrap()..WAITING).map(result).collect();
    publishing.publish(rest).await.unwrap();
    drop(waits);
    let mut had = BTreeSet::new();
    while let Some(done) = polls.join_next().await {
        let (n, body) = done.unwrap();
        assert_eq!(body, ResultBody::Signed(format!("result {n}")));
        had.insert(n);
    }
    assert_eq!(had.len(), usize::from(WAITING));
}

/// Those who wait for a read that another one began are not left alone when that one stops waiting.
#[tokio::test]
async fn a_read_is_seen_to_whoever_goes_away() {
    let server = TestDatabase::fresh();
    let database = open(&server);
    database.publish(vec![result(1), result(2)]).await.unwrap();
    let (first, second) = (database.clone(), database.clone());
    let mut first = Box::pin(async move { first.result(request(1)).await });
    let mut second = Box::pin(async move { second.result(request(2)).await });
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(first);
    assert_eq!(second.await.unwrap(), Some(ResultBody::Signed("result 2".to_owned())));
    assert_eq!(database.result(request(3)).await.unwrap(), None);
}

/// What fails fails for everybody who shares the read, with its cause.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_is_told_to_all() {
    let server = TestDatabase::on(Cluster::private());
    let database = open(&server);
    assert_eq!(database.result(request(1)).await.unwrap(), None);
    server.cluster().crash();
    let mut asking = JoinSet::new();
    for n in 0..50 {
        let database = database.clone();
        asking.spawn(async move { database.result(request(n)).await });
    }
    while let Some(told) = asking.join_next().await {
        let error = told.unwrap().unwrap_err();
        assert_eq!(error.kind(), keyturn_ports::Kind::Unavailable, "{error}");
    }
    server.cluster().start();
    for tries in 0.. {
        match database.result(request(1)).await {
            Ok(found) => {
                assert_eq!(found, None);
                break;
            }
            Err(error) => assert!(tries < 100, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
