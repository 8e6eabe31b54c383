use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_embedded::{Database, OpenOptions};
use tempfile::TempDir;

use super::*;

fn row(action: Action, reason: &str) -> NewRow {
    NewRow { action, reason: reason.to_owned(), ..trial(UnixMillis(7)) }
}

async fn watched(audit: &Database, rows: u16) -> Watch {
    let mut watch = Watch::new(Arc::new(audit.clone()));
    for number in 0..rows {
        let action = if number % 3 == 0 { Action::SecretGet } else { Action::KeysChanged };
        audit.append(row(action, &number.to_string())).await.unwrap();
    }
    watch.round(UnixMillis(7), Duration::ZERO, &CancellationToken::new()).await;
    watch
}

fn open(folder: &TempDir) -> Database {
    let (clock, chance) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    Database::open(OpenOptions::new(folder.path().join("a.db"), clock, chance)).unwrap()
}

/// More than one page, then a few more, and nothing is counted twice.
#[tokio::test]
async fn reveals_are_counted_once_and_the_chain_is_followed() {
    let folder = TempDir::new().unwrap();
    let audit = open(&folder);
    let mut watch = watched(&audit, 601).await;
    let told = |watch: &Watch| (watch.seen.seq, watch.seen.reveals, watch.seen.hash.is_some());
    assert_eq!(told(&watch), (601, 201, true));
    audit.append(row(Action::SecretGet, "one more")).await.unwrap();
    for _ in 0..2 {
        watch.round(UnixMillis(8), Duration::ZERO, &CancellationToken::new()).await;
        assert_eq!(told(&watch), (602, 202, true));
    }
}

/// A row that somebody altered in the file, past its triggers, is met by who follows from the start and by nobody who
/// was past it; a new row after it is counted all the same.
#[tokio::test]
async fn an_altered_row_breaks_the_chain_and_no_count() {
    let folder = TempDir::new().unwrap();
    let audit = open(&folder);
    watched(&audit, 5).await;
    let file = rusqlite::Connection::open(folder.path().join("a.db")).unwrap();
    let triggers: Vec<String> = file
        .prepare("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'")
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for trigger in triggers {
        file.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
    }
    assert_eq!(file.execute("UPDATE audit SET reason = 'other' WHERE seq = 2", ()).unwrap(), 1);
    let mut watch = watched(&audit, 0).await;
    assert_eq!((watch.seen.seq, watch.seen.reveals, watch.seen.hash), (5, 2, None));
    audit.append(row(Action::SecretGet, "after")).await.unwrap();
    watch.round(UnixMillis(8), Duration::ZERO, &CancellationToken::new()).await;
    assert_eq!((watch.seen.seq, watch.seen.reveals, watch.seen.hash), (6, 3, None));
}
