//! What a message costs at ten rows, at a thousand and at a million: `cargo bench -p keyturn-embedded`.
//!
//! The files are measured in turns within one run, so that whatever else the machine does meets all alike; the
//! figures to look at are the ratios of the medians, and absolute times mean nothing elsewhere. Two are printed: time
//! on the clock, in which sending waits for the disk, and time on the processor, which a busy neighbour spoils less.
//! Each file has that many rows in every table that grows. Sending, leasing and settling are to cost the same in all of
//! them, each and together (`queue`). With ten rows every tree is a single page that never leaves the cache, so that
//! file shows the floor; with a thousand they have the shape they keep.
//!
//! So that the number of rows is all that differs, the messages that are leased were sent just before in every file, and
//! those of the filling lie there as given out. `lease old` and `settle old` then take these, oldest first: what they
//! cost more is their bodies' way from memory, where those just sent are still in the processor's own cache.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first failure, and measures with the machine's own clock"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{DeviceId, KeyHash, RequestId};
use keyturn_domain::label::Label;
use keyturn_domain::time::UnixMillis;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::intake::{Intake as _, Submission};
use keyturn_ports::ledger::{Commit, Ledger as _, Loaded, Stored, Wanted};
use keyturn_ports::queue::{Leased, NewMessage, Queue as _, QueueName, Settlement};
use keyturn_testkit::conformance::sample;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

const QUEUE: QueueName = QueueName::Requests;
const BATCH: usize = 64;
const ROUNDS: usize = 150;
const SIZES: [u64; 3] = [10, 1_000, 1_000_000];

fn main() {
    // `cargo test --benches` and the like only want to know that this builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let folder = TempDir::new().unwrap();
    let mut files = SIZES.map(|rows| Filled::new(&folder.path().join(format!("{rows}.db")), rows));
    for _ in 0..ROUNDS {
        for file in &mut files {
            file.queue().await;
        }
    }
    for file in &mut files {
        file.give_back();
    }
    for _ in 0..ROUNDS {
        for file in &mut files {
            file.backlog().await;
        }
    }
    for round in 0..ROUNDS {
        for file in &mut files {
            file.ledger(round).await;
        }
    }
    report(&files);
}

fn report(files: &[Filled; SIZES.len()]) {
    let [ten, thousand, million] = files;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{ROUNDS} rounds of {BATCH} messages, microseconds per message, medians").unwrap();
    writeln!(out, "time      step             10     1,000  1,000,000    1e6/10   1e6/1e3").unwrap();
    for (of, times) in [("clock", times as fn(&Filled, usize) -> f64), ("processor", worked)] {
        for (step, name) in STEPS.iter().enumerate() {
            let [a, b, c] = [ten, thousand, million].map(|file| times(file, step));
            line(&mut out, of, name, [a, b, c]);
        }
        // A message is sent, leased and settled once.
        let whole = [ten, thousand, million].map(|file| (1..=3).map(|step| times(file, step)).sum());
        line(&mut out, of, "queue", whole);
    }
}

fn line(out: &mut impl std::io::Write, of: &str, name: &str, [a, b, c]: [f64; SIZES.len()]) {
    writeln!(out, "{of:9} {name:10} {a:>8.2} {b:>9.2} {c:>10.2} {:>9.2} {:>9.2}", c / a, c / b).unwrap();
}

fn times(file: &Filled, step: usize) -> f64 {
    median(&file.times[step])
}

fn worked(file: &Filled, step: usize) -> f64 {
    median(&file.worked[step])
}

const STEPS: [&str; 8] = ["accept", "send", "lease", "settle", "load", "commit", "lease old", "settle old"];

/// A file and what its rounds took.
struct Filled {
    path: PathBuf,
    database: Database,
    times: [Vec<Duration>; STEPS.len()],
    worked: [Vec<Duration>; STEPS.len()],
    rows: u64,
    drawn: u64,
}

