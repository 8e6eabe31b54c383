//! How the fleet stands, one device held and released, and the audit against its anchors.

use std::fs;
use std::process::{Command, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::deployment::{Deployment, register, text};
use crate::keys::World;

fn devices(deployment: &Deployment, state: &str) -> u64 {
    let rows: Vec<Value> = serde_json::from_str(&deployment.ok(&["--output", "json", "fleet"])).unwrap();
    assert_eq!(rows.len(), 6);
    rows.iter().find(|row| row["state"] == state).unwrap()["devices"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_counted_and_a_hold_is_an_operators_to_end() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let spare = register();
    deployment.add(&spare, "SPARE");
    assert_eq!((devices(deployment, "confirmed"), devices(deployment, "never_escrowed")), (3, 1));
    let name = world.devices[0].name.clone();
    let shown = deployment.ok(&["device", "show", &name]);
    for part in ["state: confirmed", "last heard ", "the next password is due 2"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(deployment.ok(&["device", "show", "SPARE"]).contains("state: never escrowed"));

    let versions = |deployment: &Deployment| {
        let history = deployment.ok(&["--output", "json", "device", "history", &name]);
        serde_json::from_str::<Vec<Value>>(&history).unwrap().len()
    };
    deployment.ok(&["device", "hold", &name, "--reason", "forensics"]);
    assert_eq!((devices(deployment, "on_hold"), versions(deployment)), (1, 1));
    assert!(deployment.ok(&["device", "show", &name]).contains("held by an operator until 9999"));
    deployment.ok(&["device", "rotate-now", &name, "--reason", "drill"]);
    let held = world.devices[0].agent().once().await;
    assert!(!held.is_ok_and(|outcome| matches!(outcome, keyturn_agent::Outcome::Rotated { .. })));
    assert_eq!(versions(deployment), 1, "a held device gets no password, however it is asked for");
    assert!(!deployment.ok(&["reveal", &name, "--reason", "forensics"]).is_empty(), "what it has is shown");
    deployment.ok(&["device", "release", &name, "--reason", "done"]);
    assert!(world.devices[0].agent().once().await.unwrap().is_success());
    assert_eq!((devices(deployment, "on_hold"), versions(deployment)), (0, 2));

    let file = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    file.execute("DELETE FROM directory WHERE name = ?1", [name.to_lowercase()]).unwrap();
    let config = fs::read_to_string(deployment.config()).unwrap();
    fs::write(deployment.config(), config.replace("[rotation]", "[rotation]\nupdate_frequency = \"1ms\""))
        .unwrap();
    assert_eq!((devices(deployment, "orphaned"), devices(deployment, "overdue")), (1, 2));
    assert!(deployment.ok(&["fleet", "--list"]).lines().nth(1).unwrap().contains("orphaned"));
    world.stop();
}

#[test]
fn an_anchor_shows_what_the_chain_cannot() {
    let deployment = Deployment::init();
    deployment.add(&register(), "LAB-07");
    let anchors = deployment.path("anchors.jsonl");
    let path = anchors.to_str().unwrap();
    let first = deployment.ok(&["audit", "anchor"]);
    let second = deployment.ok(&["audit", "anchor"]);
    fs::write(&anchors, format!("{first}{second}")).unwrap();
    let verify = ["audit", "verify", "--anchor", path];
    assert_eq!(deployment.ok(&verify), "3 rows, the chain is whole\n");
    let fails = |said: &str| {
        let output = deployment.keyturn(&verify);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(said), "{said}: {error}");
    };
    for (was, is, said) in [
        ("\\\"seq\\\":3", "\\\"seq\\\":2", "anchors.jsonl:2: its signature does not hold"),
        ("\"kid\":\"signing-1\"", "\"kid\":\"signing-9\"", "not in the key set"),
        ("{\"anchor\"", "{\"more\":1,\"anchor\"", "not an anchor"),
    ] {
        assert!(second.contains(was), "{second}");
        fs::write(&anchors, format!("{first}{}", second.replace(was, is))).unwrap();
        fails(said);
    }
    fs::write(&anchors, "\n").unwrap();
    fails("no anchor in it");
    fs::write(&anchors, format!("{first}{second}")).unwrap();

    // The end is cut off: the chain is whole all the same.
    let file = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    file.execute_batch("DROP TRIGGER audit_is_never_deleted; DELETE FROM audit WHERE seq = 3").unwrap();
    assert_eq!(deployment.ok(&["audit", "verify"]), "2 rows, the chain is whole\n");
    fails("row 3 was there at");
    // Another row in its place.
    deployment.ok(&["device", "disable", "LAB-07"]);
    assert_eq!(deployment.ok(&["audit", "verify"]), "3 rows, the chain is whole\n");
    fails("row 3 is another than at");
    // The middle is changed: the first broken row is named.
    file.execute_batch("DROP TRIGGER audit_is_never_changed; UPDATE audit SET reason = 'x' WHERE seq = 2")
        .unwrap();
    let broken = deployment.keyturn(&["audit", "verify"]);
    assert!(broken.status.code() == Some(1) && text(&broken.stdout).contains("row 2 does not follow"));
    let silent = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .arg("--config")
        .arg(deployment.config())
        .args(["audit", "verify", "--anchor", "/nonexistent"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(silent.code(), Some(1));
}
