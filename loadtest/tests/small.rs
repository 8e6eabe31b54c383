//! The small scenario against real processes of all roles: what it is held to holds, and what it is not held to is
//! found. No bound on time.

#![expect(clippy::unwrap_used, reason = "what a test stands on fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn loadtest(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn-loadtest"));
    command.args(arguments).arg("--report").arg(folder).output().unwrap()
}

/// Builds the programs that are loaded: this package does not depend on them. With the same features as the tests of
/// the whole workspace, so that nothing is built twice.
fn build() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--offline", "--workspace", "--bins", "--tests"]);
    assert!(command.status().unwrap().success());
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn nothing_is_lost_or_doubled_and_what_fails_is_found() {
    build();
    let folder = tempfile::tempdir().unwrap();
    let small = scenarios().join("small.toml");
    let run = loadtest(&["run", small.to_str().unwrap()], folder.path());
    assert_eq!(run.status.code(), Some(0), "{}{}", text(&run.stdout), text(&run.stderr));
    let report: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("small.json")).unwrap()).unwrap();
    let phases = report["phases"].as_array().unwrap();
    let confirmed: u64 = phases.iter().map(|phase| phase["summary"]["confirmed"].as_u64().unwrap()).sum();
    let planned: u64 = phases.iter().map(|phase| phase["planned"].as_u64().unwrap()).sum();
    assert!(confirmed == planned && planned > 150, "{confirmed} of {planned}");
    let found = &report["verification"];
    assert_eq!(
        (&found["made"], &found["given"], &found["faults"]),
        (&planned.into(), &planned.into(), &0.into())
    );
    // Every stage was seen, by the device or in the server's own measurements, and every process was measured.
    for stage in
        ["connect", "nonce", "sign", "submit", "answer", "rotator", "report", "confirm", "at_hand", "whole"]
    {
        assert!(phases[1]["summary"]["stages"][stage]["p50"].as_u64() > Some(0), "{stage}");
    }
    for stage in ["waits on requests", "waits on findings", "waits on outcomes", "a batch of findings"] {
        assert!(phases[1]["server"][stage]["count"].as_f64() > Some(0.0), "{stage}: {}", phases[1]["server"]);
    }
    for process in ["ingress", "validator", "rotator", "notifier", "client"] {
        assert!(phases[1]["costs"][process]["memory"].as_u64() > Some(1_000_000), "{process}");
    }
    assert!(std::fs::read_to_string(folder.path().join("small.html")).unwrap().contains("<polyline"));

    // The same with a server that takes one message a second at most: devices are turned away, and that is told.
    let narrow = folder.path().join("narrow.toml");
    let slow =
        "[server.ingress.admission]\nkey_rate = 1\nkey_burst = 1\nunknown_rate = 1\nunknown_burst = 1\n";
    let of_small = std::fs::read_to_string(&small).unwrap().replace("\"small\"", "\"narrow\"");
    std::fs::write(&narrow, of_small + slow).unwrap();
    let run = loadtest(&["run", narrow.to_str().unwrap(), "--layout", "one"], folder.path());
    assert_eq!(run.status.code(), Some(1), "{}{}", text(&run.stdout), text(&run.stderr));
    let told = text(&run.stdout);
    assert!(
        told.contains("turned away with 429") && told.contains("FAILED  steady: rotations that failed"),
        "{told}"
    );
}

#[test]
fn a_run_that_cannot_be_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let missing = loadtest(&["run", "no-such.toml"], folder.path());
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("no-such.toml: cannot be read"), "{}", text(&missing.stderr));
    let elsewhere = folder.path().to_str().unwrap();
    let small = scenarios().join("small.toml");
    let nowhere = loadtest(&["run", small.to_str().unwrap(), "--programs", elsewhere], folder.path());
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("--programs"), "{}", text(&nowhere.stderr));
}