impl Filled {
    fn new(path: &Path, rows: u64) -> Self {
        let options = || OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy));
        drop(Database::open(options()).unwrap());
        fill(path, rows);
        Self {
            path: path.to_owned(),
            database: Database::open(options()).unwrap(),
            times: Default::default(),
            worked: Default::default(),
            rows,
            drawn: 0,
        }
    }

    async fn queue(&mut self) {
        let messages = self.messages();
        let nonce = SystemClock.now();
        let submissions =
            messages.iter().map(|message| Submission { nonce, message: message.clone() }).collect();
        let begun = Mark::now();
        self.database.accept(submissions).await.unwrap();
        self.note(0, &begun);
        let messages = self.messages();
        let begun = Mark::now();
        self.database.send(QUEUE, messages).await.unwrap();
        self.note(1, &begun);
        for _ in 0..2 {
            self.work([2, 3]).await;
        }
    }

    /// Makes the messages of the filling new again.
    fn give_back(&self) {
        let file = Connection::open(&self.path).unwrap();
        file.execute("UPDATE queue_counters SET taken = 0 WHERE queue = 1", []).unwrap();
    }

    /// Takes the oldest messages; where the filling is used up, those just sent.
    async fn backlog(&mut self) {
        let messages = self.messages();
        self.database.send(QUEUE, messages).await.unwrap();
        self.work([6, 7]).await;
    }

    /// Takes as many messages as were sent, so that the queue keeps its size.
    async fn work(&mut self, [lease, settle]: [usize; 2]) {
        let begun = Mark::now();
        let leased = self.database.lease(QUEUE, BATCH, Duration::from_mins(1)).await.unwrap();
        self.note(lease, &begun);
        assert_eq!(leased.len(), BATCH);
        let complete = |leased: Leased| (leased.receipt, Settlement::Complete);
        let settled = leased.into_iter().map(complete).collect();
        let begun = Mark::now();
        self.database.settle(QUEUE, settled, Vec::new()).await.unwrap();
        self.note(settle, &begun);
    }

    /// Loads lanes from all over the ledger and commits to them.
    async fn ledger(&mut self, round: usize) {
        let wanted: Vec<_> =
            (0..BATCH.min(usize::try_from(self.rows).unwrap())).map(|n| self.wanted(round, n)).collect();
        let begun = Mark::now();
        let loaded = self.database.load(wanted.clone()).await.unwrap();
        let loading = begun.elapsed();
        let commits: Vec<_> =
            wanted.iter().zip(loaded).map(|(wanted, loaded)| effect(wanted, loaded)).collect();
        let count = commits.len();
        let begun = Mark::now();
        self.database.commit(commits).await.unwrap();
        let committing = begun.elapsed();
        self.push(4, &loading, count);
        self.push(5, &committing, count);
    }

    fn wanted(&mut self, round: usize, n: usize) -> Wanted {
        let spread = (round * BATCH + n) as u64 * 7919 % self.rows;
        let lane = lane(spread);
        self.drawn += 1;
        let request = RequestId::of(&format!("effect {} {}", self.rows, self.drawn));
        let mut mark = sample::mark(1);
        mark.1.0.copy_from_slice(&request.as_bytes()[..16]);
        Wanted {
            device: lane.key.device,
            lane: lane.key.id(),
            request,
            nonce: SystemClock.now(),
            mark,
            versions: [sample::version(1)].into(),
        }
    }

    fn messages(&mut self) -> Vec<NewMessage> {
        self.drawn += 1;
        (0..BATCH).map(|n| message(&format!("{} {} {n}", self.rows, self.drawn))).collect()
    }

    fn note(&mut self, step: usize, begun: &Mark) {
        self.push(step, &begun.elapsed(), BATCH);
    }

    fn push(&mut self, step: usize, took: &Took, messages: usize) {
        let messages = u32::try_from(messages).unwrap();
        self.times[step].push(took.clock / messages);
        self.worked[step].push(took.processor / messages);
    }
}

