//! The same work for every system: 64 producers that each wait until their message is durable, and 4 consumers that take
//! up to 32 at once and settle them before they take more.

use std::future::Future;
use std::process::id;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Result, servers};

/// Producers.
pub const PRODUCERS: usize = 64;
/// Consumers.
pub const CONSUMERS: usize = 4;
/// The most that a consumer takes at once.
pub const BATCH: usize = 32;
/// How far producers may be ahead of consumers: all systems work on a short queue, and none on a growing one.
pub const AHEAD: u64 = 4096;

/// A message.
pub fn body() -> String {
    "x".repeat(1024)
}

/// A queue under load.
pub trait Broker: Send + Sync + 'static {
    /// What settles a message.
    type Lease: Send;
    /// Enqueues a message. It is durable when this returns, as far as the system promises.
    fn push(&self, producer: usize) -> impl Future<Output = Result<()>> + Send;
    /// Settles what was taken before, and takes up to [`BATCH`].
    fn work(
        &self,
        consumer: usize,
        done: Vec<Self::Lease>,
    ) -> impl Future<Output = Result<Vec<Self::Lease>>> + Send;
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Messages taken and settled per second.
    pub rate: f64,
    /// Processor time of servers and clients for each of them, in microseconds.
    pub cpu_us: f64,
    /// The median time of an enqueue.
    pub p50_ms: f64,
    /// Its 99th percentile.
    pub p99_ms: f64,
}

/// Loads a queue for a while. `server` is the first of its processes, if it has any of its own.
pub async fn load<B: Broker>(broker: B, server: Option<u32>, length: Duration) -> Result<Figures> {
    let (broker, stop) = (Arc::new(broker), Arc::new(AtomicBool::new(false)));
    let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|n| {
            tokio::spawn(produce(Arc::clone(&broker), n, [&sent, &done].map(Arc::clone), Arc::clone(&stop)))
        })
        .collect();
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|n| tokio::spawn(consume(Arc::clone(&broker), n, Arc::clone(&done), Arc::clone(&stop))))
        .collect();
    // Caches and logs fill first.
    tokio::time::sleep(length / 4).await;
    let cpu = || servers::processor(id()) + server.map_or(Duration::ZERO, servers::processor);
    let (before, worked, began) = (done.load(Ordering::SeqCst), cpu(), Instant::now());
    tokio::time::sleep(length).await;
    let (count, took, worked) =
        (done.load(Ordering::SeqCst) - before, began.elapsed(), cpu().saturating_sub(worked));
    stop.store(true, Ordering::SeqCst);
    let mut times = Vec::new();
    for producer in producers {
        times.extend(producer.await??);
    }
    for consumer in consumers {
        consumer.await??;
    }
    if count == 0 {
        return Err("nothing came through".into());
    }
    Ok(Figures::of(count, took, worked, times))
}

impl Figures {
    /// Figures of so many messages.
    pub fn of(count: u64, took: Duration, worked: Duration, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let count = count as f64;
        Self {
            rate: count / took.as_secs_f64(),
            cpu_us: worked.as_secs_f64() * 1e6 / count,
            p50_ms: at(50),
            p99_ms: at(99),
        }
    }
}

async fn produce<B: Broker>(
    broker: Arc<B>,
    n: usize,
    [sent, done]: [Arc<AtomicU64>; 2],
    stop: Arc<AtomicBool>,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if sent.load(Ordering::Relaxed).saturating_sub(done.load(Ordering::Relaxed)) > AHEAD {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let began = Instant::now();
        broker.push(n).await?;
        sent.fetch_add(1, Ordering::Relaxed);
        times.push(began.elapsed());
    }
    Ok(times)
}

async fn consume<B: Broker>(
    broker: Arc<B>,
    n: usize,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let mut leased = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let count = leased.len() as u64;
        leased = broker.work(n, leased).await?;
        // Settled by now, and not before.
        done.fetch_add(count, Ordering::SeqCst);
        if leased.is_empty() {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
    Ok(())
}
