//! The writer with small tasks of its own.

use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Kind;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::sync::oneshot::Receiver;

use super::op::{Op, Write};
use super::{Committer, Durability, Tools, Writer};
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
    (folder, Tools { connection, clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy), signals })
}

fn committer() -> (TempDir, Committer) {
    let (folder, tools) = tools();
    (folder, Committer { tools, level: None, suspect: false })
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
