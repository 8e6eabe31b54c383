//! How soon one process learns what another wrote: `cargo bench -p keyturn-embedded --bench wake`.
//!
//! Two open files stand for two processes. One publishes a result, or sends a message, and the other waits for it.
//! Printed are the time that publishing takes, which is that of the commit, and the time from then on until the other
//! has it, in milliseconds, and what waiting for a second costs of the processor when nothing happens.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first failure, and measures with the machine's own clock"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::queue::{NewMessage, Queue as _, QueueName, Settlement};
use keyturn_ports::results::{NewResult, ResultBody, ResultReader as _, ResultWriter as _};
use tempfile::TempDir;

const ROUNDS: usize = 300;
const LEASE: Duration = Duration::from_mins(1);

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

fn open(path: &Path) -> Database {
    Database::open(OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy))).unwrap()
}

async fn measure() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyturn.db");
    let (one, two) = (open(&path), open(&path));
    let (mut published, mut sent) = (Vec::new(), Vec::new());
    for n in 0..ROUNDS {
        published.push(result(&one, &two, &format!("result {n}")).await);
        sent.push(message(&one, &two, &format!("message {n}")).await);
    }
    println!("                commit p50  then seen p50   p90   p99  ms");
    tell("a result", &published);
    tell("a message", &sent);
    let begun = processor();
    drop(tokio::time::timeout(Duration::from_secs(5), two.publication(RequestId::of("never"))).await);
    println!(
        "waiting for nothing costs {:.3} % of a core",
        processor().saturating_sub(begun).as_secs_f64() / 5.0 * 100.0
    );
}

/// The time of the commit, and the time after it until the other has it.
type Took = (Duration, Duration);

async fn result(one: &Database, two: &Database, text: &str) -> Took {
    let (request, other) = (RequestId::of(text), two.clone());
    let waiting = tokio::spawn(async move {
        while other.result(request).await.unwrap().is_none() {
            other.publication(request).await;
        }
        Instant::now()
    });
    tokio::time::sleep(Duration::from_millis(3)).await;
    let expires = SystemClock.now().plus(LEASE);
    let begun = Instant::now();
    one.publish(vec![NewResult { request, carries: None, body: ResultBody::Refused, expires }])
        .await
        .unwrap();
    let committed = Instant::now();
    (committed - begun, waiting.await.unwrap().saturating_duration_since(committed))
}

async fn message(one: &Database, two: &Database, text: &str) -> Took {
    let other = two.clone();
    let waiting = tokio::spawn(async move {
        loop {
            if let Some(leased) = other.lease(QueueName::Findings, 1, LEASE).await.unwrap().pop() {
                let seen = Instant::now();
                let done = vec![(leased.receipt, Settlement::Complete)];
                other.settle(QueueName::Findings, done, Vec::new()).await.unwrap();
                return seen;
            }
            other.arrival(QueueName::Findings).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(3)).await;
    let device = DeviceId::from_bytes([1; 16]);
    let message = NewMessage { request: RequestId::of(text), device, body: "x".repeat(1024) };
    let begun = Instant::now();
    one.send(QueueName::Findings, vec![message]).await.unwrap();
    let committed = Instant::now();
    (committed - begun, waiting.await.unwrap().saturating_duration_since(committed))
}

fn tell(what: &str, took: &[Took]) {
    let sorted = |of: fn(&Took) -> Duration| {
        let mut times: Vec<_> = took.iter().map(of).collect();
        times.sort_unstable();
        move |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3
    };
    let (commit, seen) = (sorted(|took| took.0), sorted(|took| took.1));
    println!("{what:15} {:>10.2} {:>14.2} {:>5.2} {:>5.2}", commit(50), seen(50), seen(90), seen(99));
}

fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}
