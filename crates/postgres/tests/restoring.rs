//! A database that was put back is known for one, its lanes are heard anew, and jobs and upkeep are shared.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::LaneId;
use keyturn_domain::lane::{Lane, Order};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, AuditSink as _, NewRow, Verified};
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::intake::{Intake as _, Submission};
use keyturn_ports::ledger::{
    Commit, Committed, Ledger as _, LedgerOperator as _, LedgerReader as _, NewEvent, Wanted,
};
use keyturn_ports::queue::{DeadReason, Queue as _, QueueName, Settlement};
use keyturn_ports::results::{NewResult, ResultBody, ResultWriter as _};
use keyturn_ports::rotations::{NewJob, Rotations as _, Step};
use keyturn_ports::upkeep::{Before, Upkeep as _};
use keyturn_postgres::{Database, Limits, Settings, Times, Tls};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use keyturn_testkit::postgres::{Cluster, TestDatabase};

const LEASE: Duration = Duration::from_mins(1);

fn settings(database: &TestDatabase) -> Settings {
    Settings::new(&database.address(), None, Tls::Off, Limits::default()).unwrap()
}

fn open(database: &TestDatabase) -> Database {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    Database::make(&settings(database), clock.clone(), entropy.clone(), Times::Server).unwrap();
    Database::open(&settings(database), clock, entropy, Times::Server).unwrap()
}

fn open_by(database: &TestDatabase, clock: &ManualClock) -> Database {
    let (clock, entropy) = (Arc::new(clock.clone()), Arc::new(SystemEntropy));
    Database::make(&settings(database), clock.clone(), entropy.clone(), Times::Clock).unwrap();
    Database::open(&settings(database), clock, entropy, Times::Clock).unwrap()
}

fn wanted() -> Wanted {
    Wanted {
        device: sample::device(1),
        lane: LaneId([0; 16]),
        request: sample::request(99),
        nonce: sample::nonce(99),
        mark: sample::mark(99),
        versions: [].into(),
    }
}

async fn lane(engine: &Database) -> Lane {
    engine.lanes(sample::device(1)).await.unwrap().remove(0)
}

async fn put(engine: &Database, n: u8, lane: Lane) -> Committed {
    let loaded = engine.load(vec![wanted()]).await.unwrap().remove(0);
    let revision = loaded.lanes.first().map_or(0, |one| one.revision);
    engine.commit(vec![sample::commit(n, lane, revision)]).await.unwrap().remove(0)
}

/// The rows that say that the store was restored.
async fn restores(engine: &Database) -> Vec<NewRow> {
    assert!(matches!(engine.verify().await.unwrap(), Verified::Intact { .. }));
    let rows = engine.recent(99).await.unwrap().into_iter().map(|row| row.row);
    rows.filter(|row| row.action == Action::StoreRestored).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_on_is_the_same() {
    let database = TestDatabase::on(Cluster::private());
    let engine = open(&database);
    for _ in 0..2 {
        engine.mark().await.unwrap();
        database.cluster().crash();
        database.cluster().start();
        drop(open(&database));
    }
    assert_eq!(open(&database).restored().await.unwrap(), None);
    assert!(restores(&open(&database)).await.is_empty());
}

/// However a dump is read, it is noticed once, by one of those who open it, and recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_was_read_is_noticed() {
    let database = TestDatabase::fresh();
    assert_eq!(put(&open(&database), 1, sample::lane(1, 1)).await, Committed::Applied);
    let copy = database.copied_by_dump(Cluster::shared());
    let opened = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&copy))).collect();
        opening.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    let at = opened[0].restored().await.unwrap().unwrap();
    assert!(at.0.abs_diff(SystemClock.now().0) < 60_000);
    for engine in &opened {
        assert_eq!(engine.restored().await.unwrap(), Some(at));
        assert_eq!(lane(engine).await.restored, Some(at));
    }
    let rows = restores(&opened[0]).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].actor.as_str(), rows[0].at), ("keyturn", at));
    // The one it was made of went on.
    assert_eq!(open(&database).restored().await.unwrap(), None);
    // A dump of the same place, read over it, after which the processes start again.
    let again = copy.copied_by_dump(Cluster::shared());
    assert_eq!(restores(&open(&again)).await.len(), 2);
}

