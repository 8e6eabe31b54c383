//! The loop of a worker.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::Error;
use keyturn_ports::queue::{Leased, Queue, QueueName, Receipt, Settlement};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::handler::{Failure, Handled, Handler, Verdict};
use crate::measures::Meter;
use crate::settle::RetryPolicy;
use crate::spans;

use self::trail::Trail;

mod trail;

/// How a worker takes its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    /// The most messages in one batch.
    pub batch: usize,
    /// How long a lease runs. It is renewed at a third of this while the batch is being handled.
    pub lease: Duration,
    /// When to try again and when to give up.
    pub retry: RetryPolicy,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self { batch: 64, lease: Duration::from_secs(30), retry: RetryPolicy::default() }
    }
}

/// How long to wait for an engine that fails.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(LONGEST_PAUSE)
    .without_max_times();
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A worker on one queue.
#[derive(Clone)]
pub struct Worker {
    /// Where messages come from.
    pub queue: Arc<dyn Queue>,
    /// Which of them.
    pub name: QueueName,
    /// What is done with them.
    pub handler: Arc<dyn Handler>,
    /// How they are taken.
    pub settings: WorkerSettings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for delays.
    pub entropy: Arc<dyn Entropy>,
}

impl Worker {
    /// Works until `stop`, then finishes the batch in hand. An engine that fails is waited for: the pause grows
    /// from 100 ms to 5 s and ends with the first success.
    ///
    /// A batch is settled while the next one is asked for, so that an engine can do both in one step.
    pub async fn run(&self, stop: CancellationToken) {
        let mut pauses = PAUSES.build();
        let mut worked = None;
        loop {
            let next = async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Ok(None),
                    next = self.next() => next,
                }
            };
            let (settled, next) = tokio::join!(self.finish(worked.take()), next);
            let failed = match (settled, next) {
                (Ok(_), Ok(None)) if stop.is_cancelled() => return,
                (Ok(_), Ok(None)) => continue,
                (settled, Ok(Some((batch, took)))) => {
                    worked = Some(self.work(batch, took).await);
                    settled.err()
                }
                (Err(error), _) | (Ok(_), Err(error)) => Some(error),
            };
            match failed {
                None => pauses = PAUSES.build(),
                Some(error) => {
                    let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                    metrics::counter!("keyturn_engine_errors_total", "queue" => self.name.as_str())
                        .increment(1);
                    warn!(queue = %self.name, error = %error, "queue failed, trying again in {} ms", pause.as_millis());
                    wait(&stop, tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    /// Leases, handles and settles one batch, if there is one now. Returns how many messages it had.
    pub async fn step(&self) -> Result<usize, Error> {
        let asked = self.clock.monotonic();
        let leased = self.queue.lease(self.name, self.settings.batch, self.settings.lease).await;
        let took = self.clock.monotonic().saturating_sub(asked);
        self.meter().called("lease", took, &leased);
        let leased = leased?;
        if leased.is_empty() {
            return Ok(0);
        }
        let worked = self.work(leased.into(), took).await;
        self.finish(Some(worked)).await
    }

    /// Waits for a batch; none is to be asked for again. Returns it with the time it took to get: if it was waited for,
    /// that is the time since its last message was sent.
    async fn next(&self) -> Result<Option<(Arc<[Leased]>, Duration)>, Error> {
        let asked = self.clock.monotonic();
        let leased = self.queue.next(self.name, self.settings.batch, self.settings.lease).await;
        let mut took = self.clock.monotonic().saturating_sub(asked);
        if let Ok(batch) = &leased {
            let Some(sent) = batch.iter().map(|leased| leased.enqueued).max() else { return Ok(None) };
            took = took.min(self.clock.now().since(sent));
        }
        self.meter().called("lease", took, &leased);
        Ok(Some((leased?.into(), took)))
    }

    /// Handles a batch that took that long to lease.
    async fn work(&self, batch: Arc<[Leased]>, took: Duration) -> Worked<'_> {
        let meter = self.meter();
        meter.consumed(batch.len(), self.handler.operation());
        let trail = Trail::begin(self, &batch, took);
        let leased = self.clock.now();
        for message in batch.iter() {
            metrics::histogram!("keyturn_queue_wait_seconds", "queue" => self.name.as_str())
                .record(leased.since(message.enqueued).as_secs_f64());
        }
        let started = self.clock.monotonic();
        let handled = self.handle_and_renew(&batch).await;
        let took = self.clock.monotonic().saturating_sub(started);
        meter.processed(took, self.handler.operation());
        Worked { batch, handled, trail }
    }

    /// Settles a batch. Returns how many messages it had.
    async fn finish(&self, worked: Option<Worked<'_>>) -> Result<usize, Error> {
        let Some(Worked { batch, handled, trail }) = worked else { return Ok(0) };
        let told = trail.prepare(&handled);
        let settled = self.settle(&batch, handled).await;
        trail.end(told, settled.as_ref().err());
        settled.map(|()| batch.len())
    }

    fn meter(&self) -> Meter {
        Meter::of(&*self.queue, self.name)
    }

    /// Handles a batch while its leases are kept alive.
    async fn handle_and_renew(&self, batch: &Arc<[Leased]>) -> Vec<Handled> {
        let handling = self.handle(batch);
        tokio::pin!(handling);
        loop {
            tokio::select! {
                handled = &mut handling => return handled,
                () = tokio::time::sleep(self.settings.lease / 3) => self.renew(batch).await,
            }
        }
    }

    async fn renew(&self, batch: &[Leased]) {
        let receipts: Vec<Receipt> = batch.iter().map(|leased| leased.receipt.clone()).collect();
        match self.queue.renew(self.name, receipts, self.settings.lease).await {
            Ok(lost) if lost.is_empty() => {
                metrics::counter!("keyturn_lease_renewals_total", "queue" => self.name.as_str()).increment(1);
            }
            Ok(lost) => {
                metrics::counter!("keyturn_leases_lost_total", "queue" => self.name.as_str())
                    .increment(lost.len().try_into().unwrap_or(u64::MAX));
                warn!(queue = %self.name, lost = lost.len(), "leases were lost while handling a batch");
            }
            Err(error) => warn!(queue = %self.name, error = %error, "leases could not be renewed"),
        }
    }

    /// Handles a batch; if that panics, each of its messages alone, so that only the culprit suffers for it.
    async fn handle(&self, batch: &Arc<[Leased]>) -> Vec<Handled> {
        if let Some(handled) = self.guarded(Arc::clone(batch)).await {
            return handled;
        }
        let mut handled = Vec::with_capacity(batch.len());
        for leased in batch.iter() {
            let alone = self.guarded([leased.clone()].into()).await.and_then(|mut one| one.pop());
            handled.push(alone.unwrap_or_else(|| {
                Handled::failed(Failure::Message("the handler panicked on this message".to_owned()))
            }));
        }
        handled
    }

    /// None if the handler panicked or did not answer for every message.
    async fn guarded(&self, batch: Arc<[Leased]>) -> Option<Vec<Handled>> {
        let (handler, expected) = (Arc::clone(&self.handler), batch.len());
        let task = AbortOnDrop(tokio::spawn(async move { handler.handle(&batch).await }));
        match task.join().await {
            Ok(handled) if handled.len() == expected => Some(handled),
            Ok(handled) => {
                error!(queue = %self.name, expected, answered = handled.len(), "the handler lost count of its batch");
                None
            }
            Err(panic) => {
                metrics::counter!("keyturn_handler_panics_total", "queue" => self.name.as_str()).increment(1);
                error!(queue = %self.name, messages = expected, error = %panic, "the handler panicked");
                None
            }
        }
    }

    async fn settle(&self, batch: &[Leased], handled: Vec<Handled>) -> Result<(), Error> {
        let now = self.clock.now();
        let mut settled = Vec::with_capacity(batch.len());
        let (mut forward, mut sent) = (Vec::with_capacity(batch.len()), Vec::new());
        for (leased, handled) in batch.iter().zip(handled) {
            let settlement = self.settings.retry.settle(leased, &handled.verdict, now, &*self.entropy);
            self.tell(leased, &settlement);
            if settlement == Settlement::Complete {
                // From being sent to this stage to being done with it: the wait and the work.
                metrics::histogram!("keyturn_stage_seconds", "queue" => self.name.as_str())
                    .record(now.since(leased.enqueued).as_secs_f64());
            }
            if handled.verdict == Verdict::Done {
                forward.extend(handled.forward);
                sent.extend(handled.sent);
            }
            settled.push((leased.receipt.clone(), settlement));
        }
        sent.extend(forward.iter().map(|(queue, _)| *queue));
        let begun = self.clock.monotonic();
        let void = self.queue.settle(self.name, settled, forward).await;
        self.meter().called("settle", self.clock.monotonic().saturating_sub(begun), &void);
        let void = void?;
        for queue in sent {
            Meter::of(&*self.queue, queue).sent(1);
        }
        if !void.is_empty() {
            debug!(queue = %self.name, messages = void.len(), "settled after the lease had run out; the repeat is merged");
        }
        Ok(())
    }

    fn tell(&self, leased: &Leased, settlement: &Settlement) {
        let (request, device) = (leased.message.request, leased.message.device);
        let outcome = match settlement {
            Settlement::Complete => "done",
            Settlement::Release => "released",
            Settlement::Retry { error, .. } => {
                warn!(queue = %self.name, request.id = %request, device.id = %device, trace.id = spans::trace_id(leased),
                    attempt = leased.deliveries, error, "message failed and will be tried again");
                "retried"
            }
            Settlement::DeadLetter { reason, error } => {
                error!(queue = %self.name, request.id = %request, device.id = %device, trace.id = spans::trace_id(leased),
                    attempt = leased.deliveries, reason = %reason, error, "message is dead-lettered");
                metrics::counter!("keyturn_dead_letters_total", "queue" => self.name.as_str(), "reason" => reason.as_str())
                    .increment(1);
                "dead_lettered"
            }
        };
        metrics::counter!("keyturn_messages_settled_total", "queue" => self.name.as_str(), "outcome" => outcome)
            .increment(1);
    }
}

/// A batch that was handled and is to be settled.
struct Worked<'a> {
    batch: Arc<[Leased]>,
    handled: Vec<Handled>,
    trail: Trail<'a>,
}

/// A task that ends with its waiter: a worker that is dropped in mid-work leaves nothing running behind.
struct AbortOnDrop(tokio::task::JoinHandle<Vec<Handled>>);

impl AbortOnDrop {
    async fn join(mut self) -> Result<Vec<Handled>, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn wait(stop: &CancellationToken, something: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = something => {}
    }
}
