//! Files that were put back: what is noticed, what is told, and what a backup is worth.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a fixture fails the test it is made for")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::LaneId;
use keyturn_domain::lane::{Lane, Order};
use keyturn_domain::time::UnixMillis;
use keyturn_embedded::{BackupError, Database, OpenError, OpenOptions, Pace, check, restore};
use keyturn_ports::audit::{Action, AuditSink as _, NewRow};
use keyturn_ports::ledger::{Commit, Committed, Ledger as _, LedgerOperator as _, LedgerReader as _};
use keyturn_ports::queue::{Queue as _, QueueName};
use keyturn_ports::upkeep::Upkeep as _;
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use rusqlite::Connection;
use tempfile::TempDir;

const FAST: Pace = Pace { pages: 64, pause: Duration::ZERO };

/// What is done to a store, in words and in deed.
type Case = (&'static str, fn(&Store));
/// What is told of a spoilt backup, and how it is spoilt.
type Spoil<'a> = (&'static str, &'a dyn Fn(&Path));

struct Store {
    folder: TempDir,
    clock: ManualClock,
}

impl Store {
    fn new() -> Self {
        let clock = ManualClock::default();
        clock.advance(Duration::from_hours(1000));
        Self { folder: TempDir::new().unwrap(), clock }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self) -> OpenOptions {
        OpenOptions::new(self.path("keyturn.db"), Arc::new(self.clock.clone()), Arc::new(SystemEntropy))
    }

    fn open(&self) -> Database {
        Database::open(self.options()).unwrap()
    }

    fn epoch(&self) -> PathBuf {
        self.path("keyturn.db.epoch")
    }

    /// A copy by other means, while nobody has the file open.
    fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }
}

async fn restored(database: &Database) -> Option<UnixMillis> {
    database.restored().await.unwrap()
}

async fn lane(database: &Database) -> Lane {
    database.lanes(sample::device(1)).await.unwrap().remove(0)
}

async fn put(database: &Database, n: u8, lane: Lane) -> Committed {
    let revision =
        database.load(vec![wanted()]).await.unwrap()[0].lanes.first().map_or(0, |one| one.revision);
    database.commit(vec![sample::commit(n, lane, revision)]).await.unwrap().remove(0)
}

fn wanted() -> keyturn_ports::ledger::Wanted {
    keyturn_ports::ledger::Wanted {
        device: sample::device(1),
        lane: LaneId([0; 16]),
        request: sample::request(99),
        nonce: sample::nonce(99),
        mark: sample::mark(99),
        versions: [].into(),
    }
}

#[tokio::test]
async fn a_store_that_goes_on_is_the_same() {
    let store = Store::new();
    for _ in 0..3 {
        let database = store.open();
        assert_eq!(restored(&database).await, None);
        assert!(database.recent(9).await.unwrap().is_empty());
        database.mark().await.unwrap();
        store.clock.advance(Duration::from_hours(1));
    }
    assert_eq!(fs::metadata(store.epoch()).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(store.epoch()).unwrap().ends_with(" 5\n"), "three opened, three marked");
    // A clock that was set back marks as well, and is no restore.
    let early =
        OpenOptions::new(store.path("keyturn.db"), Arc::new(ManualClock::default()), Arc::new(SystemEntropy));
    assert_eq!(restored(&Database::open(early).unwrap()).await, None);
}

/// Whatever is done to the two files, it is noticed once, by one of those who open the store, and recorded.
#[tokio::test]
async fn what_was_put_back_is_noticed() {
    let cases: [Case; 5] = [
        ("the second file is lost", |store| fs::remove_file(store.epoch()).unwrap()),
        ("the second file is garbage", |store| fs::write(store.epoch(), "x").unwrap()),
        ("the second file is another store's", |store| {
            let other = Store::new();
            drop(other.open());
            fs::copy(other.epoch(), store.epoch()).unwrap();
        }),
        ("an older copy, by other means", |store| store.copy("older.db", "keyturn.db")),
        ("the database is lost", |store| fs::remove_file(store.path("keyturn.db")).unwrap()),
    ];
    for (what, put_back) in cases {
        let store = Store::new();
        drop(store.open());
        store.copy("keyturn.db", "older.db");
        for _ in 0..2 {
            store.clock.advance(Duration::from_mins(2));
            drop(store.open());
        }
        put_back(&store);
        let opened = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.open())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for database in &opened {
            assert_eq!(restored(database).await, Some(store.clock.now()), "{what}");
        }
        let rows = opened[0].recent(9).await.unwrap();
        assert_eq!(rows.len(), 1, "{what}: {rows:?}");
        assert_eq!((&rows[0].row.action, rows[0].row.actor.as_str()), (&Action::StoreRestored, "keyturn"));
    }
}

