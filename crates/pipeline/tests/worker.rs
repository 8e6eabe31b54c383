//! The worker's promises, against a queue that plays back what it is told to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::handler::{Failure, Handled, Handler, Verdict};
use keyturn_pipeline::worker::{Worker, WorkerSettings};
use keyturn_ports::queue::{DeadReason, Depth, Leased, NewMessage, Queue, QueueName, Receipt, Settlement};
use keyturn_ports::{Error, Kind};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::entropy::SeededEntropy;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A queue that hands out prepared batches and writes down what becomes of them.
#[derive(Default)]
struct Script {
    batches: Mutex<VecDeque<Result<Vec<Leased>, Error>>>,
    settled: Mutex<Vec<(Receipt, Settlement)>>,
    forwarded: Mutex<Vec<NewMessage>>,
    renewals: AtomicUsize,
    renewed: Notify,
    ran_dry: Notify,
    /// So many settlements fail first.
    unsettled: AtomicUsize,
}

#[async_trait]
impl Queue for Script {
    async fn send(&self, _: QueueName, _: Vec<NewMessage>) -> Result<(), Error> {
        panic!("workers send by settling");
    }

    async fn lease(&self, _: QueueName, _: usize, _: Duration) -> Result<Vec<Leased>, Error> {
        self.batches.lock().unwrap().pop_front().unwrap_or(Ok(Vec::new()))
    }

    async fn renew(&self, _: QueueName, _: Vec<Receipt>, _: Duration) -> Result<Vec<Receipt>, Error> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.renewed.notify_one();
        Ok(Vec::new())
    }

    async fn settle(
        &self,
        _: QueueName,
        settled: Vec<(Receipt, Settlement)>,
        forward: Vec<(QueueName, NewMessage)>,
    ) -> Result<Vec<Receipt>, Error> {
        let failing = |left: usize| left.checked_sub(1);
        if self.unsettled.fetch_update(Ordering::SeqCst, Ordering::SeqCst, failing).is_ok() {
            return Err(Error::new(Kind::Unavailable, "settling", "away"));
        }
        self.settled.lock().unwrap().extend(settled);
        self.forwarded.lock().unwrap().extend(forward.into_iter().map(|(_, message)| message));
        Ok(Vec::new())
    }

    fn system(&self, _: QueueName) -> &'static str {
        "script"
    }

    async fn depth(&self, _: QueueName) -> Result<Depth, Error> {
        Ok(Depth::default())
    }

    async fn arrival(&self, _: QueueName) {
        self.ran_dry.notify_one();
        std::future::pending::<()>().await;
    }
}

/// What a message's body asks the handler to do.
struct Obedient {
    release: Arc<Notify>,
}

#[async_trait]
impl Handler for Obedient {
    async fn handle(&self, batch: &[Leased]) -> Vec<Handled> {
        let mut handled = Vec::new();
        for leased in batch {
            handled.push(match leased.message.body.as_str() {
                "forward" => Handled::forward(QueueName::Findings, leased.message.clone()),
                "engine" => Handled::failed(Failure::Engine("the vault is away".to_owned())),
                "message" => Handled::failed(Failure::Message("the record is damaged".to_owned())),
                "failed forward" => Handled {
                    verdict: Verdict::Failed(Failure::Engine("too early".to_owned())),
                    forward: vec![(QueueName::Findings, leased.message.clone())],
                    sent: Vec::new(),
                    rotation: None,
                },
                "dead" => Handled::dead(DeadReason::Untrusted, "forged"),
                "panic" => panic!("as asked"),
                "wait" => {
                    self.release.notified().await;
                    Handled::done()
                }
                _ => Handled::done(),
            });
        }
        handled
    }
}

struct Stage {
    script: Arc<Script>,
    clock: ManualClock,
    release: Arc<Notify>,
    worker: Worker,
}

