//! The pace that processes share: as a model on a paused clock, and as processes that write to one fake vault.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and tells figures")]

use std::collections::{HashMap, VecDeque};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use keyturn_azure::key_vault::{KeyVault, Settings};
use keyturn_azure::pace::{Limit, Pace as _, Shared};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::password::Password;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::turns::{Booked, Turns, Wanted};
use keyturn_ports::vault::{NewVersion, Tags, Vault as _};
use keyturn_ports::{Error, Kind};
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault};
use keyturn_testkit::conformance::sample;
use tokio::time::Instant;

use self::tokens::Tokens;

mod tokens;

/// As Key Vault has it, and as the settings have it.
const LIMIT: Limit = Limit {
    calls: 300,
    window: Duration::from_secs(10),
    slack: Duration::from_millis(400),
    lease: 32,
    patience: Duration::from_secs(10),
};

/// A store that is a way off, and counts what it writes.
#[derive(Default)]
struct Store {
    next: Mutex<HashMap<String, u64>>,
    writes: Mutex<u32>,
    begun: Mutex<Option<Instant>>,
}

#[async_trait]
impl Turns for Store {
    async fn book(&self, bucket: &str, wanted: Wanted) -> Result<Booked, Error> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let booked = {
            let begun = *self.begun.lock().unwrap().get_or_insert_with(Instant::now);
            let now = u64::try_from(begun.elapsed().as_micros()).unwrap();
            let mut next = self.next.lock().unwrap();
            let next = next.entry(bucket.to_owned()).or_default();
            let (booked, after) = wanted.of(*next, now);
            *next = after;
            booked
        };
        *self.writes.lock().unwrap() += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
        Ok(booked)
    }
}

/// The most calls in any window.
fn most_in(calls: &[Duration], window: Duration) -> usize {
    let (mut inside, mut most) = (VecDeque::new(), 0);
    for call in calls {
        inside.push_back(*call);
        while inside.front().is_some_and(|first| *first + window <= *call) {
            inside.pop_front();
        }
        most = most.max(inside.len());
    }
    most
}

/// Three processes that always have something to write, one of which is held up now and then and one of which dies with
/// turns in hand, for a minute of the paused clock. A call arrives up to half of the slack after its turn.
#[tokio::test(start_paused = true)]
async fn replicas_together_keep_the_limit_and_use_it() {
    let (store, calls) = (Arc::new(Store::default()), Arc::new(Mutex::new(Vec::new())));
    let begun = Instant::now();
    let mut replicas = Vec::new();
    for replica in 0..3_u64 {
        let pace = Arc::new(Shared::new(Arc::clone(&store) as Arc<dyn Turns>, LIMIT));
        for worker in 0..16_u64 {
            let (pace, calls) = (Arc::clone(&pace), Arc::clone(&calls));
            replicas.push(tokio::spawn(async move {
                let mut n = 0;
                while begun.elapsed() < Duration::from_mins(1) {
                    if replica == 2 && begun.elapsed() > Duration::from_secs(30) {
                        return;
                    }
                    if pace.turn("a").await.is_err() {
                        continue;
                    }
                    n += 1;
                    let way = Duration::from_millis((replica * 67 + worker * 31 + n * 13) % 200);
                    calls.lock().unwrap().push(begun.elapsed() + way);
                    // The time that a write takes, and a pause of the whole process.
                    tokio::time::sleep(way + Duration::from_millis(if n % 50 == 0 { 900 } else { 0 })).await;
                }
            }));
        }
    }
    for replica in replicas {
        replica.await.unwrap();
    }
    let mut calls = Arc::into_inner(calls).unwrap().into_inner().unwrap();
    calls.sort();
    let (most, writes) = (most_in(&calls, LIMIT.window), *store.writes.lock().unwrap());
    println!("{} calls in a minute, at most {most} in 10 s, {writes} bookings", calls.len());
    assert!(most <= 300, "{most}");
    assert!(calls.len() >= 300 * 6 * 95 / 100, "{} calls", calls.len());
    assert!(writes < u32::try_from(calls.len()).unwrap() / 4, "{writes} bookings for {} calls", calls.len());
}