/// A process may die between the second file and the commit, in each of the steps.
#[tokio::test]
async fn an_interrupted_mark_is_no_restore_and_an_interrupted_epoch_is_one() {
    let store = Store::new();
    drop(store.open());
    // As if the mark had been written beside and the commit had not come.
    let said = fs::read_to_string(store.epoch()).unwrap();
    fs::write(store.epoch(), said.replace(" 0\n", " 1\n")).unwrap();
    assert_eq!(restored(&store.open()).await, None);
    // As if a new epoch had been written beside and the commit had not come.
    let other = Store::new();
    drop(other.open());
    fs::copy(other.epoch(), store.epoch()).unwrap();
    assert_eq!(restored(&store.open()).await, Some(store.clock.now()));
    store.clock.advance(Duration::from_hours(1));
    assert_ne!(restored(&store.open()).await, Some(store.clock.now()), "once");
}

#[test]
fn a_second_file_that_cannot_be_used_is_refused_with_its_name() {
    let store = Store::new();
    fs::create_dir(store.epoch()).unwrap();
    let refused = Database::open(store.options()).unwrap_err();
    assert!(matches!(refused, OpenError::Epoch { .. }), "{refused}");
    assert!(refused.to_string().contains("keyturn.db.epoch"), "{refused}");
    let elsewhere = store.path("elsewhere");
    drop(Database::open(store.options().epoch_file(&elsewhere)).unwrap());
    assert!(elsewhere.exists());
}

/// Lanes are told one by one, when they are loaded, until their device was heard for certain.
#[tokio::test]
async fn a_lane_is_unsure_until_its_device_is_heard() {
    let store = Store::new();
    let database = store.open();
    assert_eq!(put(&database, 1, sample::lane_with(1, 1, sample::version(1))).await, Committed::Applied);
    let decided_before = lane(&database).await;
    store.clock.advance(Duration::from_hours(1));
    let at = store.clock.now();
    database.declare_restored("somebody", "a snapshot", "").await.unwrap();
    assert_eq!(lane(&database).await.restored, Some(at));
    assert_eq!(database.load(vec![wanted()]).await.unwrap()[0].restored, Some(at));
    // What was decided on before does not make it sure.
    assert_eq!(put(&database, 2, decided_before).await, Committed::Conflict);
    // A wish of an operator does not, either, and is not lost.
    database.force(sample::device(1), UnixMillis(5)).await.unwrap();
    let unsure = lane(&database).await;
    assert_eq!((unsure.restored, unsure.forced), (Some(at), Some(UnixMillis(5))));
    // A report that leaves it open is stored and leaves it open.
    assert_eq!(put(&database, 3, unsure.clone()).await, Committed::Applied);
    assert_eq!(lane(&database).await.restored, Some(at));
    store.clock.advance(Duration::from_hours(1));
    let order = Order { received: store.clock.now(), nonce: store.clock.now() };
    let heard = Lane { restored: None, last: Some(order), ..unsure };
    assert_eq!(put(&database, 4, heard).await, Committed::Applied);
    assert_eq!(lane(&database).await.restored, None);
    drop(database);
    assert_eq!(lane(&store.open()).await.restored, None);
    // And once more.
    store.clock.advance(Duration::from_hours(1));
    fs::remove_file(store.epoch()).unwrap();
    assert_eq!(lane(&store.open()).await.restored, Some(store.clock.now()));
}

