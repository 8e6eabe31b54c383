//! Which files are opened, which are refused, and what the refusal says.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_embedded::{Database, OpenError, OpenOptions};
use keyturn_ports::queue::{NewMessage, Queue as _, QueueName};
use rusqlite::Connection;
use tempfile::TempDir;

fn open(path: &Path) -> Result<Database, OpenError> {
    Database::open(OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy)))
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("keyturn.db");
    (folder, path)
}

/// The refusal, which must name the file.
fn refusal(path: &Path) -> OpenError {
    let error = open(path).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    error
}

/// A file with some messages in it, closed.
async fn filled(path: &Path) {
    let database = open(path).unwrap();
    let body = "x".repeat(4000);
    let message = NewMessage { request: RequestId([1; 32]), device: DeviceId::from_bytes([1; 16]), body };
    database.send(QueueName::Requests, vec![message; 100]).await.unwrap();
}

#[test]
fn a_new_file_is_its_owners_alone() {
    let (_folder, path) = folder();
    let database = open(&path).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let file = PathBuf::from(format!("{}{suffix}", path.display()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    assert_eq!(database.path(), path);
}

#[tokio::test]
async fn what_was_stored_is_there_after_reopening() {
    let (_folder, path) = folder();
    filled(&path).await;
    let depth = open(&path).unwrap().depth(QueueName::Requests).await.unwrap();
    assert_eq!(depth.total, 100);
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let (_folder, path) = folder();
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&path))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    for database in opened {
        database.unwrap();
    }
}

#[test]
fn an_empty_file_is_a_new_one() {
    let (_folder, path) = folder();
    fs::write(&path, b"").unwrap();
    open(&path).unwrap();
}

#[test]
fn garbage_is_refused_and_left_alone() {
    for garbage in [b"hello".to_vec(), b"not a database ".repeat(1000)] {
        let (_folder, path) = folder();
        fs::write(&path, &garbage).unwrap();
        assert!(matches!(refusal(&path), OpenError::Foreign { .. }));
        assert_eq!(fs::read(&path).unwrap(), garbage);
    }
}

#[test]
fn the_database_of_another_application_is_refused() {
    let (_folder, path) = folder();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE songs (title TEXT); PRAGMA application_id = 7;").unwrap();
    drop(other);
    assert!(matches!(refusal(&path), OpenError::Foreign { .. }));
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let (_folder, path) = folder();
    filled(&path).await;
    let length = fs::metadata(&path).unwrap().len();
    for kept in [length / 2, length - 1, 4096] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(kept).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, OpenError::Corrupt { .. }), "{kept} of {length} bytes: {error}");
    }
}

#[tokio::test]
async fn a_damaged_page_is_refused() {
    let (_folder, path) = folder();
    filled(&path).await;
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 8192 / 2 * 8192;
    bytes.iter_mut().skip(middle).take(512).for_each(|byte| *byte = 0xa5);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(refusal(&path), OpenError::Corrupt { .. }));
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let (folder, _) = folder();
    let missing = folder.path().join("missing").join("keyturn.db");
    assert!(matches!(refusal(&missing), OpenError::Unwritable { .. }));
    let file = folder.path().join("a file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(refusal(&file.join("keyturn.db")), OpenError::Unwritable { .. }));
    assert!(matches!(refusal(folder.path()), OpenError::Unwritable { .. }), "a folder is no file");
}

#[test]
fn a_newer_schema_opens_only_if_it_allows_this_release() {
    let (_folder, path) = folder();
    drop(open(&path).unwrap());
    let newer = |compatible_from: &str| {
        let file = Connection::open(&path).unwrap();
        file.pragma_update(None, "user_version", 900).unwrap();
        file.execute("UPDATE meta SET value = ?1 WHERE key = 'compatible_from'", [compatible_from]).unwrap();
    };
    newer("1");
    drop(open(&path).unwrap());
    newer("899");
    let error = refusal(&path);
    assert!(matches!(error, OpenError::Newer { found: 900, known: 3, .. }), "{error}");
}
