//! What happens when somebody goes past the ports and changes the file by other means.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use keyturn_embedded::{Database, MasterKey, MasterKeys, OpenOptions, SealedVault};
use keyturn_ports::audit::chain;
use keyturn_ports::audit::{Action, AuditSink as _, NewRow, Verified, Wanted};
use keyturn_ports::directory::{DeviceRecord, Directory as _, DirectoryAdmin as _};
use keyturn_ports::vault::{Entry, NewVersion, Tags, Vault as _, VaultReader as _};
use keyturn_ports::{Error, Kind};
use rusqlite::Connection;
use tempfile::TempDir;

struct File {
    database: Database,
    folder: TempDir,
}

impl File {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keyturn.db");
        let options = OpenOptions::new(path, Arc::new(SystemClock), Arc::new(SystemEntropy));
        Self { database: Database::open(options).unwrap(), folder }
    }

    /// A connection that knows nothing of the ports.
    fn raw(&self) -> Connection {
        Connection::open(self.database.path()).unwrap()
    }

    fn vault(&self, keys: &[u8]) -> SealedVault {
        let keys = keys.iter().map(|n| MasterKey::new([*n; 32].into()));
        SealedVault::new(self.database.clone(), MasterKeys::new(keys).unwrap())
    }
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn record(n: u8) -> DeviceRecord {
    serde_json::from_value(serde_json::json!({ "deviceId": device(n), "displayName": "Lab" })).unwrap()
}

#[tokio::test]
async fn an_unreadable_directory_record_harms_its_device_alone() {
    let file = File::new();
    file.database.put(vec![record(1), record(2), record(3)]).await.unwrap();
    let spoil = |n: u8, record: &str| {
        let sql = "UPDATE directory SET record = ?2 WHERE device = ?1";
        assert_eq!(file.raw().execute(sql, (device(n).as_bytes(), record)).unwrap(), 1);
    };
    spoil(1, "{ not JSON");
    spoil(2, &serde_json::to_string(&record(3)).unwrap());
    let answers = file.database.look_up([1, 2, 3].map(device).to_vec()).await;
    let kinds: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().map(|_| ()).map_err(Error::kind)).collect();
    assert_eq!(kinds, [Err(Kind::Corrupt), Err(Kind::Corrupt), Ok(())]);
    file.database.put(vec![record(1)]).await.unwrap();
    assert!(file.database.look_up(vec![device(1)]).await.remove(0).is_ok(), "putting it again mends it");
}

async fn audited(file: &File) {
    for n in 1..=5 {
        let row = NewRow {
            at: UnixMillis(n),
            actor: "uid 1000 (ada)".to_owned(),
            action: Action::SecretGet,
            device: Some(device(1)),
            reason: format!("ticket {n}"),
            detail: String::new(),
        };
        file.database.append(row).await.unwrap();
    }
}

/// A release that was put back meets rows of the one after it.
#[tokio::test]
async fn a_row_whose_action_is_of_a_later_release_is_linked_like_any_other() {
    let file = File::new();
    audited(&file).await;
    let append = |change: &str| {
        let writing = file.raw();
        let sql = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
        let (seq, hash): (i64, [u8; 32]) =
            writing.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let row = NewRow {
            at: UnixMillis(1),
            actor: "later".to_owned(),
            action: Action::SecretGet,
            device: None,
            reason: String::new(),
            detail: String::new(),
        };
        let linked = chain::link(&hash, (seq + 1).cast_unsigned(), &row, "OfALaterRelease");
        let sql = "INSERT INTO audit (seq, at, actor, action, device, reason, detail, hash) \
                   VALUES (?1, 1, 'later', ?2, NULL, '', '', ?3)";
        writing.execute(sql, (seq + 1, format!("OfALaterRelease{change}"), linked)).unwrap();
        (seq + 1).cast_unsigned()
    };
    let rows = append("");
    assert_eq!(file.database.verify().await.unwrap(), Verified::Intact { rows });
    // It is listed by its word, and found by it.
    let later = Action::Later("OfALaterRelease".to_owned());
    let wanted = Wanted { actions: vec![later.clone()], ..Wanted::default() };
    for read in [file.database.recent(1), file.database.after(rows - 1, 9), file.database.select(wanted, 9)] {
        let found = read.await.unwrap();
        assert_eq!(found.iter().map(|row| &row.row.action).collect::<Vec<_>>(), [&later]);
    }
    let seq = append("s");
    assert_eq!(
        file.database.verify().await.unwrap(),
        Verified::Broken { seq },
        "another word is another row"
    );
}

#[tokio::test]
async fn audit_rows_are_neither_changed_nor_deleted() {
    let file = File::new();
    audited(&file).await;
    for sql in ["UPDATE audit SET reason = 'none' WHERE seq = 3", "DELETE FROM audit WHERE seq = 5"] {
        let error = file.raw().execute(sql, []).unwrap_err();
        assert!(error.to_string().contains("audit rows are never"), "{error}");
    }
    assert_eq!(file.database.verify().await.unwrap(), Verified::Intact { rows: 5 });
}

