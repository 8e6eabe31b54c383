//! Many replicas on one database, connections that are cut, and a server that goes and comes back.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a fixture fails the test it is made for")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_ports::audit::chain;
use keyturn_ports::audit::{Action, AuditSink as _, NewRow, Verified};
use keyturn_ports::intake::{Accepted, Intake as _, Submission};
use keyturn_ports::ledger::{Commit, Committed, Ledger as _, LedgerReader as _, Stored, Wanted};
use keyturn_ports::queue::{NewMessage, Queue as _, QueueName, Settlement};
use keyturn_ports::results::{NewResult, Published, ResultBody, ResultReader as _, ResultWriter as _};
use keyturn_ports::{Error, Kind};
use keyturn_postgres::{Arrival, Database, Limits, Made, OpenError, Settings, Times, Tls};
use keyturn_testkit::conformance::sample;
use keyturn_testkit::postgres::{Cluster, TestDatabase};

const QUEUE: QueueName = QueueName::Requests;
const LEASE: Duration = Duration::from_mins(1);
const NEVER: Duration = Duration::from_mins(1);
const REPLICAS: usize = 4;

fn settings(database: &TestDatabase) -> Settings {
    Settings::new(&database.address(), None, Tls::Off, Limits::default()).unwrap()
}

fn try_open(database: &TestDatabase) -> Result<Database, OpenError> {
    Database::open(&settings(database), Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server)
}

fn make(database: &TestDatabase) -> Result<Made, OpenError> {
    Database::make(&settings(database), Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server)
}

/// One with its tables, which are made if there are none.
fn open(database: &TestDatabase) -> Database {
    make(database).unwrap();
    try_open(database).unwrap()
}

fn replicas(database: &TestDatabase) -> Vec<Database> {
    (0..REPLICAS).map(|_| open(database)).collect()
}

fn message(text: &str) -> NewMessage {
    NewMessage { request: RequestId::of(text), device: DeviceId::from_bytes([1; 16]), body: text.to_owned() }
}

async fn all<T: Send + 'static>(
    work: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = work.into_iter().map(tokio::spawn).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(tokio::time::timeout(NEVER, task).await.unwrap().unwrap());
    }
    done
}

