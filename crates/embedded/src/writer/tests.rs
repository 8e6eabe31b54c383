//! The writer with small tasks of its own.

use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::ids::RequestId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Kind;
use keyturn_ports::ledger::Ledger as _;
use keyturn_ports::queue::{Queue as _, QueueName, Receipt, Settlement};
use keyturn_ports::results::{NewResult, Published, ResultBody, ResultWriter as _};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

use super::committer::Committer;
use super::op::{Op, Write};
use super::{Durability, Tools, Writer};
use crate::batch::Batch;
use crate::database::{Database, OpenOptions};
use crate::failure::Failure;
use crate::open;
use crate::signals::Signals;

fn tools() -> (TempDir, Tools) {
    let folder = TempDir::new().unwrap();
    let (connection, _) = open::writing(
        &folder.path().join("keyturn.db"),
        &folder.path().join("keyturn.db.epoch"),
        UnixMillis(1),
        &SystemEntropy,
        open::Use::Work,
    )
    .unwrap();
    let signals = Arc::new(Signals::default());
    (
        folder,
        Tools {
            connection,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            signals,
            others: None,
        },
    )
}

fn committer() -> (TempDir, Committer) {
    let (folder, tools) = tools();
    (folder, Committer::new(tools).unwrap())
}

type Answer = Receiver<Result<(), keyturn_ports::Error>>;

fn op(
    durability: Durability,
    work: impl FnMut(&mut Batch<'_>) -> Result<(), Failure> + Send + 'static,
) -> (Box<dyn Op>, Answer) {
    let (reply, answer) = oneshot::channel();
    (Box::new(Write::new("testing", durability, work, reply)), answer)
}

/// Stores a key of `meta`.
fn store(key: &'static str) -> impl FnMut(&mut Batch<'_>) -> Result<(), Failure> + Send + 'static {
    move |batch| batch.execute("INSERT INTO meta (key, value) VALUES (?1, '')", [key]).map(drop)
}

fn stored(committer: &Committer) -> Vec<String> {
    let sql = "SELECT key FROM meta WHERE key <> 'compatible_from' ORDER BY key";
    let mut statement = committer.tools.connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Commits a batch and returns what each caller was told.
fn commit(committer: &mut Committer, ops: Vec<(Box<dyn Op>, Answer)>) -> Vec<Result<(), Kind>> {
    let (mut ops, answers): (Vec<_>, Vec<_>) = ops.into_iter().unzip();
    committer.commit(&mut ops);
    answers.into_iter().map(|mut answer| answer.try_recv().unwrap().map_err(|error| error.kind())).collect()
}

#[test]
fn a_write_that_fails_fails_alone() {
    let (_folder, mut committer) = committer();
    let half_way = |batch: &mut Batch<'_>| {
        store("half")(batch)?;
        Err(Failure::new(Kind::Denied, "no"))
    };
    let ops = vec![
        op(Durability::Told, store("a")),
        op(Durability::Told, half_way),
        op(Durability::Told, store("a")),
        op(Durability::Told, store("b")),
    ];
    let told = commit(&mut committer, ops);
    assert_eq!(told, [Ok(()), Err(Kind::Denied), Err(Kind::Corrupt), Ok(())]);
    assert_eq!(stored(&committer), ["a", "b"]);
}

#[test]
fn a_write_that_panics_fails_alone() {
    let (_folder, mut committer) = committer();
    let ops = vec![
        op(Durability::Internal, store("a")),
        op(Durability::Internal, |_| panic!("on purpose")),
        op(Durability::Internal, store("b")),
    ];
    assert_eq!(commit(&mut committer, ops), [Ok(()), Err(Kind::Unavailable), Ok(())]);
    assert_eq!(stored(&committer), ["a", "b"]);
    assert_eq!(
        commit(&mut committer, vec![op(Durability::Told, store("c"))]),
        [Ok(())],
        "the writer goes on"
    );
}