#[tokio::test]
async fn a_chain_that_was_altered_breaks_where_it_was_altered() {
    let alterations = [
        "UPDATE audit SET reason = 'none' WHERE seq = 3",
        "UPDATE audit SET actor = 'uid 1000 (ada)t', reason = 'icket 3' WHERE seq = 3",
        "UPDATE audit SET at = 99 WHERE seq = 3",
        "UPDATE audit SET device = NULL WHERE seq = 3",
        "UPDATE audit SET action = 'RotationForced' WHERE seq = 3",
        "UPDATE audit SET action = 'Nothing' WHERE seq = 3",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 3",
    ];
    for alteration in alterations {
        let file = File::new();
        audited(&file).await;
        let raw = file.raw();
        raw.execute_batch("DROP TRIGGER audit_is_never_changed; DROP TRIGGER audit_is_never_deleted;")
            .unwrap();
        raw.execute(alteration, []).unwrap();
        assert_eq!(file.database.verify().await.unwrap(), Verified::Broken { seq: 3 }, "{alteration}");
    }
}

const CANARY: &str = "canary-Pa55word-in-the-mine";

async fn put(vault: &SealedVault, n: u8) -> Entry {
    let version = NewVersion {
        request: RequestId([n; 32]),
        version: VersionId([n; 16]),
        lane: LaneId([n; 16]),
        password: Password::new(format!("{CANARY} {n}")),
        tags: Tags {
            user_name: "Administrator".to_owned(),
            device: device(n),
            device_name: "LAB-1".to_owned(),
            serial_number: "SN-1".to_owned(),
        },
    };
    vault.put(vec![version]).await.remove(0).unwrap()
}

async fn read(vault: &SealedVault, entry: &Entry) -> Result<String, Kind> {
    let found = vault.read(entry.lane, entry.version, &entry.vault_ref).await;
    found.map(|password| password.unwrap().expose().to_owned()).map_err(|error| error.kind())
}

#[tokio::test]
async fn no_password_is_in_any_file() {
    let file = File::new();
    put(&file.vault(&[1]), 1).await;
    for entry in std::fs::read_dir(file.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "{} has the canary", path.display());
    }
}

#[tokio::test]
async fn every_key_opens_and_only_the_first_seals() {
    let file = File::new();
    let old = put(&file.vault(&[1]), 1).await;
    let changing = file.vault(&[2, 1]);
    let new = put(&changing, 2).await;
    assert_eq!(read(&changing, &old).await, Ok(format!("{CANARY} 1")));
    assert_eq!(read(&changing, &new).await, Ok(format!("{CANARY} 2")));
    assert_eq!(read(&file.vault(&[2]), &new).await, Ok(format!("{CANARY} 2")));
    assert_eq!(read(&file.vault(&[2]), &old).await, Err(Kind::Denied), "the key is not there");
    assert_eq!(read(&file.vault(&[1]), &new).await, Err(Kind::Denied), "the key is not there");
}

#[tokio::test]
async fn a_value_under_another_version_or_lane_does_not_open() {
    let file = File::new();
    let vault = file.vault(&[1]);
    let (first, second) = (put(&vault, 1).await, put(&vault, 2).await);
    let copy =
        "UPDATE vault_versions SET sealed = (SELECT sealed FROM vault_versions WHERE id = 2) WHERE id = 1";
    file.raw().execute(copy, []).unwrap();
    assert_eq!(read(&vault, &first).await, Err(Kind::Corrupt), "a value was copied over another");
    let relabel = "UPDATE vault_versions SET lane = ?1 WHERE id = 2";
    file.raw().execute(relabel, [first.lane.as_bytes()]).unwrap();
    assert_eq!(read(&vault, &second).await, Err(Kind::Denied), "it says that it was made for another lane");
    let relabelled = Entry { lane: first.lane, ..second };
    assert_eq!(read(&vault, &relabelled).await, Err(Kind::Corrupt), "the label does not match the seal");
}

#[tokio::test]
async fn a_shortened_value_does_not_open() {
    let file = File::new();
    let vault = file.vault(&[1]);
    let entry = put(&vault, 1).await;
    for length in [30, 12, 7, 1] {
        let cut = "UPDATE vault_versions SET sealed = substr(sealed, 1, ?1)";
        file.raw().execute(cut, [length]).unwrap();
        assert_eq!(read(&vault, &entry).await, Err(Kind::Corrupt));
    }
}

#[test]
fn keys_are_neither_printed_nor_absent() {
    let keys = MasterKeys::new([MasterKey::new([0x41; 32].into())]).unwrap();
    let printed = format!("{keys:?}");
    assert!(!printed.contains("65") && !printed.contains("41") && !printed.contains("AAAA"), "{printed}");
    assert!(MasterKeys::new([]).is_err());
}