/// Calls until the database answers. What went wrong before must be something that may pass.
async fn until_it_answers<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> T {
    let deadline = tokio::time::Instant::now() + NEVER;
    loop {
        match call().await {
            Ok(done) => return done,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                assert!(tokio::time::Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[test]
fn many_may_make_the_tables_at_once() {
    let database = TestDatabase::fresh();
    std::thread::scope(|scope| {
        let making: Vec<_> = (0..8).map(|_| scope.spawn(|| make(&database))).collect();
        for made in making {
            made.join().unwrap().unwrap();
        }
    });
    drop(try_open(&database).unwrap());
    assert_eq!(database.sql("SELECT value FROM meta WHERE key = 'schema'"), "6");
}

/// Whoever opens a database in passing makes nothing in it, be it empty or somebody else's.
#[test]
fn a_database_without_our_tables_is_left_alone() {
    let database = TestDatabase::fresh();
    let tables = || database.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'keyturn'");
    let error = try_open(&database).unwrap_err();
    assert!(matches!(error, OpenError::NoTables { others: false, .. }), "{error}");
    database.sql("CREATE TABLE public.orders (id int)");
    let error = try_open(&database).unwrap_err();
    assert!(matches!(error, OpenError::NoTables { others: true, .. }), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("KT-0325") && told.contains("somebody else's") && told.contains("init --tables"),
        "{told}"
    );
    assert_eq!(tables(), "0", "looking makes nothing");

    let first = make(&database).unwrap();
    assert!(first.made && first.beside_others && first.place.contains(database.name()), "{first:?}");
    let second = make(&database).unwrap();
    assert!(!second.made, "{second:?}");
    drop(try_open(&database).unwrap());
    assert_eq!(database.sql("SELECT count(*) FROM public.orders"), "0", "theirs are as they were");
}

#[test]
fn a_newer_schema_opens_only_if_it_allows_this_release() {
    let database = TestDatabase::fresh();
    drop(open(&database));
    database.sql("UPDATE meta SET value = 900 WHERE key = 'schema'");
    drop(open(&database));
    database.sql("UPDATE meta SET value = 899 WHERE key = 'compatible_from'");
    let error = try_open(&database).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 900, oldest: 899, .. }), "{error}");
}

#[test]
fn nothing_moves_into_tables_of_which_some_are_unknown() {
    let database = TestDatabase::fresh();
    drop(open(&database));
    let known = database.sql("SELECT value FROM meta WHERE key = 'schema'");
    database.sql("UPDATE meta SET value = 900 WHERE key = 'schema'");
    let settings = settings(&database);
    let error = Arrival::open(&settings, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap_err();
    assert!(matches!(error, OpenError::NewerToMove { found: 900, .. }), "{error}");
    database.sql(&format!("UPDATE meta SET value = {known} WHERE key = 'schema'"));
    Arrival::open(&settings, Arc::new(SystemClock), Arc::new(SystemEntropy)).unwrap();
    assert_eq!(database.sql("SELECT value FROM meta WHERE key = 'compatible_from'"), "1");
}

#[test]
fn whoever_finds_the_tables_made_needs_no_right_to_make_any() {
    let database = TestDatabase::fresh();
    drop(open(&database));
    let user = format!("u{}", database.name());
    database.sql(&format!(
        "CREATE USER {user}; GRANT USAGE ON SCHEMA keyturn TO {user}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA keyturn TO {user}"
    ));
    let address = database.address().replace("postgres@", &format!("{user}@"));
    let settings = Settings::new(&address, None, Tls::Off, Limits::default()).unwrap();
    let opened = Database::open(&settings, Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server);
    drop(opened.unwrap());
    database.sql(&format!("REVOKE SELECT ON meta FROM {user}"));
    let refused = Database::open(&settings, Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server);
    assert!(matches!(refused, Err(OpenError::Denied { .. })));
    database.sql(&format!("DROP OWNED BY {user}; DROP USER {user}"));
}

#[test]
fn audit_rows_cannot_be_changed_through_sql() {
    let database = TestDatabase::fresh();
    let engine = open(&database);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { engine.append(row(1)).await.unwrap() });
    for sql in ["UPDATE audit SET reason = 'x'", "DELETE FROM audit", "TRUNCATE audit"] {
        assert!(database.sql_error(sql).contains("never changed"), "{sql}");
    }
    // Somebody who may take the trigger away is still found out.
    database.sql("ALTER TABLE audit DISABLE TRIGGER ALL; UPDATE audit SET reason = 'x'");
    assert_eq!(runtime.block_on(engine.verify()).unwrap(), Verified::Broken { seq: 1 });
}

/// More rows than are read at once, and each way in which their numbers can be wrong.
#[test]
fn a_long_chain_is_walked_and_a_row_out_of_place_is_met() {
    const ROWS: u64 = 2500;
    let database = TestDatabase::fresh();
    let engine = open(&database);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let verified = || runtime.block_on(engine.verify()).unwrap();
    assert_eq!(verified(), Verified::Intact { rows: 0 });
    long_chain(&database, ROWS);
    assert_eq!(verified(), Verified::Intact { rows: ROWS });
    let spoilt = |spoil: &str, mend: &str| {
        database.sql(&format!("ALTER TABLE audit DISABLE TRIGGER ALL; {spoil}"));
        let found = verified();
        database.sql(mend);
        assert_eq!(verified(), Verified::Intact { rows: ROWS }, "{mend}");
        found
    };
    // At the end of a page, in the middle of one, beyond every number, and before the first.
    let gone = "UPDATE audit SET seq = seq + 100000 WHERE seq >=";
    let back = "UPDATE audit SET seq = seq - 100000 WHERE seq > 100000";
    for place in [1000, 1001, 1700, ROWS] {
        assert_eq!(spoilt(&format!("{gone} {place}"), back), Verified::Broken { seq: place });
    }
    let (last, first) = ("9223372036854775807", "-9223372036854775808");
    let moved = |from: &str, to: &str| format!("UPDATE audit SET seq = {to} WHERE seq = {from}");
    let two_thousand = "2000";
    assert_eq!(
        spoilt(&moved(two_thousand, last), &moved(last, two_thousand)),
        Verified::Broken { seq: 2000 }
    );
    assert_eq!(spoilt(&moved(two_thousand, first), &moved(first, two_thousand)), Verified::Broken { seq: 1 });
}

/// Puts a chain of so many rows into an empty audit, as it would be had they been appended.
fn long_chain(database: &TestDatabase, rows: u64) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "COPY keyturn.audit (seq, at, actor, action, device, reason, detail, hash) FROM STDIN;")
        .unwrap();
    let mut previous = chain::START;
    for seq in 1..=rows {
        let row = NewRow { reason: "test".to_owned(), ..row(seq) };
        // Row 5 is of a later release.
        let action = if seq == 5 { "OfALaterRelease" } else { "SecretGet" };
        previous = chain::link(&previous, seq, &row, action);
        let NewRow { at, actor, reason, detail, .. } = &row;
        let hash = chain::hexadecimal(&previous);
        writeln!(file, "{seq}\t{}\t{actor}\t{action}\t\\N\t{reason}\t{detail}\t\\\\x{hash}", at.0).unwrap();
    }
    writeln!(file, "\\.").unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    database.cluster().sql(database.name(), &format!("\\i {}", file.path().display()));
}