/// Whoever runs while the server is put back notices with the first connection that is made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_is_noticed_by_those_who_run() {
    let database = TestDatabase::on(Cluster::private());
    let engine = open(&database);
    assert_eq!(put(&engine, 1, sample::lane(1, 1)).await, Committed::Applied);
    assert_eq!(lane(&engine).await.restored, None);
    database.cluster().recover();
    // The connections that broke are found out one by one, and the server answers when it has recovered.
    let mut tries = 0;
    let restored = loop {
        match engine.restored().await {
            Ok(restored) => break restored,
            Err(error) => assert!(tries < 600, "{error}"),
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(restored.is_some());
    assert_eq!(lane(&engine).await.restored, restored);
    assert_eq!(restores(&engine).await.len(), 1);
    // Whoever holds a connection that never broke looks as well.
    database.sql("UPDATE epoch SET place = 'elsewhere'");
    engine.mark().await.unwrap();
    assert_eq!(restores(&engine).await.len(), 2);
}

/// Lanes are told one by one, when they are loaded, until their device was heard for certain.
#[tokio::test]
async fn a_lane_is_unsure_until_its_device_is_heard() {
    let (database, clock) = (TestDatabase::fresh(), ManualClock::default());
    clock.advance(Duration::from_hours(1000));
    let engine = open_by(&database, &clock);
    assert_eq!(put(&engine, 1, sample::lane_with(1, 1, sample::version(1))).await, Committed::Applied);
    let decided_before = lane(&engine).await;
    clock.advance(Duration::from_hours(1));
    let at = clock.now();
    engine.declare_restored("somebody", "a snapshot", "").await.unwrap();
    let rows = restores(&engine).await;
    assert_eq!((rows.len(), rows[0].actor.as_str(), rows[0].reason.as_str()), (1, "somebody", "a snapshot"));
    assert_eq!(lane(&engine).await.restored, Some(at));
    assert_eq!(engine.load(vec![wanted()]).await.unwrap()[0].restored, Some(at));
    // What was decided on before does not make it sure.
    assert_eq!(put(&engine, 2, decided_before).await, Committed::Conflict);
    // A wish of an operator does not, either, and is not lost.
    engine.force(sample::device(1), UnixMillis(5)).await.unwrap();
    let unsure = lane(&engine).await;
    assert_eq!((unsure.restored, unsure.forced), (Some(at), Some(UnixMillis(5))));
    // A report that leaves it open is stored and leaves it open.
    assert_eq!(put(&engine, 3, unsure.clone()).await, Committed::Applied);
    assert_eq!(lane(&engine).await.restored, Some(at));
    clock.advance(Duration::from_hours(1));
    let order = Order { received: clock.now(), nonce: clock.now() };
    let heard = Lane { restored: None, last: Some(order), ..unsure };
    // A second element of the batch follows the first, and each is counted.
    let loaded = engine.load(vec![wanted()]).await.unwrap().remove(0).lanes.remove(0);
    let commits = vec![
        sample::commit(4, heard.clone(), loaded.revision),
        sample::commit(5, heard, loaded.revision + 1),
    ];
    assert_eq!(engine.commit(commits).await.unwrap(), [Committed::Applied; 2]);
    assert_eq!(lane(&engine).await.restored, None);
    assert_eq!(lane(&open_by(&database, &clock)).await.restored, None);
    // And once more.
    clock.advance(Duration::from_hours(1));
    database.sql("UPDATE epoch SET place = 'elsewhere'");
    assert_eq!(lane(&open_by(&database, &clock)).await.restored, Some(clock.now()));
}

/// Several step one job at once, while their connections are cut: each device is asked once, by one audit row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_asks_each_device_once_however_many_step_it() {
    const DEVICES: u8 = 250;
    let database = Arc::new(TestDatabase::fresh());
    let first = open(&database);
    for n in 1..=DEVICES {
        assert_eq!(
            first.commit(vec![sample::commit(n, sample::lane(n, 1), 0)]).await.unwrap(),
            [Committed::Applied]
        );
    }
    let job = NewJob {
        row: NewRow {
            at: UnixMillis(50),
            actor: "ada (uid 1000)".to_owned(),
            action: Action::RotationForced,
            device: None,
            reason: "key lost".to_owned(),
            detail: "all".to_owned(),
        },
        selection: "all".to_owned(),
        per_minute: NonZeroU32::new(60_000),
        devices: (1..=DEVICES).map(sample::device).collect(),
    };
    let id = first.begin(job).await.unwrap();
    let stepping = (0..4).map(|_| {
        let engine = open(&database);
        tokio::spawn(async move {
            loop {
                // An error leaves it open whether the step was made; the store knows.
                match engine.step(id, SystemClock.now(), "x").await {
                    Ok(Step::Finished) => return,
                    Ok(Step::Asked { .. } | Step::NotBefore(_)) | Err(_) => {}
                }
            }
        })
    });
    let stepping: Vec<_> = stepping.collect();
    let cutting = {
        let database = Arc::clone(&database);
        tokio::task::spawn_blocking(move || {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            (0..15).map(|_| database.sql(sql).parse::<u32>().unwrap()).sum::<u32>()
        })
    };
    for one in stepping {
        tokio::time::timeout(Duration::from_mins(1), one).await.unwrap().unwrap();
    }
    assert!(cutting.await.unwrap() > 4, "connections were cut");
    let engine = open(&database);
    let job = engine.job(id).await.unwrap().unwrap();
    assert_eq!((job.asked, job.is_finished()), (u64::from(DEVICES), true));
    let rows = engine.after(1, 999).await.unwrap();
    let asked: BTreeSet<_> = rows.iter().filter_map(|row| row.row.device).collect();
    assert_eq!((rows.len(), asked.len()), (usize::from(DEVICES), usize::from(DEVICES)));
    assert!(matches!(engine.verify().await.unwrap(), Verified::Intact { .. }));
    for n in 1..=DEVICES {
        let lanes = engine.lanes(sample::device(n)).await.unwrap();
        assert!(lanes.iter().all(|lane| lane.forced.is_some()), "device {n}");
    }
}