#[test]
fn a_commit_waits_for_the_disk_if_one_write_in_it_must() {
    let (_folder, mut committer) = committer();
    let synchronous = |committer: &Committer| -> i64 {
        committer.tools.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap()
    };
    let (normal, full) = (1, 2);
    let internal = || op(Durability::Internal, |_| Ok(()));
    let told = || op(Durability::Told, |_| Ok(()));
    for (ops, expected) in [
        (vec![internal(), internal()], normal),
        (vec![internal(), told(), internal()], full),
        (vec![told()], full),
        (vec![internal()], normal),
    ] {
        commit(&mut committer, ops);
        assert_eq!(synchronous(&committer), expected);
    }
}

#[tokio::test]
async fn effects_wait_for_the_disk_where_messages_are_settled_elsewhere() {
    for (elsewhere, expected) in [(false, 1), (true, 2)] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keyturn.db");
        let options = OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy));
        let database = Database::open(options.settled_elsewhere(elsewhere)).unwrap();
        let synchronous = || -> i64 {
            let committer = super::lock(&database.writer().committer);
            committer.tools.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap()
        };
        let receipts =
            vec![(Receipt { message: "1".to_owned(), lease: "a".repeat(32) }, Settlement::Release)];
        database.settle(QueueName::Outcomes, receipts, Vec::new()).await.unwrap();
        assert_eq!(synchronous(), 1, "what is lost of a settlement is work that is done again");
        let expires = UnixMillis(u64::MAX >> 1);
        let request = RequestId::of("a");
        let result = NewResult { request, carries: None, body: ResultBody::Refused, expires };
        assert_eq!(database.publish(vec![result]).await.unwrap(), [Published::Stored]);
        assert_eq!(synchronous(), expected);
        database.settle(QueueName::Outcomes, vec![], Vec::new()).await.unwrap();
        assert_eq!(database.commit(Vec::new()).await.unwrap(), []);
        assert_eq!(synchronous(), expected);
    }
}

#[test]
fn after_a_failed_sync_the_log_is_copied_before_anything_else() {
    let (_folder, mut committer) = committer();
    commit(&mut committer, vec![op(Durability::Told, store("a"))]);
    committer.suspect = true;
    assert_eq!(commit(&mut committer, vec![op(Durability::Told, store("b"))]), [Ok(())]);
    assert!(!committer.suspect);
    assert_eq!(stored(&committer), ["a", "b"]);
}

#[tokio::test]
async fn what_was_handed_over_is_done_before_the_writer_goes() {
    let (_folder, tools) = tools();
    let path = tools.connection.path().unwrap().to_owned();
    let writer = Writer::start(tools).unwrap();
    writer.write("testing", Durability::Internal, store("a")).await.unwrap();
    drop(writer);
    let file = rusqlite::Connection::open(path).unwrap();
    assert!(file.query_row("SELECT 1 FROM meta WHERE key = 'a'", [], |_| Ok(())).is_ok());
}

/// Waits for a queue, and fails or not when it is run for the second time.
#[derive(Debug)]
struct Waiting {
    runs: usize,
    fails: bool,
    reply: Option<oneshot::Sender<Result<(), keyturn_ports::Error>>>,
}

