//! Ours, in one process and in two on one file.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::queue::{NewMessage, Queue as _, QueueName, Receipt, Settlement};
use tokio::process::Command;

use crate::flow::{self, BATCH, Broker, CONSUMERS, Figures, PRODUCERS};
use crate::{Result, servers};

const QUEUE: QueueName = QueueName::Requests;

struct Embedded {
    database: Database,
    drawn: AtomicU64,
}

impl Embedded {
    fn open(path: &Path) -> Result<Self> {
        let options = OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy));
        Ok(Self { database: Database::open(options)?, drawn: AtomicU64::new(0) })
    }
}

impl Broker for Embedded {
    type Lease = Receipt;

    async fn push(&self, producer: usize) -> Result<()> {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        let request = RequestId::of(&format!("{producer} {drawn}"));
        let message = NewMessage { request, device: DeviceId::from_bytes([1; 16]), body: flow::body() };
        Ok(self.database.send(QUEUE, vec![message]).await?)
    }

    async fn work(&self, _: usize, done: Vec<Receipt>) -> Result<Vec<Receipt>> {
        if !done.is_empty() {
            let settled = done.into_iter().map(|receipt| (receipt, Settlement::Complete)).collect();
            self.database.settle(QUEUE, settled, Vec::new()).await?;
        }
        let leased = self.database.lease(QUEUE, BATCH, Duration::from_secs(60)).await?;
        Ok(leased.into_iter().map(|one| one.receipt).collect())
    }
}

pub async fn round(length: Duration) -> Result<Figures> {
    let folder = servers::folder()?;
    flow::load(Embedded::open(&folder.path().join("queue.db"))?, None, length).await
}

/// One process sends, another takes and settles, and neither knows of the other.
pub async fn two_processes(length: Duration) -> Result<Figures> {
    let folder = servers::folder()?;
    let path = folder.path().join("queue.db");
    drop(Embedded::open(&path)?);
    let half = |which: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("half").arg(which).arg(&path).arg(length.as_millis().to_string());
        command.stdout(Stdio::piped()).kill_on_drop(true).spawn()
    };
    let (sends, takes) = (half("sends")?, half("takes")?);
    let (sends, takes) = tokio::try_join!(sends.wait_with_output(), takes.wait_with_output())?;
    let read = |output: std::process::Output| -> Result<Vec<f64>> {
        let text = String::from_utf8(output.stdout)?;
        Ok(text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    };
    let (sends, takes) = (read(sends)?, read(takes)?);
    let ([_, sending, p50_ms, p99_ms], [rate, taking, ..]) = (&sends[..], &takes[..]) else {
        return Err("one of the two processes failed".into());
    };
    // What each used, for what came through.
    Ok(Figures { rate: *rate, cpu_us: (sending + taking) / rate, p50_ms: *p50_ms, p99_ms: *p99_ms })
}

/// One of the two. Prints a rate, processor microseconds of each second, and times of an enqueue.
pub async fn half(which: &str, path: &Path, length: Duration) -> Result<()> {
    let broker = Arc::new(Embedded::open(path)?);
    let sends = which == "sends";
    let count = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..if sends { PRODUCERS } else { CONSUMERS })
        .map(|n| {
            let (broker, count) = (Arc::clone(&broker), Arc::clone(&count));
            tokio::spawn(async move {
                if sends {
                    send(&broker, n, &count, length).await
                } else {
                    take(&broker, n, &count, length).await
                }
            })
        })
        .collect();
    tokio::time::sleep(length / 4).await;
    let (before, worked, began) =
        (count.load(Ordering::SeqCst), servers::processor(std::process::id()), Instant::now());
    tokio::time::sleep(length).await;
    let (done, took) = (count.load(Ordering::SeqCst) - before, began.elapsed().as_secs_f64());
    let worked = servers::processor(std::process::id()).saturating_sub(worked);
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let figures = Figures::of(done.max(1), Duration::from_secs_f64(took), worked, times);
    println!("{} {} {} {}", figures.rate, worked.as_secs_f64() * 1e6 / took, figures.p50_ms, figures.p99_ms);
    Ok(())
}

async fn send(broker: &Embedded, n: usize, count: &AtomicU64, length: Duration) -> Result<Vec<Duration>> {
    let (end, mut times) = (Instant::now() + length / 4 + length, Vec::new());
    while Instant::now() < end {
        // Not further ahead than a queue of one process lets them be; looked at now and then, since a look is a read.
        if times.len() % 64 == 63 && broker.database.depth(QUEUE).await?.total > 4096 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let began = Instant::now();
        broker.push(n).await?;
        times.push(began.elapsed());
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(times)
}

async fn take(broker: &Embedded, n: usize, count: &AtomicU64, length: Duration) -> Result<Vec<Duration>> {
    let (end, mut leased) = (Instant::now() + length / 4 + length, Vec::new());
    while Instant::now() < end {
        let settled = leased.len() as u64;
        leased = broker.work(n, leased).await?;
        count.fetch_add(settled, Ordering::Relaxed);
        if leased.is_empty() {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
    Ok(Vec::new())
}
