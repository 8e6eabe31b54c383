//! Several processes on one file, and processes that are killed.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::intake::{Accepted, Intake as _, Submission};
use keyturn_ports::queue::{NewMessage, Queue as _, QueueName, Settlement};
use keyturn_ports::results::{NewResult, ResultBody, ResultReader as _, ResultWriter as _};
use rusqlite::Connection;
use tempfile::TempDir;

const QUEUE: QueueName = QueueName::Requests;
const LEASE: Duration = Duration::from_mins(1);
const NEVER: Duration = Duration::from_secs(30);

/// Set for a child process of these tests: the file it is to write to.
const CHILDS_FILE: &str = "KEYTURN_TEST_CHILDS_FILE";

fn open(path: &Path) -> Database {
    Database::open(OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy))).unwrap()
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyturn.db");
    (folder, path)
}

fn message(text: &str) -> NewMessage {
    NewMessage { request: RequestId::of(text), device: DeviceId::from_bytes([1; 16]), body: text.to_owned() }
}

fn refusal(text: &str) -> NewResult {
    let expires = SystemClock.now().plus(LEASE);
    NewResult { request: RequestId::of(text), carries: None, body: ResultBody::Refused, expires }
}

#[tokio::test]
async fn each_sees_what_the_other_wrote() {
    let (_folder, path) = folder();
    let (one, two) = (open(&path), open(&path));
    one.send(QUEUE, vec![message("a")]).await.unwrap();
    assert_eq!(two.depth(QUEUE).await.unwrap().total, 1);
    let leased = two.lease(QUEUE, 32, LEASE).await.unwrap().remove(0);
    assert!(one.lease(QUEUE, 32, LEASE).await.unwrap().is_empty());
    let void = one.settle(QUEUE, vec![(leased.receipt, Settlement::Complete)], Vec::new()).await.unwrap();
    assert!(void.is_empty(), "a receipt is good in every process");
    assert_eq!(two.depth(QUEUE).await.unwrap().total, 0);
}

#[tokio::test]
async fn each_wakes_the_other() {
    let (_folder, path) = folder();
    let (one, two) = (open(&path), open(&path));
    for n in 0..20 {
        let text = n.to_string();
        let mut waiting = pin!(two.publication(RequestId::of(&text)));
        let _begun = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
        one.publish(vec![refusal(&text)]).await.unwrap();
        // A wake-up is a hint, so whoever waits looks and waits again.
        let found = tokio::time::timeout(NEVER, async {
            while two.result(RequestId::of(&text)).await.unwrap().is_none() {
                two.publication(RequestId::of(&text)).await;
            }
        });
        assert!(found.await.is_ok(), "round {n}");
    }
}

#[tokio::test]
async fn a_wait_that_began_before_the_write_ends() {
    let (_folder, path) = folder();
    let (one, two) = (open(&path), open(&path));
    let mut waiting = pin!(two.publication(RequestId::of("a")));
    let begun = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
    one.publish(vec![refusal("a")]).await.unwrap();
    assert!(begun || tokio::time::timeout(NEVER, waiting).await.is_ok());
}

/// Of many that wait, a publication wakes those whose result it is, whoever published it.
#[tokio::test]
async fn nobody_is_woken_for_the_result_of_somebody_else() {
    let (_folder, path) = folder();
    let (one, two) = (open(&path), open(&path));
    let mut waiting = pin!(two.publication(RequestId::of("a")));
    let mut is_woken =
        async || poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
    assert!(!is_woken().await);
    for (database, text) in [(&two, "b"), (&one, "c"), (&two, "d"), (&one, "e")] {
        let mut other = pin!(two.publication(RequestId::of(text)));
        let _begun = poll_fn(|context| Poll::Ready(other.as_mut().poll(context).is_ready())).await;
        database.publish(vec![refusal(text)]).await.unwrap();
        assert!(tokio::time::timeout(NEVER, other).await.is_ok(), "{text}");
        assert!(!is_woken().await, "{text}");
    }
    one.publish(vec![refusal("a")]).await.unwrap();
    let woken = async {
        while !is_woken().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(NEVER, woken).await.is_ok());
}

