//! A data folder that an older build wrote, under the present one; and one of a later build, which is refused.
//!
//! fixtures/schema-4.tar.gz is a deployment of four devices as `keyturn up --demo` leaves it, written by a build that
//! knew four schemas: the oldest whose files are promised to open. Its keys are of that deployment and of nothing else.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::deployment::text;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schema-4.tar.gz");

/// Each device, and SHA-256 of the password that the older build revealed for it.
const REVEALED: [(&str, &str); 3] = [
    ("DEMO-01", "82df1788dccb55d1b3e1a34c096ff3801ba1029c14304df8b41315d0d3097813"),
    ("DEMO-03", "ceb718e6f8f2e0c94b5e4119582d2b8650f2f2fe6c89d2cfb90f1a149db364a7"),
    ("DEMO-04", "474710f2477199dddbe79c930268ae5874550fbe10411d984d22fde29a87520c"),
];

fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    assert!(tar.args(["-xzf", FIXTURE, "-C"]).arg(folder.path()).status().unwrap().success());
    folder
}

fn keyturn(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(folder.join("data/keyturn.toml")).args(arguments);
    let output = command.output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn schema(folder: &Path) -> u32 {
    let file = Connection::open(folder.join("data/keyturn.db")).unwrap();
    file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn what_an_older_build_wrote_is_all_there() {
    let folder = unpacked();
    let folder = folder.path();
    assert_eq!(schema(folder), 4);
    let (code, said, error) = keyturn(folder, &["audit", "verify"]);
    assert_eq!((code, said.as_str()), (Some(0), "14 rows, the chain is whole\n"), "{error}");
    assert!(schema(folder) > 4, "it is of this build now");
    for (device, digest) in REVEALED {
        let (code, shown, error) = keyturn(folder, &["reveal", device, "--reason", "upgrade"]);
        assert_eq!(code, Some(0), "{error}");
        let password = shown.split('\t').nth(1).unwrap();
        let found: Vec<String> =
            Sha256::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found.concat(), digest, "{device}");
    }
    let (_, fleet, _) = keyturn(folder, &["--output", "json", "fleet"]);
    let fleet: Vec<serde_json::Value> = serde_json::from_str(&fleet).unwrap();
    let count = |state: &str| fleet.iter().find(|row| row["state"] == state).unwrap()["devices"].clone();
    assert_eq!(count("never_escrowed"), 1);
    assert_eq!(count("confirmed").as_u64().unwrap() + count("overdue").as_u64().unwrap(), 3);
    let (code, _, error) = keyturn(folder, &["vault", "verify"]);
    assert_eq!(code, Some(0), "{error}");
    // What is new works on it.
    let (code, _, error) = keyturn(folder, &["fleet", "--last-report"]);
    assert!(code == Some(3) && error.contains("there is no report yet"), "{error}");
    let (code, _, error) = keyturn(folder, &["dead-letters", "reconcile"]);
    assert_eq!(code, Some(0), "{error}");
    // It is not taken for restored from a backup.
    let (_, audit, _) = keyturn(folder, &["audit", "list"]);
    assert!(!audit.contains("store restored"), "{audit}");
}

#[test]
fn a_folder_of_a_later_build_is_refused_with_the_way_back() {
    let folder = unpacked();
    let folder = folder.path();
    let file = Connection::open(folder.join("data/keyturn.db")).unwrap();
    file.pragma_update(None, "user_version", 900).unwrap();
    file.execute("UPDATE meta SET value = '899' WHERE key = 'compatible_from'", []).unwrap();
    for command in [&["fleet"][..], &["up", "--listen", "127.0.0.1:0"]] {
        let (code, said, error) = keyturn(folder, command);
        assert!(code == Some(1) && said.is_empty(), "{error}");
        for part in ["has schema 900", "run the release that wrote it", "restore the backup made before it"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    assert_eq!(schema(folder), 900, "nothing was touched");
}

#[test]
fn a_folder_of_a_build_before_the_tables_were_settled_is_refused() {
    let folder = unpacked();
    let folder = folder.path();
    let file = Connection::open(folder.join("data/keyturn.db")).unwrap();
    file.execute_batch("DROP INDEX dead_letters_by_origin; ALTER TABLE dead_letters DROP COLUMN origin")
        .unwrap();
    let (code, _, error) = keyturn(folder, &["fleet"]);
    assert!(code == Some(1) && error.contains("before the tables were settled"), "{error}");
}