fn row(n: u64) -> NewRow {
    NewRow {
        at: SystemClock.now(),
        actor: format!("uid {n}"),
        action: Action::SecretGet,
        device: None,
        reason: "a NUL \0 in a text".to_owned(),
        detail: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_is_one_chain_however_many_append() {
    let database = TestDatabase::fresh();
    let appended = all(replicas(&database).into_iter().map(|replica| async move {
        let mut places = Vec::new();
        for n in 0..25 {
            places.push(replica.append(row(n)).await.unwrap());
        }
        places
    }))
    .await;
    let places: BTreeSet<u64> = appended.into_iter().flatten().collect();
    assert_eq!(places, (1..=100).collect());
    assert_eq!(open(&database).verify().await.unwrap(), Verified::Intact { rows: 100 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_accepted_once_however_many_take_it() {
    const MESSAGES: usize = 300;
    let database = TestDatabase::fresh();
    let nonce = SystemClock.now();
    let answers = all(replicas(&database).into_iter().enumerate().map(|(replica, engine)| async move {
        let mut order: Vec<usize> = (0..MESSAGES).collect();
        // Each in another order, so that batches that hold what others wait for are met.
        order.rotate_left(replica * 71);
        if replica % 2 == 1 {
            order.reverse();
        }
        let mut new = 0;
        for batch in order.chunks(20) {
            let submissions =
                batch.iter().map(|n| Submission { nonce, message: message(&n.to_string()) }).collect();
            let accepted = engine.accept(submissions).await.unwrap();
            new += accepted.iter().filter(|one| **one == Accepted::New).count();
        }
        new
    }))
    .await;
    assert_eq!(answers.iter().sum::<usize>(), MESSAGES);
    assert_eq!(open(&database).depth(QUEUE).await.unwrap().total, 300);
    assert_eq!(database.sql("SELECT count(*), count(DISTINCT request) FROM messages"), "300|300");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_leased_twice_and_none_is_left() {
    const MESSAGES: usize = 400;
    let database = TestDatabase::fresh();
    open(&database).send(QUEUE, (0..MESSAGES).map(|n| message(&n.to_string())).collect()).await.unwrap();
    let seen: Vec<String> = all(replicas(&database).into_iter().map(work)).await.concat();
    assert_eq!(seen.len(), MESSAGES);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), MESSAGES);
    let depth = async |queue| open(&database).depth(queue).await.unwrap().total;
    assert_eq!((depth(QUEUE).await, depth(QueueName::Findings).await), (0, 400));
}

/// Leases, forwards and completes until there is nothing left; returns what it got.
async fn work(database: Database) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let leased = database.lease(QUEUE, 7, LEASE).await.unwrap();
        if leased.is_empty() {
            return seen;
        }
        let forward = leased.iter().map(|leased| (QueueName::Findings, leased.message.clone())).collect();
        seen.extend(leased.iter().map(|leased| leased.message.body.clone()));
        let settled = leased.into_iter().map(|leased| (leased.receipt, Settlement::Complete)).collect();
        assert!(database.settle(QUEUE, settled, forward).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_lease_of_a_worker_that_is_gone_runs_out_by_the_servers_clock() {
    let database = TestDatabase::fresh();
    let (one, two) = (open(&database), open(&database));
    one.send(QUEUE, vec![message("a")]).await.unwrap();
    let lost = one.lease(QUEUE, 1, Duration::from_millis(300)).await.unwrap().remove(0);
    drop(one);
    assert!(two.lease(QUEUE, 1, LEASE).await.unwrap().is_empty());
    let found = async {
        loop {
            two.arrival(QUEUE).await;
            if let Some(leased) = two.lease(QUEUE, 1, LEASE).await.unwrap().pop() {
                return leased;
            }
        }
    };
    let found = tokio::time::timeout(NEVER, found).await.unwrap();
    assert_eq!((found.message, found.deliveries), (message("a"), 2));
    let settled = vec![(lost.receipt.clone(), Settlement::Complete)];
    assert_eq!(two.settle(QUEUE, settled, Vec::new()).await.unwrap(), [lost.receipt]);
}

#[tokio::test]
async fn each_wakes_the_other() {
    let database = TestDatabase::fresh();
    let one = open(&database);
    // Looking is so seldom that it cannot be what finds the results.
    let limits = Limits { look_every: Duration::from_mins(5), ..Limits::default() };
    let seldom = Settings::new(&database.address(), None, Tls::Off, limits).unwrap();
    let two = Database::open(&seldom, Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server).unwrap();
    for n in 0..20 {
        let text = n.to_string();
        let expires = SystemClock.now().plus(LEASE);
        let refusal =
            NewResult { request: RequestId::of(&text), carries: None, body: ResultBody::Refused, expires };
        let waiting = async {
            loop {
                let mut rung = std::pin::pin!(two.publication(RequestId::of(&text)));
                let _begun = futures_poll(rung.as_mut()).await;
                if two.result(RequestId::of(&text)).await.unwrap().is_some() {
                    return;
                }
                rung.await;
            }
        };
        let (woken, published) =
            tokio::join!(tokio::time::timeout(NEVER, waiting), one.publish(vec![refusal]));
        assert_eq!(published.unwrap(), [Published::Stored]);
        assert!(woken.is_ok(), "round {n}");
    }
}

/// Polls once, so that the wait has begun.
async fn futures_poll(mut waiting: std::pin::Pin<&mut (impl Future<Output = ()> + ?Sized)>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context).is_ready())).await
}

/// Many rotators commit to the same lanes. Each message takes effect once, with its answer, and no lane loses an
/// update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_takes_effect_once_however_many_commit_it() {
    let database = TestDatabase::fresh();
    let committed = all(replicas(&database).into_iter().map(|engine| async move {
        let mut applied = 0;
        for n in 1..=30 {
            applied += usize::from(until_applied(&engine, n).await == Committed::Applied);
        }
        applied
    }))
    .await;
    assert_eq!(committed.iter().sum::<usize>(), 30, "{committed:?}");
    let engine = open(&database);
    assert_eq!(engine.depth(QueueName::Outcomes).await.unwrap().total, 30);
    let revisions = database.sql("SELECT sum(revision) FROM lanes");
    assert_eq!(revisions, "30", "every effect made one revision");
    let facts = engine.events(0, 1000).await.unwrap();
    assert_eq!(facts.len(), 30);
}

/// Loads and commits as the rotator does, until the message has had its effect.
async fn until_applied(engine: &Database, n: u8) -> Committed {
    let key = sample::lane_key(n % 3, 1);
    for _ in 0..200 {
        let wanted = Wanted {
            device: key.device,
            lane: key.id(),
            request: sample::request(n),
            nonce: sample::nonce(n),
            mark: sample::mark(n),
            versions: BTreeSet::new(),
        };
        let loaded = engine.load(vec![wanted]).await.unwrap().remove(0);
        let found = loaded.lanes.into_iter().find(|stored| stored.value.key == key);
        let lane = found.unwrap_or_else(|| Stored { value: sample::lane(n % 3, 1), revision: 0 });
        let commit = Commit {
            events: vec![sample::event(n % 3, n)],
            outbox: vec![(QueueName::Outcomes, sample::message(n))],
            ..sample::commit(n, lane.value, lane.revision)
        };
        match engine.commit(vec![commit]).await.unwrap().remove(0) {
            Committed::Conflict => {}
            settled => return settled,
        }
    }
    panic!("message {n} never took effect");
}

/// A reader that goes on from the last fact it saw misses none, whatever commits when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_the_facts_misses_none() {
    const FACTS: usize = 120;
    let database = TestDatabase::fresh();
    let reading = open(&database);
    let reader = tokio::spawn(async move {
        let (mut place, mut seen) = (0, Vec::new());
        while seen.len() < FACTS {
            for (at, fact) in reading.events(place, 3).await.unwrap() {
                place = at;
                seen.push(fact.request);
            }
        }
        seen
    });
    let engines = replicas(&database);
    let writers = (0_u8..4).zip(engines).map(|(replica, engine)| async move {
        for n in 0..30 {
            let n = 1 + replica * 30 + n;
            let commit = Commit { events: vec![sample::event(1, n)], ..sample::effect(n) };
            assert_eq!(engine.commit(vec![commit]).await.unwrap(), [Committed::Applied]);
        }
    });
    all(writers).await;
    let seen = tokio::time::timeout(NEVER, reader).await.unwrap().unwrap();
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), FACTS);
}