/// The median in microseconds.
fn median(times: &[Duration]) -> f64 {
    // The first rounds fill caches and the log.
    let mut times: Vec<_> = times.iter().skip(ROUNDS / 10).collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

/// When a step began, on the clock and on the processor.
struct Mark {
    clock: Instant,
    processor: Duration,
}

struct Took {
    clock: Duration,
    processor: Duration,
}

impl Mark {
    fn now() -> Self {
        Self { clock: Instant::now(), processor: processor() }
    }

    fn elapsed(&self) -> Took {
        Took { clock: self.clock.elapsed(), processor: processor().saturating_sub(self.processor) }
    }
}

/// What this process has had of the processor so far, in all its threads.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// One message without a version: its lane moves on, one fact, one message to the next stage.
fn effect(wanted: &Wanted, loaded: Loaded) -> Commit {
    let Stored { value, revision } = loaded.lanes.into_iter().next().unwrap();
    let mut event = sample::event(1, 1);
    event.device = wanted.device;
    Commit {
        request: wanted.request,
        nonce: wanted.nonce,
        mark: wanted.mark,
        lane: Some(Stored { value, revision }),
        issued: Vec::new(),
        events: vec![event],
        outbox: Vec::new(),
    }
}

fn message(text: &str) -> NewMessage {
    NewMessage { request: RequestId::of(text), device: DeviceId::from_bytes([1; 16]), body: "x".repeat(1024) }
}

fn lane(n: u64) -> keyturn_domain::lane::Lane {
    let hash = RequestId::of(&format!("device {n}"));
    let mut lane = sample::lane(1, 1);
    let mut device = [0; 16];
    device.copy_from_slice(&hash.as_bytes()[..16]);
    lane.key.device = DeviceId::from_bytes(device);
    lane.key.key = KeyHash(hash.0);
    lane.opened = UnixMillis(n);
    lane.about.serial = Label::parse(&format!("SN-{n}")).unwrap();
    lane.about.host = Label::parse(&format!("host-{n}")).unwrap();
    lane
}

/// The first number that a lane of the device may have, as the engine reckons it.
fn place(device: DeviceId) -> i64 {
    let digest = Sha256::new_with_prefix(b"keyturn place v1").chain_update(device.as_bytes()).finalize();
    let first = u64::from_be_bytes(digest[..8].try_into().unwrap());
    i64::try_from(first >> 12 << 11).unwrap()
}

/// Puts rows into every table that grows, as the ports would, but without a commit for each.
fn fill(path: &Path, rows: u64) {
    let mut file = Connection::open(path).unwrap();
    file.pragma_update(None, "cache_size", -262_144).unwrap();
    file.pragma_update(None, "synchronous", "OFF").unwrap();
    let now = i64::try_from(SystemClock.now().0).unwrap();
    let transaction = file.transaction().unwrap();
    for sql in BULK {
        transaction
            .execute(sql, rusqlite::named_params! { ":rows": i64::try_from(rows).unwrap(), ":now": now })
            .unwrap();
    }
    let mut insert = transaction
        .prepare(
            "INSERT INTO lanes (id, lane, device, revision, generation, marks, serial, host, state, key) \
             VALUES (?1, ?2, ?3, 1, 1, zeroblob(256), ?4, ?5, ?6, ?7)",
        )
        .unwrap();
    for n in 0..rows {
        let lane = lane(n);
        let (id, device) = (lane.key.id(), lane.key.device);
        let labels = (lane.about.serial.as_str().to_lowercase(), lane.about.host.as_str().to_lowercase());
        let (state, key) = (serde_json::to_string(&lane).unwrap(), lane.key.key.to_string());
        let columns = (place(device), id.as_bytes(), device.as_bytes(), labels.0, labels.1, state, key);
        insert.execute(columns).unwrap();
    }
    drop(insert);
    let given_out = "UPDATE queue_counters SET taken = ?1 WHERE queue = 1";
    transaction.execute(given_out, [i64::try_from(rows).unwrap()]).unwrap();
    transaction.commit().unwrap();
    file.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

/// A counter from 1 to `:rows`.
macro_rules! each {
    ($into:literal, $select:literal) => {
        concat!(
            "WITH RECURSIVE each(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM each WHERE n < :rows) INSERT INTO ",
            $into,
            " SELECT ",
            $select,
            " FROM each WHERE :now > 0"
        )
    };
}

const BULK: [&str; 6] = [
    each!(
        "queue_requests (id, enqueued_at, request, device, body)",
        "n, :now - :rows + n, randomblob(32), randomblob(16), hex(randomblob(512))"
    ),
    each!("accepted (nonce_ms, request)", "n + :now - :rows, randomblob(32)"),
    each!("effects (nonce_ms, mark, request)", "n + :now - :rows, randomblob(16), randomblob(32)"),
    each!(
        "events (event, at, device, request, what, chained)",
        "randomblob(16), n, randomblob(16), randomblob(32), '{}', 1"
    ),
    each!("results (request, body, expires_at)", "randomblob(32), hex(randomblob(512)), :now + 3600000 + n"),
    each!("issued (version, lane, vault_ref, minted_at)", "randomblob(16), randomblob(16), n, n"),
];
