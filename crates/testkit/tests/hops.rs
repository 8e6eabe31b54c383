//! A pipeline whose hops have several engines: two files stand for two engines that know nothing of each other.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_pipeline::hops::Hops;
use keyturn_pipeline::worker::{Worker, WorkerSettings};
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::intake::{Intake as _, Submission};
use keyturn_ports::queue::{Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use keyturn_ports::{Error, Kind};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use keyturn_testkit::entropy::SeededEntropy;
use tempfile::TempDir;

const LEASE: Duration = Duration::from_mins(1);

/// An engine that can be away, loses its answers then, and refuses messages it cannot carry.
struct Elsewhere {
    file: Database,
    away: AtomicBool,
    answer_lost: AtomicBool,
}

#[async_trait]
impl Queue for Elsewhere {
    async fn send(&self, queue: QueueName, messages: Vec<NewMessage>) -> Result<(), Error> {
        let failed = |kind| Err(Error::new(kind, "sending elsewhere", "as the test wants it"));
        if self.away.load(Ordering::SeqCst) {
            return failed(Kind::Unavailable);
        }
        if messages.iter().any(|message| message == &sample::message(66)) {
            return failed(Kind::Corrupt);
        }
        self.file.send(queue, messages).await?;
        if self.answer_lost.swap(false, Ordering::SeqCst) { failed(Kind::Unavailable) } else { Ok(()) }
    }

    async fn lease(&self, queue: QueueName, max: usize, lease: Duration) -> Result<Vec<Leased>, Error> {
        self.file.lease(queue, max, lease).await
    }

    async fn renew(
        &self,
        queue: QueueName,
        held: Vec<Receipt>,
        lease: Duration,
    ) -> Result<Vec<Receipt>, Error> {
        self.file.renew(queue, held, lease).await
    }

    async fn settle(
        &self,
        queue: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        self.file.settle(queue, settled, forward).await
    }

    fn system(&self, _: QueueName) -> &'static str {
        "elsewhere"
    }

    async fn depth(&self, queue: QueueName) -> Result<Depth, Error> {
        self.file.depth(queue).await
    }

    async fn arrival(&self, queue: QueueName) {
        self.file.arrival(queue).await;
    }
}

/// The state, and requests and findings elsewhere.
struct House {
    clock: ManualClock,
    state: Database,
    elsewhere: Arc<Elsewhere>,
    hops: Hops,
    _folder: TempDir,
}

fn house() -> House {
    let (folder, clock) = (TempDir::new().unwrap(), ManualClock::default());
    let open = |name: &str| {
        let (time, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(clock.clone()), Arc::new(SeededEntropy::new(1)));
        Database::open(OpenOptions::new(folder.path().join(name), time, entropy)).unwrap()
    };
    let state = open("state.db");
    let (away, answer_lost) = (AtomicBool::new(false), AtomicBool::new(false));
    let elsewhere = Arc::new(Elsewhere { file: open("elsewhere.db"), away, answer_lost });
    let outside = [QueueName::Requests, QueueName::Findings]
        .map(|queue| (queue, Arc::clone(&elsewhere) as Arc<dyn Queue>));
    let hops = Hops::new(Arc::new(state.clone()), BTreeMap::from(outside));
    House { clock, state, elsewhere, hops, _folder: folder }
}

impl House {
    fn relay(&self) -> Worker {
        Worker {
            queue: Arc::new(self.state.clone()),
            name: QueueName::Requests,
            handler: Arc::new(self.hops.relay(QueueName::Requests).unwrap()),
            settings: WorkerSettings::default(),
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SeededEntropy::new(2)),
        }
    }

    async fn accept(&self, messages: impl IntoIterator<Item = u8>) {
        let nonce = self.clock.now();
        let accepted =
            messages.into_iter().map(|n| Submission { nonce, message: sample::message(n) }).collect();
        self.state.accept(accepted).await.unwrap();
    }

    async fn bodies(&self, queue: QueueName) -> Vec<String> {
        let leased = self.hops.lease(queue, 99, LEASE).await.unwrap();
        let mut bodies: Vec<_> = leased.into_iter().map(|leased| leased.message.body).collect();
        bodies.sort_unstable();
        bodies
    }

    async fn depth(&self, queue: QueueName) -> (u64, u64) {
        let depth = self.hops.depth(queue).await.unwrap();
        (depth.total, depth.dead)
    }
}

