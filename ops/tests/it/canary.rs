//! No password is found anywhere in the clear: not in the database, its log, the trace log, the agents' folders,
//! nor in what the demo prints.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_service::keys::KeyStore;

#[tokio::test]
async fn no_password_is_found_in_any_file_or_output_at_trace_level() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("demo");
    let ran = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .args(["up", "--demo", "6", "--until-settled", "--log-level", "trace", "--folder"])
        .arg(&home)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let passwords = passwords(&home).await;
    assert_eq!(passwords.len(), 10, "five devices rotated twice");
    let mut places: Vec<(PathBuf, Vec<u8>)> =
        files(&home).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    assert!(
        places.iter().any(|(file, content)| file.ends_with("demo.log") && content.len() > 100_000),
        "a trace log"
    );
    places.push(("stdout".into(), ran.stdout));
    places.push(("stderr".into(), ran.stderr));
    for (place, content) in &places {
        for password in &passwords {
            for form in forms(password) {
                assert!(!contains(content, form.as_bytes()), "a password is in {}", place.display());
            }
        }
    }
}

/// Every password ever made in the deployment.
async fn passwords(home: &Path) -> BTreeSet<String> {
    let config = Config::load(&home.join("keyturn.toml")).unwrap();
    let engines = Engines::open(&config).unwrap();
    let vault = engines.vault(|| KeyStore::new(config.sections.data.keys.clone()).vault()).unwrap();
    let mut passwords = BTreeSet::new();
    for record in engines.directory().page(None, 100).await.unwrap() {
        for entry in vault.history(record.id).await.unwrap() {
            let password = vault.read(entry.lane, entry.version, &entry.vault_ref).await.unwrap().unwrap();
            passwords.insert(password.expose().to_owned());
        }
    }
    passwords
}

/// The ways in which a password could be written down without anybody meaning to.
fn forms(password: &str) -> [String; 4] {
    let escaped = serde_json::to_string(password).unwrap();
    [
        password.to_owned(),
        escaped.trim_matches('"').to_owned(),
        STANDARD.encode(password).trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(password),
    ]
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn contains(content: &[u8], needle: &[u8]) -> bool {
    content.windows(needle.len()).any(|window| window == needle)
}