#[tokio::test]
async fn a_backup_has_what_was_there_when_it_began() {
    let store = Store::new();
    let database = store.open();
    put(&database, 1, sample::lane(1, 1)).await;
    let message = sample::message(1);
    database.send(QueueName::Requests, vec![message; 3000]).await.unwrap();
    let row = NewRow {
        at: store.clock.now(),
        actor: "test".to_owned(),
        action: Action::SecretGet,
        device: None,
        reason: String::new(),
        detail: String::new(),
    };
    database.append(row).await.unwrap();
    // Somebody writes between any two of its steps: it neither starts anew nor sees that.
    let writer = Connection::open(database.path()).unwrap();
    let (mut steps, mut seen) = (0, Vec::new());
    let pace = Pace { pages: 5, pause: Duration::ZERO };
    let to = store.path("backup.db");
    let made = database
        .back_up(&to, pace, &mut |done, all| {
            steps += 1;
            seen.push((done, all));
            writer.execute("INSERT INTO meta (key, value) VALUES (?1, 'while it is made')", [steps]).unwrap();
        })
        .unwrap();
    assert!(steps > 10, "{steps} steps");
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1), "{seen:?}");
    assert_eq!((made.lanes, made.audit, made.missing), (1, 1, 0));
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&to).unwrap();
    assert_eq!(check(&to).unwrap(), made);
    assert_eq!(fs::read(&to).unwrap(), before, "checking changes nothing");
    let names: Vec<_> =
        fs::read_dir(store.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let beside: Vec<_> =
        names.iter().filter(|name| name.to_str().unwrap().starts_with("backup.db.")).collect();
    assert_eq!(beside, ["backup.db.sha256"], "{names:?}");
    let copy = Connection::open(&to).unwrap();
    let late: i64 = copy
        .query_row("SELECT count(*) FROM meta WHERE value = 'while it is made'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(late, 0);
    assert!(matches!(database.back_up(&to, FAST, &mut |_, _| {}), Err(BackupError::Exists(_))));
}

#[tokio::test]
async fn a_damaged_backup_is_told() {
    let store = Store::new();
    let database = store.open();
    for n in 1..=3 {
        let row = NewRow {
            at: store.clock.now(),
            actor: format!("actor {n}"),
            action: Action::SecretGet,
            device: None,
            reason: String::new(),
            detail: String::new(),
        };
        database.append(row).await.unwrap();
    }
    let full = Commit {
        issued: vec![keyturn_ports::ledger::Issued {
            version: sample::version(1),
            vault_ref: "7".to_owned(),
        }],
        ..sample::commit(1, sample::lane(1, 1), 0)
    };
    let good = store.path("good.db");
    database.back_up(&good, FAST, &mut |_, _| {}).unwrap();
    let spoil: [Spoil<'_>; 5] = [
        ("application id", &|path| fs::write(path, b"").unwrap()),
        ("not a database", &|path| fs::write(path, "x".repeat(9000)).unwrap()),
        ("audit is broken at row 2", &|path| {
            let file = Connection::open(path).unwrap();
            file.execute_batch(
                "DROP TRIGGER audit_is_never_changed; UPDATE audit SET actor = 'nobody' WHERE seq = 2",
            )
            .unwrap();
        }),
        ("schema 900", &|path| {
            let file = Connection::open(path).unwrap();
            file.pragma_update(None, "user_version", 900).unwrap();
            file.execute("UPDATE meta SET value = '900' WHERE key = 'compatible_from'", ()).unwrap();
        }),
        ("is no usable backup", &|path| {
            let length = fs::metadata(path).unwrap().len();
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        store.copy("good.db", "bad.db");
        spoil(&store.path("bad.db"));
        let told = check(&store.path("bad.db")).unwrap_err().to_string();
        assert!(told.contains(what) && told.contains("bad.db"), "{what}: {told}");
    }
    assert_eq!(database.commit(vec![full]).await.unwrap(), [Committed::Applied]);
    let told = database.back_up(&store.path("lacking.db"), FAST, &mut |_, _| {}).unwrap_err().to_string();
    assert!(told.contains("lacks 1 version"), "{told}");
    let left = ["lacking.db", "lacking.db.part", "lacking.db.sha256"];
    assert!(left.into_iter().all(|name| !store.path(name).exists()));
}

/// Every bit of a few hundred bytes, on every page among them: SQLite's check alone misses most, the sum none.
#[tokio::test]
async fn no_changed_byte_goes_unnoticed() {
    let store = Store::new();
    let database = store.open();
    put(&database, 1, sample::lane(1, 1)).await;
    database.send(QueueName::Requests, vec![sample::message(1); 20]).await.unwrap();
    let good = store.path("backup.db");
    let made = database.back_up(&good, FAST, &mut |_, _| {}).unwrap();
    assert!(made.sum_matches);
    let told = std::process::Command::new("sha256sum")
        .args(["--check", "--strict", "backup.db.sha256"])
        .current_dir(store.folder.path())
        .output()
        .unwrap();
    assert!(told.status.success(), "{told:?}");
    let (bytes, bare) = (fs::read(&good).unwrap(), store.path("bare.db"));
    let (mut tried, mut missed) = (0, 0);
    for at in (0..bytes.len()).step_by(401).chain([bytes.len() - 1]) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&good, &changed).unwrap();
        let error = check(&good).unwrap_err();
        assert!(
            matches!(&error, BackupError::Bad { detail, .. } if detail.contains("SHA-256")),
            "{at}: {error}"
        );
        fs::write(&bare, &changed).unwrap();
        tried += 1;
        // What verify was before there were sums, and is without one.
        missed += u32::from(check(&bare).is_ok_and(|checked| !checked.sum_matches));
    }
    assert!(tried > 500 && missed > tried / 2, "{missed} of {tried} are missed without the sum");
    let path = store.path("keyturn.db");
    drop(database);
    let before = fs::read(&path).unwrap();
    let error = restore(&good, &path, "one", &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("it is not what was made"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before, "nothing was put back");
    fs::write(&good, [&bytes[..], b"x"].concat()).unwrap();
    check(&good).unwrap_err();
    fs::write(&good, &bytes[..bytes.len() - 1]).unwrap();
    check(&good).unwrap_err();
    fs::write(&good, &bytes).unwrap();
    assert_eq!(check(&good).unwrap(), made);
    for no_sum in ["", "x", &"0".repeat(63), &"g".repeat(64)] {
        fs::write(store.path("backup.db.sha256"), no_sum).unwrap();
        let error = check(&good).unwrap_err().to_string();
        assert!(error.contains("backup.db.sha256") && error.contains("no SHA-256"), "{error}");
    }
    fs::remove_file(store.path("backup.db.sha256")).unwrap();
    assert!(!check(&good).unwrap().sum_matches);
    assert!(!restore(&good, &path, "two", &mut |_, _| {}).unwrap().backup.sum_matches);
}

/// A sum that is left over is nobody's to write over, and a name that would break a line is written as sha256sum does.
#[tokio::test]
async fn a_sum_is_written_as_sha256sum_reads_it() {
    let store = Store::new();
    let database = store.open();
    fs::write(store.path("b.sha256"), "of an old one").unwrap();
    let error = database.back_up(&store.path("b"), FAST, &mut |_, _| {}).unwrap_err();
    assert!(matches!(&error, BackupError::Exists(name) if name.ends_with("b.sha256")), "{error}");
    assert!(!store.path("b").exists());
    let odd = "a\\b\nc d.db";
    database.back_up(&store.path(odd), FAST, &mut |_, _| {}).unwrap();
    let told = std::process::Command::new("sha256sum")
        .args(["--check", "--strict"])
        .arg(format!("{odd}.sha256"))
        .current_dir(store.folder.path())
        .output()
        .unwrap();
    assert!(told.status.success(), "{told:?}");
    assert!(check(&store.path(odd)).unwrap().sum_matches);
}

#[tokio::test]
async fn a_backup_takes_the_place_of_the_database_and_is_known_for_one() {
    let store = Store::new();
    let database = store.open();
    put(&database, 1, sample::lane(1, 1)).await;
    let (backup, path) = (store.path("backup.db"), store.path("keyturn.db"));
    database.back_up(&backup, FAST, &mut |_, _| {}).unwrap();
    let late = Commit { ..sample::commit(2, sample::lane(2, 1), 0) };
    database.commit(vec![late]).await.unwrap();
    let in_use = restore(&backup, &path, "one", &mut |_, _| {}).unwrap_err();
    assert!(matches!(in_use, BackupError::InUse(_)), "{in_use}");
    drop(database);

    store.clock.advance(Duration::from_secs(5));
    let mut told = Vec::new();
    let done = restore(&backup, &path, "one", &mut |done, all| told.push((done, all))).unwrap();
    assert_eq!(done.backup.lanes, 1);
    assert!(told.last().is_some_and(|(done, all)| done == all));
    let database = store.open();
    assert_eq!(restored(&database).await, Some(store.clock.now()));
    assert_eq!(database.devices(None, 9).await.unwrap(), [sample::device(1)]);
    drop(database);
    // What was replaced is whole, with what stood in its log.
    let kept = done.kept.unwrap();
    let kept = Connection::open(kept).unwrap();
    let lanes: i64 = kept.query_row("SELECT count(*) FROM lanes", [], |row| row.get(0)).unwrap();
    assert_eq!(lanes, 2);
    // A bad backup leaves everything as it is.
    fs::write(store.path("bad.db"), "bad").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(restore(&store.path("bad.db"), &path, "two", &mut |_, _| {}).is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!store.path("keyturn.db.restoring").exists() && !store.path("keyturn.db.replaced-two").exists());
    // A damaged database is replaced and kept as well.
    fs::write(&path, "damaged").unwrap();
    fs::write(store.path("keyturn.db-wal"), "damaged too").unwrap();
    let done = restore(&backup, &path, "three", &mut |_, _| {}).unwrap();
    assert_eq!(fs::read(done.kept.unwrap()).unwrap(), b"damaged");
    assert!(!store.path("keyturn.db-wal").exists());
    assert_eq!(lane(&store.open()).await.restored, Some(store.clock.now()));
}