/// Connections are cut at any moment while messages are accepted and worked on. Callers hear of it, nobody is told
/// what is not so, and everything comes through once the calls are repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_nothing() {
    const MESSAGES: usize = 120;
    const CUTS: usize = 40;
    let database = Arc::new(TestDatabase::fresh());
    let cuts = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicUsize::new(0));
    let nonce = SystemClock.now();
    let (producing, engines) = (open(&database), [open(&database), open(&database)]);
    let cutter = tokio::spawn(cut_until_told(Arc::clone(&database), Arc::clone(&cuts), Arc::clone(&stop)));
    let cut = Arc::clone(&cuts);
    let producer = tokio::spawn(async move {
        let mut sent = 0;
        while sent < MESSAGES || cut.load(Ordering::SeqCst) < CUTS {
            let submission = Submission { nonce, message: message(&sent.to_string()) };
            until_it_answers(|| producing.accept(vec![submission.clone()])).await;
            sent += 1;
        }
        sent
    });
    let done = Arc::new(AtomicUsize::new(0));
    let workers = engines.map(|engine| tokio::spawn(work_until_told(engine, Arc::clone(&done))));
    let sent = producer.await.unwrap();
    stop.store(1, Ordering::SeqCst);
    cutter.await.unwrap();
    let watching = open(&database);
    let empty = async {
        while watching.depth(QUEUE).await.unwrap().total > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(NEVER, empty).await.unwrap();
    done.store(1, Ordering::SeqCst);
    let mut handled = BTreeSet::new();
    for worker in workers {
        handled.extend(tokio::time::timeout(NEVER, worker).await.unwrap().unwrap());
    }
    assert_eq!(handled.len(), sent);
    let forwarded = "SELECT count(DISTINCT request) FROM messages WHERE queue = 2";
    assert_eq!(database.sql(forwarded), sent.to_string());
    let counted = "SELECT (SELECT sum(total) FROM queue_counters) = (SELECT count(*) FROM messages)";
    assert_eq!(database.sql(counted), "t", "the counters are right");
}

