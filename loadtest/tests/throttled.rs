//! A small fleet at once, at a Key Vault that takes fewer writes than it asks for: a fake that counts strictly, and real
//! processes of all roles, two of them rotators, which share the turns by the state.

#![expect(clippy::unwrap_used, reason = "what a test stands on fails by panicking")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Builds the programs that are loaded, and the fake. With the same features as the tests of the whole workspace, so that
/// nothing is built twice.
fn build() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--offline", "--workspace", "--bins", "--tests"]);
    command.args(["--example", "fake_key_vault"]);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_fleet_at_a_throttled_vault_loses_nothing_and_is_never_turned_away() {
    build();
    let folder = tempfile::tempdir().unwrap();
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/throttled-vault-small.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn-loadtest"));
    let run = command.arg("run").arg(&scenario).arg("--report").arg(folder.path()).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{told}");

    let report = std::fs::read(folder.path().join("throttled-vault-small.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let (devices, vault) = (400, &report["vault"]);
    let phase = &report["phases"][0];
    assert_eq!(
        (&phase["planned"], &phase["summary"]["confirmed"]),
        (&devices.into(), &devices.into()),
        "{told}"
    );
    // None is lost and none is doubled: in the ledger, and by what the vault took.
    let found = &report["verification"];
    assert_eq!(
        (&found["made"], &found["given"], &found["faults"]),
        (&devices.into(), &devices.into(), &0.into()),
        "{told}"
    );
    assert_eq!((&vault["taken"], &vault["refused"]), (&devices.into(), &0.into()), "{told}");
    // More than a window takes, so that turns were waited for; and what it would have taken was used.
    assert!(vault["most"].as_u64() <= Some(300) && devices > 300, "{vault}");
    assert!(vault["used"].as_f64() >= Some(0.7), "{vault}");
    println!("{vault}");
}
