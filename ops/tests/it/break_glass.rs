//! The break-glass export: everything devices may have, opened on another machine with the file and the key alone.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use keyturn_testkit::postgres::TestDatabase;
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::processes::{Device, free_address, install};
use crate::recovery::{configure, rotate};

/// Opens an export where there is nothing but it and the key: no configuration, and nothing in the environment.
fn open(deployment: &Deployment, export: &str, key: &str, more: &[&str]) -> Output {
    let elsewhere = tempfile::tempdir().unwrap();
    for file in [export, key] {
        fs::copy(deployment.path(file), elsewhere.path().join(file)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.env_clear().current_dir(elsewhere.path());
    command.args(["vault", "open-export", export, "--key", key]).args(more).output().unwrap()
}

fn rows(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `vault export` is given.
fn words<'a>(to: &'a str, key: &'a str) -> [&'a str; 7] {
    ["vault", "export", to, "--sealed-to", key, "--reason", "the data centre burns"]
}

/// Has the state be on this database from the start.
fn keep_state_on(database: Option<&TestDatabase>, deployment: &Deployment) {
    let Some(database) = database else { return };
    let mut config = fs::OpenOptions::new().append(true).open(deployment.config()).unwrap();
    let url = database.address();
    write!(config, "\n[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{url}\"\n").unwrap();
    deployment.make_tables();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_device_is_opened_with_the_file_and_the_key_alone() {
    every_device_is_opened(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_device_is_opened_with_the_file_and_the_key_alone_on_postgresql() {
    let database = TestDatabase::fresh();
    every_device_is_opened(Some(&database)).await;
    assert_eq!(database.sql("SELECT count(DISTINCT device) FROM lanes"), "3", "they are on the server");
    assert_ne!(database.sql("SELECT count(*) FROM vault_versions"), "0");
}

async fn every_device_is_opened(database: Option<&TestDatabase>) {
    let deployment = Deployment::init();
    let address = free_address();
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    for key in ["recovery.key", "stranger.key"] {
        deployment.ok(&["vault", "recovery-key", deployment.path(key).to_str().unwrap()]);
    }
    configure(&deployment, address, "../elsewhere/vault.log");
    keep_state_on(database, &deployment);
    let devices: Vec<Device> = (0..3).map(|number| install(&deployment, number, address)).collect();
    rotate(&deployment, &devices, 2).await;
    // One more device has lost its answer: what it may have is more than one version.
    deployment.ok(&["device", "rotate-now", &devices[0].name, "--reason", "drill"]);

    let (to, public) = (deployment.path("glass.export"), deployment.path("recovery.key.pub"));
    let (to, public) = (to.to_str().unwrap(), public.to_str().unwrap());
    deployment.ok(&words(to, public));
    assert_eq!(fs::metadata(to).unwrap().permissions().mode() & 0o777, 0o600);
    let audit = deployment.ok(&["audit", "list", "--limit", "1"]);
    for part in ["vault exported", "the data centre burns", "glass.export", "sealed to key"] {
        assert!(audit.contains(part), "{audit}");
    }
    let shown = open(&deployment, "glass.export", "recovery.key", &["--output", "json"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let opened = rows(&shown);
    assert_eq!(opened.len(), 3);
    let sealed = fs::read_to_string(to).unwrap();
    for device in &devices {
        let mine: Vec<&Value> =
            opened.iter().filter(|row| row["device_id"] == device.id().to_string()).collect();
        let [row] = mine.as_slice() else { panic!("{mine:?}") };
        let password = row["password"].as_str().unwrap();
        assert!(device.accepts(password) && row["standing"] == "confirmed", "{}", device.name);
        assert!(!sealed.contains(password) && !audit.contains(password));
    }
    let one = open(&deployment, "glass.export", "recovery.key", &["--device", &devices[1].id().to_string()]);
    assert_eq!(text(&one.stdout).lines().count(), 1, "{}", text(&one.stdout));

    let refused = open(&deployment, "glass.export", "stranger.key", &[]);
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("bring the other one"));
    assert!(refused.stdout.is_empty());
    let again = deployment.keyturn(&words(to, public));
    assert!(again.status.code() == Some(1) && text(&again.stderr).contains("never written over"));

    // Cut off, a line lost, a line of another export, two lines that changed places: each is seen.
    let lines: Vec<&str> = sealed.lines().collect();
    deployment.ok(&words(deployment.path("other.export").to_str().unwrap(), public));
    let other = fs::read_to_string(deployment.path("other.export")).unwrap();
    let foreign = other.lines().nth(1).unwrap();
    for (what, changed, left) in [
        ("cut off", vec![lines[0], lines[1], lines[2], lines[3]], 3),
        ("in mid-line", vec![lines[0], lines[1], &lines[2][..90]], 1),
        ("a line lost", vec![lines[0], lines[1], lines[3], lines[4]], 2),
        ("another's line", vec![lines[0], lines[1], foreign, lines[3], lines[4]], 2),
        ("changed places", vec![lines[0], lines[2], lines[1], lines[3], lines[4]], 2),
    ] {
        fs::write(deployment.path("changed.export"), changed.join("\n")).unwrap();
        let output = open(&deployment, "changed.export", "recovery.key", &["--output", "json"]);
        assert_eq!(output.status.code(), Some(6), "{what}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("it is not whole"), "{what}");
        assert_eq!(rows(&output).len(), left, "{what}");
    }
}

/// Killed at any moment it leaves no export, or a whole one, and the same words make one.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_is_there_whole_or_not_at_all() {
    an_export_is_killed(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_killed_is_there_whole_or_not_at_all_on_postgresql() {
    an_export_is_killed(Some(&TestDatabase::fresh())).await;
}

async fn an_export_is_killed(database: Option<&TestDatabase>) {
    let deployment = Deployment::init();
    let address = free_address();
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    deployment.ok(&["vault", "recovery-key", deployment.path("recovery.key").to_str().unwrap()]);
    configure(&deployment, address, "../elsewhere/vault.log");
    keep_state_on(database, &deployment);
    let devices: Vec<Device> = (0..2).map(|number| install(&deployment, number, address)).collect();
    rotate(&deployment, &devices, 1).await;
    let (to, public) = (deployment.path("glass.export"), deployment.path("recovery.key.pub"));
    let words = words(to.to_str().unwrap(), public.to_str().unwrap());
    let (mut whole, mut cut) = (0, 0);
    for millis in 0..40 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        let command = command.arg("--config").arg(deployment.config()).args(words).stderr(Stdio::null());
        let mut running = command.spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(millis * 3)).await;
        running.kill().unwrap();
        running.wait().unwrap();
        if !to.exists() {
            cut += 1;
            continue;
        }
        let shown = open(&deployment, "glass.export", "recovery.key", &[]);
        assert!(shown.status.success(), "{}", text(&shown.stderr));
        whole += 1;
        fs::remove_file(&to).unwrap();
    }
    println!("{cut} were killed before they were whole, {whole} after");
    assert!(cut > 0, "none was killed in time");
    deployment.ok(&words);
    assert!(open(&deployment, "glass.export", "recovery.key", &[]).status.success());
    assert!(!deployment.path("glass.export.part").exists());
}