fn sent(messages: impl IntoIterator<Item = u8>) -> Vec<String> {
    messages.into_iter().map(|n| sample::message(n).body).collect()
}

#[tokio::test]
async fn what_the_state_accepts_is_carried_over() {
    let house = house();
    house.accept(1..=3).await;
    assert_eq!(house.depth(QueueName::Requests).await, (3, 0), "what waits to be carried over counts");
    assert_eq!(house.bodies(QueueName::Requests).await, sent([]));
    assert_eq!(house.relay().step().await.unwrap(), 3);
    assert_eq!(house.depth(QueueName::Requests).await, (3, 0));
    assert_eq!(house.bodies(QueueName::Requests).await, sent(1..=3));
    assert!(house.hops.relay(QueueName::Outcomes).is_none(), "that hop is the state's own");
}

#[tokio::test]
async fn an_engine_that_is_away_loses_nothing_however_long() {
    let house = house();
    house.elsewhere.away.store(true, Ordering::SeqCst);
    house.accept(1..=3).await;
    for _ in 0..20 {
        house.relay().step().await.unwrap();
        house.clock.advance(Duration::from_mins(1));
    }
    assert_eq!(house.depth(QueueName::Requests).await, (3, 0), "nobody is given up on");
    house.elsewhere.away.store(false, Ordering::SeqCst);
    house.relay().step().await.unwrap();
    assert_eq!(house.bodies(QueueName::Requests).await, sent(1..=3));
}

#[tokio::test]
async fn an_answer_that_is_lost_sends_twice_and_never_not_at_all() {
    let house = house();
    house.elsewhere.answer_lost.store(true, Ordering::SeqCst);
    house.accept(1..=2).await;
    house.relay().step().await.unwrap();
    house.clock.advance(Duration::from_mins(2));
    house.relay().step().await.unwrap();
    assert_eq!(house.bodies(QueueName::Requests).await, sent([1, 1, 2, 2]));
    assert_eq!(house.state.depth(QueueName::Requests).await.unwrap().total, 0);
}

#[tokio::test]
async fn a_message_that_cannot_be_carried_dies_alone() {
    let house = house();
    house.accept([1, 66, 2]).await;
    for _ in 0..WorkerSettings::default().retry.max_deliveries {
        house.relay().step().await.unwrap();
        house.clock.advance(Duration::from_mins(2));
    }
    assert_eq!(house.bodies(QueueName::Requests).await, sent([1, 2]));
    assert_eq!(house.depth(QueueName::Requests).await, (2, 1));
    assert_eq!(house.state.list(None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_forwarded_across_engines_is_there_before_its_origin_goes() {
    let house = house();
    for (from, onto) in
        [(QueueName::Findings, QueueName::Outcomes), (QueueName::Outcomes, QueueName::Findings)]
    {
        house.hops.send(from, vec![sample::message(1)]).await.unwrap();
        let leased = house.hops.lease(from, 1, LEASE).await.unwrap().remove(0);
        let settled = || vec![(leased.receipt.clone(), Settlement::Complete)];
        let forward = || vec![(onto, sample::message(2)), (from, sample::message(3))];
        if onto == QueueName::Findings {
            house.elsewhere.away.store(true, Ordering::SeqCst);
            let failed = house.hops.settle(from, settled(), forward()).await;
            assert_eq!(failed.unwrap_err().kind(), Kind::Unavailable);
            assert_eq!(house.depth(from).await.0, 2, "neither settled nor forwarded");
            house.elsewhere.away.store(false, Ordering::SeqCst);
        }
        assert!(house.hops.settle(from, settled(), forward()).await.unwrap().is_empty());
        assert!(house.bodies(onto).await.contains(&sample::message(2).body));
        assert!(house.bodies(from).await.contains(&sample::message(3).body));
    }
}
