//! The writer with small tasks of its own.

use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Kind;
use keyturn_ports::queue::QueueName;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

use super::committer::Committer;
use super::op::{Op, Write};
use super::{Durability, Tools, Writer};
use crate::batch::Batch;
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