/// Cuts every connection again and again.
async fn cut_until_told(database: Arc<TestDatabase>, cuts: Arc<AtomicUsize>, stop: Arc<AtomicUsize>) {
    while stop.load(Ordering::SeqCst) == 0 {
        let database = Arc::clone(&database);
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let cut = tokio::task::spawn_blocking(move || database.sql(sql)).await.unwrap();
        cuts.fetch_add(cut.parse::<usize>().unwrap(), Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Works as a role does, through whatever happens; returns what it handled.
async fn work_until_told(engine: Database, done: Arc<AtomicUsize>) -> BTreeSet<String> {
    let mut handled = BTreeSet::new();
    let short = Duration::from_millis(300);
    while done.load(Ordering::SeqCst) == 0 {
        for leased in until_it_answers(|| engine.lease(QUEUE, 5, short)).await {
            let forward = vec![(QueueName::Findings, leased.message.clone())];
            let settled = vec![(leased.receipt.clone(), Settlement::Complete)];
            until_it_answers(|| engine.settle(QUEUE, settled.clone(), forward.clone())).await;
            handled.insert(leased.message.body);
        }
        engine.arrival(QUEUE).await;
    }
    handled
}

/// What was told is there after a crash, and what was told of internally is there as far as something later was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_server_takes_nothing_that_was_told() {
    let database = TestDatabase::on(Cluster::private());
    let engine = open(&database);
    let nonce = SystemClock.now();
    for round in 0..3 {
        let text = |n: usize| format!("{round} {n}");
        for n in 0..20 {
            let submission = Submission { nonce, message: message(&text(n)) };
            assert_eq!(engine.accept(vec![submission]).await.unwrap(), [Accepted::New]);
        }
        // An internal commit, and a told one behind it.
        let leased = engine.lease(QUEUE, 20, LEASE).await.unwrap();
        let forward = leased.iter().map(|one| (QueueName::Findings, one.message.clone())).collect();
        let settled = leased.into_iter().map(|one| (one.receipt, Settlement::Complete)).collect();
        assert!(engine.settle(QUEUE, settled, forward).await.unwrap().is_empty());
        engine.append(row(round)).await.unwrap();
        database.cluster().crash();
        let error = engine.depth(QUEUE).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        database.cluster().start();
        let depth = until_it_answers(|| engine.depth(QueueName::Findings)).await;
        assert_eq!(depth.total, 20 * (round + 1), "what came before a told commit is there");
        for n in 0..20 {
            assert!(engine.knows(nonce, message(&text(n)).request).await.unwrap(), "{}", text(n));
        }
        assert_eq!(engine.depth(QUEUE).await.unwrap().total, 0);
    }
    assert_eq!(engine.verify().await.unwrap(), Verified::Intact { rows: 3 });
}

#[tokio::test]
async fn a_crash_of_the_server_takes_no_effect_of_what_was_settled_elsewhere() {
    let database = TestDatabase::on(Cluster::private());
    make(&database).unwrap();
    let settings = settings(&database).settled_elsewhere(true);
    let engine =
        Database::open(&settings, Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server).unwrap();
    for round in 1..=3 {
        let result = NewResult {
            request: sample::request(round),
            carries: None,
            body: ResultBody::Signed("told".to_owned()),
            expires: SystemClock.now().plus(NEVER),
        };
        assert_eq!(engine.publish(vec![result]).await.unwrap(), [Published::Stored]);
        // The message was acknowledged to another engine now, which will not give it out again.
        database.cluster().crash();
        database.cluster().start();
        let found = until_it_answers(|| engine.result(sample::request(round))).await;
        assert_eq!(found, Some(ResultBody::Signed("told".to_owned())), "round {round}");
        assert_eq!(engine.commit(vec![sample::effect(round)]).await.unwrap(), [Committed::Applied]);
        database.cluster().crash();
        database.cluster().start();
        until_it_answers(|| engine.depth(QUEUE)).await;
        let again = engine.commit(vec![sample::effect(round)]).await.unwrap();
        assert_eq!(again, [Committed::Duplicate], "round {round}");
    }
}

#[tokio::test]
async fn texts_that_the_server_cannot_hold_do_not_keep_a_message_from_being_settled() {
    let database = TestDatabase::fresh();
    let engine = open(&database);
    let strange = "a body with a NUL \0 in it";
    engine.send(QUEUE, vec![message(strange)]).await.unwrap();
    let leased = engine.lease(QUEUE, 1, LEASE).await.unwrap().remove(0);
    assert_eq!(leased.message.body, strange, "byte for byte");
    let retry = Settlement::Retry { after: Duration::ZERO, error: "at \0".to_owned() };
    assert!(engine.settle(QUEUE, vec![(leased.receipt, retry)], Vec::new()).await.unwrap().is_empty());
}

#[test]
fn nobody_answers_where_there_is_no_server() {
    let settings = "postgresql://me@127.0.0.1:1/keyturn";
    let settings = Settings::new(settings, None, Tls::Off, Limits::default()).unwrap();
    let refused = Database::open(&settings, Arc::new(SystemClock), Arc::new(SystemEntropy), Times::Server);
    let error = refused.unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("database keyturn at 127.0.0.1"), "{error}");
}