impl Op for Waiting {
    fn durability(&self) -> Durability {
        Durability::Internal
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Failure> {
        self.runs += 1;
        match (self.runs, self.fails) {
            (1, _) => Ok(()),
            (_, false) => store("waited")(batch),
            (_, true) => Err(Failure::new(Kind::Denied, "no")),
        }
    }

    fn answer(&mut self, outcome: &Result<(), Failure>) {
        if self.runs > 1 || outcome.is_err() {
            let told = match outcome {
                Ok(()) => Ok(()),
                Err(failure) => Err(failure.during("waiting")),
            };
            drop(self.reply.take().map(|reply| reply.send(told)));
        }
    }

    fn waits(&self) -> Option<QueueName> {
        self.reply.as_ref().map(|_| QueueName::Findings)
    }
}

/// A committer with which somebody waits.
fn waited_for(fails: bool) -> (TempDir, Committer, Answer) {
    let (folder, mut committer) = committer();
    let (reply, answer) = oneshot::channel();
    let mut first: Vec<Box<dyn Op>> = vec![Box::new(Waiting { runs: 0, fails, reply: Some(reply) })];
    committer.commit(&mut first);
    committer.parked = first;
    (folder, committer, answer)
}

/// Sends a message to the queue that is waited for.
fn send() -> impl FnMut(&mut Batch<'_>) -> Result<(), Failure> + Send + 'static {
    |batch| {
        batch.woken.sent(QueueName::Findings, 1);
        store("sent")(batch)
    }
}

#[test]
fn what_waits_is_run_with_what_it_waits_for() {
    let (_folder, mut committer, mut answer) = waited_for(false);
    assert_eq!(commit(&mut committer, vec![op(Durability::Told, store("else"))]), [Ok(())]);
    assert!(answer.try_recv().is_err(), "it was not waited for this");
    assert_eq!(commit(&mut committer, vec![op(Durability::Told, send())]), [Ok(())]);
    assert!(answer.try_recv().unwrap().is_ok());
    assert_eq!(stored(&committer), ["else", "sent", "waited"]);
}

#[test]
fn what_waits_and_fails_harms_nobody() {
    let (_folder, mut committer, mut answer) = waited_for(true);
    let ops = vec![op(Durability::Told, store("else")), op(Durability::Told, send())];
    assert_eq!(commit(&mut committer, ops), [Ok(()), Ok(())]);
    assert_eq!(answer.try_recv().unwrap().unwrap_err().kind(), Kind::Denied);
    assert_eq!(stored(&committer), ["else", "sent"]);
}

#[test]
fn what_waits_waits_on_when_the_transaction_fails() {
    let (_folder, mut committer, mut answer) = waited_for(false);
    let failing = |batch: &mut Batch<'_>| {
        send()(batch)?;
        Err(Failure::new(Kind::Denied, "no"))
    };
    assert_eq!(commit(&mut committer, vec![op(Durability::Told, failing)]), [Err(Kind::Denied)]);
    assert!(answer.try_recv().is_err());
    assert_eq!(commit(&mut committer, vec![op(Durability::Told, send())]), [Ok(())]);
    assert!(answer.try_recv().unwrap().is_ok());
}

/// Whether a write that nothing else competes with was committed at once.
fn taken_at_once(committer: &mut Committer, key: &'static str) -> bool {
    let (write, mut answer) = op(Durability::Internal, store(key));
    let left = committer.try_take(write);
    assert_eq!(left.is_none(), answer.try_recv().is_ok(), "it is answered if it was taken");
    left.is_none()
}

#[test]
fn a_write_is_committed_at_once_where_few_write() {
    let (_folder, mut committer) = committer();
    assert!(taken_at_once(&mut committer, "a"));
    committer.take(&mut (0..3).map(|_| op(Durability::Internal, |_| Ok(())).0).collect());
    assert!(!taken_at_once(&mut committer, "b"), "three wrote together");
    committer.take(&mut vec![op(Durability::Internal, |_| Ok(())).0]);
    assert!(taken_at_once(&mut committer, "c"));
    committer.suspect = true;
    assert!(!taken_at_once(&mut committer, "d"), "the log has to be copied first");
    assert_eq!(stored(&committer), ["a", "c"]);
}

#[test]
fn a_write_does_not_wait_at_once_for_another_process() {
    let (folder, mut committer) = committer();
    let other = rusqlite::Connection::open(folder.path().join("keyturn.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(!taken_at_once(&mut committer, "a"));
    other.execute_batch("ROLLBACK").unwrap();
    assert!(taken_at_once(&mut committer, "b"));
    assert_eq!(stored(&committer), ["b"]);
}

#[test]
fn what_is_taken_at_once_is_given_to_who_waits_and_may_wait_itself() {
    let (_folder, mut committer, mut answer) = waited_for(false);
    assert!(committer.try_take(op(Durability::Internal, send()).0).is_none());
    assert!(answer.try_recv().unwrap().is_ok());
    let (reply, mut answer) = oneshot::channel();
    let waiting = Waiting { runs: 0, fails: false, reply: Some(reply) };
    assert!(committer.try_take(Box::new(waiting)).is_none());
    assert!(answer.try_recv().is_err());
    assert_eq!(committer.parked.len(), 1, "the one that was answered is gone");
}

fn rider(key: &'static str) -> (Box<dyn Op>, Answer) {
    let (reply, answer) = oneshot::channel();
    (Box::new(Write::new("testing", Durability::Internal, store(key), reply).riding(1)), answer)
}

#[test]
fn what_rides_is_written_with_what_others_need() {
    let (_folder, mut committer) = committer();
    let ((first, mut first_told), (second, mut second_told)) = (rider("a"), rider("b"));
    assert!(committer.try_take(first).is_none());
    committer.take(&mut vec![second]);
    assert!(first_told.try_recv().is_err() && second_told.try_recv().is_err(), "nobody needed a transaction");
    assert!(stored(&committer).is_empty());
    let before = committer.tools.connection.total_changes();
    assert!(taken_at_once(&mut committer, "c"));
    assert!(first_told.try_recv().unwrap().is_ok() && second_told.try_recv().unwrap().is_ok());
    assert_eq!(stored(&committer), ["a", "b", "c"]);
    assert_eq!(committer.tools.connection.total_changes() - before, 3, "each was run once");
}

#[test]
fn what_rides_waits_on_where_a_transaction_cannot_begin_and_does_not_fall_with_another() {
    let (folder, mut committer) = committer();
    let (first, mut told) = rider("a");
    assert!(committer.try_take(first).is_none());
    let other = rusqlite::Connection::open(folder.path().join("keyturn.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(!taken_at_once(&mut committer, "b"));
    assert!(told.try_recv().is_err());
    assert_eq!(committer.riders.len(), 1);
    other.execute_batch("ROLLBACK").unwrap();
    let (failing, mut failed) = op(Durability::Internal, |_| Err(Failure::new(Kind::Denied, "no")));
    committer.take(&mut vec![failing]);
    assert_eq!(failed.try_recv().unwrap().unwrap_err().kind(), Kind::Denied);
    assert!(told.try_recv().unwrap().is_ok());
    assert_eq!(stored(&committer), ["a"]);
}

#[test]
fn many_that_ride_are_not_written_where_one_asks() {
    let (_folder, mut committer) = committer();
    for key in ["a", "b", "c", "d", "e"] {
        assert!(committer.try_take(rider(key).0).is_none());
    }
    assert!(!taken_at_once(&mut committer, "f"), "that many would keep the one who asks waiting");
    committer.take(&mut vec![op(Durability::Told, store("g")).0]);
    assert_eq!(stored(&committer), ["a", "b", "c", "d", "e", "g"]);
    assert!(taken_at_once(&mut committer, "h"));
}

#[tokio::test]
async fn what_rides_is_written_after_a_while_and_before_the_writer_goes() {
    let (_folder, tools) = tools();
    let path = tools.connection.path().unwrap().to_owned();
    let writer = Writer::start(tools).unwrap();
    writer.ride(1, "testing", store("a")).await.unwrap();
    let file = rusqlite::Connection::open(path).unwrap();
    let has = |key: &str| file.query_row("SELECT 1 FROM meta WHERE key = ?1", [key], |_| Ok(())).is_ok();
    assert!(has("a"), "who is answered finds it written");
    let left = writer.ride(1, "testing", store("b"));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), left).await.is_err());
    drop(writer);
    assert!(has("b"), "nobody waits for it any more, and it is written");
}

/// Says that it would find nothing.
#[derive(Debug)]
struct Idle(Waiting);

impl Op for Idle {
    fn durability(&self) -> Durability {
        self.0.durability()
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), Failure> {
        self.0.run(batch)
    }

    fn answer(&mut self, outcome: &Result<(), Failure>) {
        self.0.answer(outcome);
    }

    fn waits(&self) -> Option<QueueName> {
        self.0.waits()
    }

    fn finds_nothing(&self, _: &rusqlite::Connection, _: UnixMillis) -> bool {
        true
    }
}

#[test]
fn what_would_find_nothing_waits_without_a_transaction() {
    let (folder, mut committer) = committer();
    let other = rusqlite::Connection::open(folder.path().join("keyturn.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (mut answers, idle): (Vec<_>, Vec<Box<dyn Op>>) = (0..2)
        .map(|_| {
            let (reply, answer) = oneshot::channel();
            // Its first run is the one with what it waits for.
            let idle: Box<dyn Op> = Box::new(Idle(Waiting { runs: 1, fails: false, reply: Some(reply) }));
            (answer, idle)
        })
        .unzip();
    let mut idle = idle.into_iter();
    assert!(committer.try_take(idle.next().unwrap()).is_none(), "the other's lock is in nobody's way");
    committer.take(&mut idle.collect());
    assert_eq!(committer.parked.len(), 2);
    other.execute_batch("ROLLBACK").unwrap();
    committer.parked.truncate(1);
    assert_eq!(commit(&mut committer, vec![op(Durability::Told, send())]), [Ok(())]);
    assert!(answers.remove(0).try_recv().unwrap().is_ok());
    assert_eq!(stored(&committer), ["sent", "waited"]);
}

#[test]
fn a_sync_waits_for_others_where_some_come_at_once_and_steps_do_not_wait_for_it() {
    let (_folder, committer) = committer();
    let committer = std::sync::Mutex::new(committer);
    let (sender, mut waiting) = tokio::sync::mpsc::channel(64);
    let gather = |batch: &mut Vec<Box<dyn Op>>, waiting: &mut _| super::gather(&committer, waiting, batch);
    let told = |key| op(Durability::Told, store(key)).0;

    let (step, mut answer) = op(Durability::Internal, store("a"));
    let mut alone = vec![told("b"), step];
    gather(&mut alone, &mut waiting);
    assert_eq!(alone.len(), 2, "nobody is waited for where nobody came before");

    super::lock(&committer).take(&mut vec![told("c"), told("d"), told("e")]);
    sender.try_send(told("f")).unwrap();
    gather(&mut alone, &mut waiting);
    assert!(answer.try_recv().unwrap().is_ok(), "the step is committed");
    assert_eq!(alone.len(), 2, "and another has come to the one that waits for the disk");
    assert_eq!(stored(&super::lock(&committer)), ["a", "c", "d", "e"]);

    let keys: Vec<String> = (0..super::MANY).map(|n| format!("many {n}")).collect();
    let mut many: Vec<_> = keys.iter().map(|key| told(key.clone().leak())).collect();
    sender.try_send(told("g")).unwrap();
    gather(&mut many, &mut waiting);
    assert_eq!(many.len(), super::MANY, "enough is enough");
    super::lock(&committer).take(&mut many);
    assert_eq!(super::lock(&committer).last_synced(), super::MANY);
}

#[test]
fn a_long_log_is_copied_after_the_commit_and_by_the_thread() {
    let (_folder, mut committer) = committer();
    let log = |committer: &Committer| {
        let path = committer.tools.connection.path().unwrap().to_owned() + "-wal";
        std::fs::metadata(path).unwrap().len()
    };
    let fill = |batch: &mut Batch<'_>| {
        let sql = "INSERT INTO meta (key, value) VALUES ('long', hex(zeroblob(20000000))) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        batch.execute(sql, []).map(drop)
    };
    commit(&mut committer, vec![op(Durability::Internal, fill)]);
    let long = log(&committer);
    assert!(long > 32 << 20, "{long}");
    assert!(!taken_at_once(&mut committer, "a"));
    committer.tidy();
    // What is copied is written over from the beginning, so that the log does not grow.
    assert!(commit(&mut committer, vec![op(Durability::Internal, store("b"))]).iter().all(Result::is_ok));
    assert!(log(&committer) <= long);
    assert!(taken_at_once(&mut committer, "c"));
}