fn stage(batches: impl IntoIterator<Item = Result<Vec<Leased>, Error>>) -> Stage {
    let script = Arc::new(Script { batches: Mutex::new(batches.into_iter().collect()), ..Script::default() });
    let (clock, release) = (ManualClock::default(), Arc::new(Notify::new()));
    let worker = Worker {
        queue: Arc::clone(&script) as Arc<dyn Queue>,
        name: QueueName::Requests,
        handler: Arc::new(Obedient { release: Arc::clone(&release) }),
        settings: WorkerSettings::default(),
        clock: Arc::new(clock.clone()),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    Stage { script, clock, release, worker }
}

fn leased(body: &str, deliveries: u32, enqueued: UnixMillis) -> Leased {
    Leased {
        receipt: Receipt { message: body.to_owned(), lease: "1".to_owned() },
        message: NewMessage {
            request: RequestId::of(body),
            device: DeviceId::from_bytes([1; 16]),
            body: body.to_owned(),
        },
        deliveries,
        enqueued,
    }
}

fn now() -> UnixMillis {
    use keyturn_domain::clock::Clock as _;
    ManualClock::default().now()
}

impl Stage {
    fn settlement(&self, body: &str) -> Settlement {
        let settled = self.script.settled.lock().unwrap();
        settled.iter().find(|(receipt, _)| receipt.message == body).unwrap().1.clone()
    }
}

#[tokio::test]
async fn every_message_is_settled_by_itself() {
    let batch =
        ["done", "forward", "engine", "message", "dead", "failed forward"].map(|body| leased(body, 1, now()));
    let stage = stage([Ok(batch.to_vec())]);
    assert_eq!(stage.worker.step().await.unwrap(), 6);
    assert_eq!(stage.settlement("done"), Settlement::Complete);
    assert_eq!(stage.settlement("forward"), Settlement::Complete);
    assert!(matches!(stage.settlement("engine"), Settlement::Retry { .. }));
    assert!(matches!(stage.settlement("message"), Settlement::Retry { .. }));
    assert!(matches!(stage.settlement("dead"), Settlement::DeadLetter { reason: DeadReason::Untrusted, .. }));
    let forwarded = stage.script.forwarded.lock().unwrap();
    assert_eq!(forwarded.iter().map(|message| message.body.as_str()).collect::<Vec<_>>(), ["forward"]);
}

#[tokio::test]
async fn a_panic_costs_its_own_message_alone() {
    let batch = ["done", "panic", "forward"].map(|body| leased(body, 1, now()));
    let stage = stage([Ok(batch.to_vec()), Ok(vec![leased("panic", 5, now())])]);
    stage.worker.step().await.unwrap();
    assert_eq!(
        (stage.settlement("done"), stage.settlement("forward")),
        (Settlement::Complete, Settlement::Complete)
    );
    assert!(matches!(stage.settlement("panic"), Settlement::Retry { .. }));
    stage.script.settled.lock().unwrap().clear();
    stage.worker.step().await.unwrap();
    assert!(matches!(
        stage.settlement("panic"),
        Settlement::DeadLetter { reason: DeadReason::Exhausted, .. }
    ));
}

#[tokio::test]
async fn a_message_at_fault_has_five_deliveries_and_one_that_waits_has_half_an_hour() {
    for (body, deliveries, age, dead) in [
        ("message", 4, 0, false),
        ("message", 5, 0, true),
        ("engine", 5, 0, false),
        ("engine", 500, 29, false),
        ("engine", 4, 31, false),
        ("engine", 5, 31, true),
    ] {
        let stage = stage([Ok(vec![leased(body, deliveries, now())])]);
        stage.clock.advance(Duration::from_mins(age));
        stage.worker.step().await.unwrap();
        let settled = stage.settlement(body);
        assert_eq!(
            matches!(settled, Settlement::DeadLetter { .. }),
            dead,
            "{body} {deliveries} {age}: {settled:?}"
        );
    }
}

#[tokio::test]
async fn delays_double_up_to_a_minute_and_spread() {
    for (deliveries, least, most) in [(1, 500, 1000), (2, 1000, 2000), (3, 2000, 4000), (60, 30_000, 60_000)]
    {
        let stage = stage([Ok(vec![leased("engine", deliveries, now())])]);
        stage.worker.step().await.unwrap();
        let Settlement::Retry { after, .. } = stage.settlement("engine") else { panic!("not a retry") };
        assert!((least..=most).contains(&after.as_millis()), "{deliveries}: {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_while_a_batch_is_handled() {
    let stage = stage([Ok(vec![leased("wait", 1, now())])]);
    let step = stage.worker.step();
    tokio::pin!(step);
    for _ in 0..3 {
        tokio::select! {
            _ = &mut step => panic!("the batch is still being handled"),
            () = stage.script.renewed.notified() => {}
        }
    }
    stage.release.notify_one();
    assert_eq!(step.await.unwrap(), 1);
    assert_eq!(stage.script.renewals.load(Ordering::SeqCst), 3);
    assert_eq!(stage.settlement("wait"), Settlement::Complete);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_fails_is_waited_for_and_a_batch_in_hand_is_finished() {
    let away = || Err(Error::new(Kind::Unavailable, "leasing", "away"));
    let stage = stage([away(), away(), away(), Ok(vec![leased("wait", 1, now())])]);
    let stop = CancellationToken::new();
    let (worker, token) = (stage.worker.clone(), stop.clone());
    let running = tokio::spawn(async move { worker.run(token).await });
    stage.script.renewed.notified().await;
    stop.cancel();
    stage.release.notify_one();
    running.await.unwrap();
    assert_eq!(stage.settlement("wait"), Settlement::Complete);
}

#[tokio::test]
async fn an_idle_worker_stops_at_once() {
    let stage = stage([]);
    let stop = CancellationToken::new();
    let (worker, token) = (stage.worker.clone(), stop.clone());
    let running = tokio::spawn(async move { worker.run(token).await });
    stage.script.ran_dry.notified().await;
    stop.cancel();
    running.await.unwrap();
}

/// A batch is leased while the one before it is settled: what becomes of that does not touch it.
#[tokio::test(start_paused = true)]
async fn a_settlement_that_fails_costs_its_own_batch_alone() {
    let stage = stage(["done", "forward"].map(|body| Ok(vec![leased(body, 1, now())])));
    stage.script.unsettled.store(1, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let (worker, token) = (stage.worker.clone(), stop.clone());
    let running = tokio::spawn(async move { worker.run(token).await });
    stage.script.ran_dry.notified().await;
    stop.cancel();
    running.await.unwrap();
    let settled = stage.script.settled.lock().unwrap();
    let [(receipt, settlement)] = settled.as_slice() else { panic!("{settled:?}") };
    assert_eq!((receipt.message.as_str(), settlement), ("forward", &Settlement::Complete));
    assert_eq!(stage.script.forwarded.lock().unwrap().len(), 1);
}