/// The number of a result that was forgotten is given again. Who waits for the next one of that number is woken.
#[tokio::test]
async fn forgotten_results_hide_no_new_one() {
    let (_folder, path) = folder();
    let (one, two) = (open(&path), open(&path));
    let file = Connection::open(&path).unwrap();
    for round in 0..5 {
        for n in 0..3 {
            one.publish(vec![refusal(&format!("{round} {n}"))]).await.unwrap();
        }
        let text = format!("{round} awaited");
        let mut waiting = pin!(two.publication(RequestId::of(&text)));
        let _begun = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_ready())).await;
        file.busy_timeout(NEVER).unwrap();
        file.execute("DELETE FROM results", []).unwrap();
        one.publish(vec![refusal(&text)]).await.unwrap();
        let found = tokio::time::timeout(NEVER, async {
            while two.result(RequestId::of(&text)).await.unwrap().is_none() {
                two.publication(RequestId::of(&text)).await;
            }
            waiting.await;
        });
        assert!(found.await.is_ok(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_leased_twice() {
    const MESSAGES: usize = 400;
    let (_folder, path) = folder();
    open(&path).send(QUEUE, (0..MESSAGES).map(|n| message(&n.to_string())).collect()).await.unwrap();
    let workers = [open(&path), open(&path), open(&path)].map(|database| tokio::spawn(work(database)));
    let mut seen = Vec::new();
    for worker in workers {
        seen.extend(worker.await.unwrap());
    }
    assert_eq!(seen.len(), MESSAGES);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), MESSAGES);
    let depth = open(&path).depth(QueueName::Findings).await.unwrap();
    assert_eq!(depth.total, u64::try_from(MESSAGES).unwrap());
}

/// Leases, forwards and completes until there is nothing left; returns what it got.
async fn work(database: Database) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let leased = database.lease(QUEUE, 7, LEASE).await.unwrap();
        if leased.is_empty() {
            return seen;
        }
        let forward = leased.iter().map(|leased| (QueueName::Findings, leased.message.clone())).collect();
        seen.extend(leased.iter().map(|leased| leased.message.body.clone()));
        let settled = leased.into_iter().map(|leased| (leased.receipt, Settlement::Complete)).collect();
        assert!(database.settle(QUEUE, settled, forward).await.unwrap().is_empty());
    }
}

/// Not a test of its own: what a child process does until it is killed. It prints each message once accepted.
#[test]
fn childs_part() {
    if let Some(path) = std::env::var_os(CHILDS_FILE) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(accept_until_killed(open(Path::new(&path))));
    }
}

async fn accept_until_killed(database: Database) {
    let lanes: Vec<_> = (0..16).map(|lane| tokio::spawn(accept_in_turn(database.clone(), lane))).collect();
    let worker = tokio::spawn(work_until_killed(database));
    for lane in lanes {
        lane.await.unwrap();
    }
    worker.await.unwrap();
}

async fn accept_in_turn(database: Database, lane: u32) {
    for n in 0_u64.. {
        let text = format!("accepted {} {lane} {n}", std::process::id());
        let submission = Submission { nonce: SystemClock.now(), message: message(&text) };
        assert_eq!(database.accept(vec![submission]).await.unwrap(), [Accepted::New]);
        // One write call per line, so that a kill cannot cut one in half.
        std::io::stdout().lock().write_all(format!("\n{text}\n").as_bytes()).unwrap();
    }
}

/// Internal steps between those that are told of.
async fn work_until_killed(database: Database) {
    loop {
        let leased = database.lease(QUEUE, 8, LEASE).await.unwrap();
        let forward = leased.iter().map(|leased| (QueueName::Findings, leased.message.clone())).collect();
        let settled = leased.into_iter().map(|leased| (leased.receipt, Settlement::Complete)).collect();
        database.settle(QUEUE, settled, forward).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// Runs children on the file and kills them once they have accepted `enough` messages between them.
fn kill_children(path: &Path, children: usize, enough: usize) -> Vec<String> {
    let mut running: Vec<_> = (0..children)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "childs_part", "--nocapture"])
                .env(CHILDS_FILE, path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut accepted = Vec::new();
    let mut outputs: Vec<_> =
        running.iter_mut().map(|child| BufReader::new(child.stdout.take().unwrap()).lines()).collect();
    for output in &mut outputs {
        let share =
            output.map(Result::unwrap).filter(|line| line.starts_with("accepted ")).take(enough / children);
        accepted.extend(share);
    }
    for child in &mut running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for output in outputs {
        accepted.extend(output.map(Result::unwrap).filter(|line| line.starts_with("accepted ")));
    }
    assert!(accepted.len() >= enough, "the children did their part");
    accepted
}

#[test]
fn nothing_accepted_is_lost_when_processes_are_killed() {
    let (_folder, path) = folder();
    drop(open(&path));
    let mut accepted = BTreeSet::new();
    for children in [1, 2, 1, 3] {
        accepted.extend(kill_children(&path, children, 120));
        let file = Connection::open(&path).unwrap();
        let sound: String = file.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        let mut bodies = file
            .prepare("SELECT body FROM queue_requests UNION ALL SELECT body FROM queue_findings")
            .unwrap();
        let stored: Vec<String> =
            bodies.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let kept: BTreeSet<String> = stored.iter().cloned().collect();
        assert_eq!(kept.len(), stored.len(), "a forward and its original are never both there");
        assert_eq!(accepted.difference(&kept).next(), None, "accepted and gone");
        let sums = "SELECT (SELECT sum(total) FROM queue_counters), \
                    (SELECT count(*) FROM queue_requests) + (SELECT count(*) FROM queue_findings)";
        let (counted, present): (i64, i64) =
            file.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!((counted, present), (present, i64::try_from(stored.len()).unwrap()));
    }
}
