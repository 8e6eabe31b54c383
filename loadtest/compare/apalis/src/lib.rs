//! A round of apalis-sqlite for `keyturn-compare`, which starts this program: `keyturn-compare-apalis MILLISECONDS
//! PRODUCERS CONSUMERS BATCH AHEAD`. Prints one JSON object: messages settled per second, processor microseconds of each,
//! and times of a push in milliseconds.
//!
//! Its own `setup` sets `synchronous = OFF`, which is not durable; every connection here has FULL, and says so before it
//! is used. The rest is as `setup` has it. What is settled is read from its table, where it stays as done.

use std::error::Error;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};

/// Connections of its pool.
const CONNECTIONS: u32 = 8;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Does the round that the command line asks for.
#[tokio::main]
pub async fn run() -> Result<()> {
    let words: Vec<u64> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<std::result::Result<_, _>>()?;
    let [length, producers, consumers, batch, ahead] = words[..] else {
        return Err("usage: keyturn-compare-apalis MILLISECONDS PRODUCERS CONSUMERS BATCH AHEAD".into());
    };
    let (length, batch) = (Duration::from_millis(length), usize::try_from(batch)?);
    let folder = tempfile::Builder::new().prefix("keyturn-compare-").tempdir()?;
    let pool = open(&folder.path().join("jobs.db").display().to_string()).await?;
    SqliteStorage::migrations().run(&pool).await?;
    let config = Config::default().queue("q").batch_size(batch);
    let storage: SqliteStorage<String> = SqliteStorage::new(&pool).with_config(config);

    let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for number in 0..consumers {
        let (storage, done) = (storage.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let work = move |_: String| {
                let done = Arc::clone(&done);
                async move { done.fetch_add(1, Ordering::Relaxed) }
            };
            let worker =
                WorkerBuilder::new(format!("w{number}")).backend(storage).concurrency(batch).build(work);
            if let Err(error) = worker.run().await {
                // What came through is less for it, and this says why.
                eprintln!("w{number}: {error}");
            }
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let pushing: Vec<_> = (0..producers)
        .map(|_| {
            let (storage, sent, done, stop) =
                (storage.clone(), Arc::clone(&sent), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(push(storage, sent, done, ahead, stop))
        })
        .collect();
    tokio::time::sleep(length / 4).await;
    let (before, worked, began) = (settled(&pool).await?, processor()?, Instant::now());
    tokio::time::sleep(length).await;
    let (after, worked, took) = (settled(&pool).await?, processor()? - worked, began.elapsed().as_secs_f64());
    stop.store(true, Ordering::SeqCst);
    let mut times = Vec::new();
    for producer in pushing {
        times.extend(producer.await??);
    }
    let count = after - before;
    if count == 0 {
        return Err("nothing came through".into());
    }
    times.sort_unstable();
    let at =
        |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let figures = serde_json::json!({
        "rate": count as f64 / took, "cpu_us": worked.as_secs_f64() * 1e6 / count as f64,
        "p50_ms": at(50), "p99_ms": at(99),
    });
    println!("{figures}");
    Ok(())
}

async fn open(path: &str) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::from_str(path)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(60))
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "64000")
        .pragma("journal_size_limit", "67108864");
    let checked =
        SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(60));
    let checked = checked.after_connect(|connection, _| {
        Box::pin(async move {
            let level: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await?;
            if level == 2 { Ok(()) } else { Err(sqlx::Error::Protocol(format!("synchronous is {level}"))) }
        })
    });
    Ok(checked.connect_with(options).await?)
}

/// Pushes one message after the other, each durable before the next, and not too far ahead of the workers.
async fn push(
    mut storage: SqliteStorage<String>,
    sent: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    ahead: u64,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if sent.load(Ordering::Relaxed).saturating_sub(done.load(Ordering::Relaxed)) > ahead {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let began = Instant::now();
        storage.push("x".repeat(1024)).await.map_err(|error| error.to_string())?;
        sent.fetch_add(1, Ordering::Relaxed);
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Messages that are done in the database itself: a handler that returned is not settled yet.
async fn settled(pool: &SqlitePool) -> Result<u64> {
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status = 'Done'").fetch_one(pool).await?;
    Ok(u64::try_from(count)?)
}

/// Processor time of this process so far, to a hundredth of a second.
fn processor() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').ok_or("/proc/self/stat")?.1;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Ok(Duration::from_millis(ticks * 10))
}