/// What lies too far ahead is refused at once, and its caller comes again.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let limit =
        Limit { calls: 2, window: Duration::from_secs(10), patience: Duration::from_secs(1), ..LIMIT };
    let pace = Shared::new(Arc::new(Store::default()), limit);
    pace.turn("a").await.unwrap();
    let begun = Instant::now();
    assert_eq!(pace.turn("a").await.unwrap_err().kind(), Kind::Unavailable);
    assert!(begun.elapsed() < Duration::from_millis(50));
    pace.turn("b").await.unwrap();
    tokio::time::sleep(limit.interval()).await;
    pace.turn("a").await.unwrap();
}

const CHILD: &str = "KEYTURN_TEST_WRITER";
const PROCESSES: u8 = 3;
const EACH: u8 = 120;

/// Three processes write 360 versions to one vault as fast as they may, and the vault refuses what is above its limit.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a process of the test is told its part in the environment")]
async fn processes_on_one_store_are_never_refused() {
    if let Ok(part) = std::env::var(CHILD) {
        return write(&part).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeKeyVault::start(Arc::new(SystemClock)).await;
    fake.limit_sets(300, Duration::from_secs(10));
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &fake.server.ca).unwrap();
    let file = folder.path().join("keyturn.db");
    drop(database(&file));
    let begun = Instant::now();
    let start = |n: u8| {
        let part = format!("{n} {} {} {}", fake.server.url(), ca.display(), file.display());
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "processes_on_one_store_are_never_refused"]).env(CHILD, part);
        child.stdout(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..PROCESSES).map(start).collect();
    for child in children {
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        assert!(ended.status.success());
    }
    let (writes, refused, most) = (fake.count(Call::Set), fake.refused_sets(), fake.most_sets());
    println!("{writes} writes in {:?}, at most {most} in 10 s, {refused} refused", begun.elapsed());
    assert_eq!((writes, refused), (usize::from(PROCESSES) * usize::from(EACH), 0));
    assert!(most <= 300, "{most}");
    // Without a pace 360 writes take no 10 seconds, and 60 of them are refused.
    assert!(most >= 200, "{most}: the limit was never near, so nothing was shown");
}

fn database(file: &std::path::Path) -> Database {
    Database::open(OpenOptions::new(file, Arc::new(SystemClock), Arc::new(SystemEntropy))).unwrap()
}

async fn write(part: &str) {
    let [number, url, ca, file] = part.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
    let number: u8 = number.parse().unwrap();
    let settings = Settings {
        urls: vec![url.parse().unwrap()],
        read_urls: Vec::new(),
        danger_unverified_challenge: true,
        attempts: Attempts {
            most: 1,
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_secs(1),
        },
        parallel: 16,
    };
    let ca = Some(std::fs::read(ca).unwrap());
    let reach = Reach { timeout: Duration::from_secs(20), ca, proxy: None };
    let credential: Arc<dyn TokenCredential> = Arc::new(Tokens);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let limit = Limit { patience: Duration::from_secs(30), ..LIMIT };
    let pace = Arc::new(Shared::new(Arc::new(database(file.as_ref())), limit));
    let vault = KeyVault::open(&settings, &reach, &credential, pace, &entropy).unwrap();
    let version = |n: u8| NewVersion {
        request: sample::request(n),
        version: sample::version(n),
        lane: sample::lane_key(number * 80 + n % 80, number).id(),
        password: Password::new(format!("canary-{n}")),
        tags: Tags {
            user_name: "Administrator".to_owned(),
            device: sample::device(number * 80 + n % 80),
            device_name: "LAB-1".to_owned(),
            serial_number: "1".to_owned(),
        },
    };
    for put in vault.put((0..EACH).map(version).collect()).await {
        put.unwrap();
    }
}