/// Everything before now.
fn all(clock: &ManualClock) -> Before {
    let now = clock.now();
    Before { accepted: now, effects: now, events: now, events_through: None, results: now }
}

/// One row in each table that is tidied, for each number.
async fn fill(engine: &Database, clock: &ManualClock, numbers: std::ops::RangeInclusive<u8>) {
    let now = clock.now();
    for n in numbers {
        engine.accept(vec![Submission { nonce: now, message: sample::message(n) }]).await.unwrap();
        let commit = Commit {
            nonce: now,
            events: vec![NewEvent { at: now, ..sample::event(1, n) }],
            ..sample::commit(n, sample::lane(n, 1), 0)
        };
        assert_eq!(engine.commit(vec![commit]).await.unwrap(), [Committed::Applied]);
        let refused = NewResult {
            request: sample::request(n),
            carries: None,
            body: ResultBody::Refused,
            expires: now.plus(Duration::from_millis(1)),
        };
        engine.publish(vec![refused]).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_old_is_forgotten_a_little_at_a_time() {
    let (database, clock) = (TestDatabase::fresh(), ManualClock::default());
    let engine = open_by(&database, &clock);
    let rows = |table: &str| database.sql(&format!("SELECT count(*) FROM {table}")).parse::<u64>().unwrap();
    fill(&engine, &clock, 1..=5).await;
    clock.advance(Duration::from_hours(1));
    let before = all(&clock);
    clock.advance(Duration::from_secs(1));
    fill(&engine, &clock, 6..=8).await;
    for (forgotten, left) in [(2, 6), (2, 4), (1, 3), (0, 3)] {
        let told = engine.forget(before, 2).await.unwrap();
        for (table, rows_forgotten) in told.tables() {
            assert_eq!((rows_forgotten, rows(table)), (forgotten, left), "{table}");
        }
    }
    assert_eq!(rows("lanes"), 8, "lanes are for good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_forget_at_once_forget_each_row_once() {
    let (database, clock) = (TestDatabase::fresh(), ManualClock::default());
    let (one, two) = (open_by(&database, &clock), open_by(&database, &clock));
    fill(&one, &clock, 1..=9).await;
    clock.advance(Duration::from_hours(1));
    let before = all(&clock);
    let (mut accepted, mut effects, mut results) = (0, 0, 0);
    for _ in 0..3 {
        let (one, two) = tokio::join!(one.forget(before, 3), two.forget(before, 3));
        for told in [one.unwrap(), two.unwrap()] {
            accepted += told.accepted;
            effects += told.effects;
            results += told.results;
        }
    }
    assert_eq!((accepted, effects, results), (9, 9, 9));
    assert_eq!(database.sql("SELECT count(*) FROM events"), "1", "the newest fact stays");
}

#[tokio::test]
async fn what_a_dead_letter_did_is_remembered_as_long_as_it_is_there() {
    let (database, clock) = (TestDatabase::fresh(), ManualClock::default());
    let engine = open_by(&database, &clock);
    clock.advance(Duration::from_hours(48));
    let nonce = clock.now();
    engine.commit(vec![Commit { nonce, ..sample::effect(1) }]).await.unwrap();
    engine.send(QueueName::Findings, vec![sample::message(1)]).await.unwrap();
    let leased = engine.lease(QueueName::Findings, 1, LEASE).await.unwrap().remove(0);
    let dead = Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "for good".to_owned() };
    engine.settle(QueueName::Findings, vec![(leased.receipt, dead)], Vec::new()).await.unwrap();
    clock.advance(Duration::from_hours(24 * 400));
    assert_eq!(engine.forget(all(&clock), 100).await.unwrap().effects, 0);
    assert_eq!(engine.dead_since(clock.now()).await.unwrap(), 1);
    assert_eq!(engine.dead_since(nonce).await.unwrap(), 0);
    let letter = engine.list(None, 1).await.unwrap().remove(0);
    engine.replay(vec![(letter.id, QueueName::Requests, letter.message.body)]).await.unwrap();
    assert_eq!(engine.forget(all(&clock), 100).await.unwrap().effects, 1);
}
