//! How the fleet stands, one device held and released, and the audit against its anchors.

use std::fs;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

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
    assert!(deployment.ok(&["device", "show", &name]).contains("held by an operator until it is released"));
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

/// What the rotator holds a device by is told by every command, to the second, and a release does not lift it.
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_a_day_is_named_wherever_it_holds() {
    let mut world = World::with_versions_per_day(1).await;
    world.round().await;
    let (deployment, device) = (&world.deployment, &world.devices[0]);
    let spare = register();
    deployment.add(&spare, "SPARE");
    let name = device.name.as_str();
    let asked = deployment.keyturn(&["device", "rotate-now", name, "--reason", "drill"]);
    let asked = text(&asked.stderr);
    let answer = device.agent().once().await.unwrap().to_string();
    let (_, until) = answer.split_once("held by the server until ").unwrap();
    let until = until.split_once('.').unwrap().0;
    let limit = format!("no new password before {until}: it has had 1 in 1d");
    assert!(asked.contains("does not yet") && asked.contains(&limit), "{asked} is not {answer}");
    let shown = deployment.ok(&["device", "show", name]);
    assert!(shown.contains(&limit), "{shown} is not {answer}");
    let shown: Value =
        serde_json::from_str(&deployment.ok(&["--output", "json", "device", "show", name])).unwrap();
    assert_eq!(shown["state"], "overdue");
    let released = text(&deployment.keyturn(&["device", "release", name, "--reason", "drill"]).stderr);
    assert!(released.contains("was not held") && released.contains(&limit), "{released}");
    let plan: Value = serde_json::from_str(&deployment.ok(&[
        "--output",
        "json",
        "device",
        "rotate-now",
        name,
        "--dry-run",
        "--reason",
        "drill",
    ]))
    .unwrap();
    assert_eq!(plan["capped"], 1);
    let counts = deployment.keyturn(&["fleet"]);
    assert!(text(&counts.stderr).starts_with("3 of them had as many"), "{}", text(&counts.stderr));
    let list: Vec<Value> =
        serde_json::from_str(&deployment.ok(&["--output", "json", "fleet", "--list"])).unwrap();
    let of = |name: &str| list.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(of(name)["capped_until"], shown["capped_until_ms"]);
    assert!(shown["capped_until_ms"].is_u64() && of("SPARE").get("capped_until").is_none());
    assert!(deployment.ok(&["fleet", "--list"]).contains(until));
    assert!(!deployment.ok(&["device", "show", "SPARE"]).contains("no new password before"));
    world.stop();
}

/// A process that looks after the store, killed when it goes.
fn up(deployment: &Deployment) -> Killed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config()).args(["up", "--listen", "127.0.0.1:0"]);
    Killed(command.stderr(Stdio::null()).spawn().unwrap())
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Two processes look after the store; the report is made once, kept, and made again when it is due.
#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_is_reported_on_in_the_background() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let never = deployment.keyturn(&["fleet", "--last-report"]);
    let report = |deployment: &Deployment| -> Value {
        serde_json::from_str(&deployment.ok(&["--output", "json", "fleet", "--last-report"])).unwrap()
    };
    // The world's own workers may have made one before there was a device.
    assert!(matches!(never.status.code(), Some(0 | 3)), "{}", text(&never.stderr));
    let config = fs::read_to_string(deployment.config()).unwrap();
    fs::write(deployment.config(), format!("{config}\n[health]\nall = \"off\"\n")).unwrap();
    let spare = register();
    deployment.add(&spare, "SPARE");
    let file = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    file.execute("DELETE FROM chores", []).unwrap();
    let gone = world.devices[0].name.to_lowercase();
    file.execute("DELETE FROM directory WHERE name = ?1", [gone]).unwrap();
    let _up = [up(deployment), up(deployment)];
    let made = loop {
        let shown = deployment.keyturn(&["--output", "json", "fleet", "--last-report"]);
        if shown.status.success() {
            break serde_json::from_slice::<Value>(&shown.stdout).unwrap();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let devices = serde_json::json!({"confirmed": 2, "never_escrowed": 1, "orphaned": 1});
    assert_eq!(made["devices"], devices, "{made}");
    assert_eq!((&made["without_lane"], &made["listed"]), (&1.into(), &3.into()));
    assert_eq!((&made["unwell_percent"], &made["unwell"]), (&33.into(), &true.into()));
    let named: Vec<_> =
        made["named"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(named, ["orphaned", "never_escrowed"]);
    let shown = deployment.ok(&["fleet", "--last-report"]);
    assert!(shown.contains("never escrowed") && shown.contains("SPARE"), "{shown}");
    let doctor = text(&deployment.keyturn(&["doctor"]).stdout);
    assert!(doctor.contains("33 % of 3 listed devices"), "{doctor}");
    // A day has not gone by since it was made. After one, the same report is a warning.
    assert!(doctor.contains("ok      fleet") && doctor.contains("younger than that"), "{doctor}");
    let made_long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(400_000);
    let root = fs::File::options().append(true).open(deployment.path("data/root.pub.json")).unwrap();
    root.set_modified(made_long_ago).unwrap();
    let doctor = text(&deployment.keyturn(&["doctor"]).stdout);
    assert!(doctor.contains("warning fleet") && doctor.contains("33 % of 3 listed devices"), "{doctor}");
    // It is not due again, whoever asks.
    let _third = up(deployment);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(report(deployment)["at"], made["at"]);
    // One died in its turn: the next takes it when the turn is over, and not before.
    file.execute("UPDATE chores SET due = 1, reported = 1", []).unwrap();
    let _fourth = up(deployment);
    while report(deployment)["at"] == made["at"] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
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
        ("\"kid\":\"signing-1\"", "\"kid\":\"signing-9\"", "is in no key set of this deployment"),
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
    deployment.ok(&["device", "disable", "LAB-07", "--reason", "stolen"]);
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

/// What a key signed that is retired by now still counts, and is told apart.
#[test]
fn anchors_of_retired_keys_hold_and_are_told_apart() {
    let deployment = Deployment::init();
    deployment.add(&register(), "LAB-07");
    let anchors = deployment.path("anchors.jsonl");
    let verify = ["audit", "verify", "--anchor", anchors.to_str().unwrap()];
    let (first, second) = (deployment.ok(&["audit", "anchor"]), deployment.ok(&["audit", "anchor"]));
    // The key is replaced and retired: what it signed still counts, and is told apart.
    let root = deployment.path("data/offline/root.key");
    let sign = ["root", "sign-keys", "--root", root.to_str().unwrap()];
    for command in [
        &["keys", "rotate", "signing"][..],
        &sign,
        &["keys", "rotate", "signing", "--activate"],
        &["keys", "retire", "signing", "signing-1", "--danger-now"],
        &sign,
    ] {
        let key_set = deployment.path("data/keys/key-set.jws");
        // The new set has been in service for long.
        fs::File::options().append(true).open(&key_set).unwrap().set_modified(UNIX_EPOCH).unwrap();
        deployment.ok(command);
    }
    assert!(!deployment.ok(&["keys", "list"]).contains("signing-1"));
    let third = deployment.ok(&["audit", "anchor"]);
    fs::write(&anchors, format!("{first}{second}{third}")).unwrap();
    let held = deployment.keyturn(&verify);
    let said = text(&held.stderr);
    assert!(held.status.success(), "{said}");
    assert!(
        said.contains("3 anchors hold.\n2 of them are signed with signing-1, which was retired"),
        "{said}"
    );
    // A set that the root did not sign vouches for nothing.
    let kept = deployment.path("data/keys/key-set.retired-1.jws");
    let (other, signed) =
        (deployment.path("data/keys/key-set.retired-2.jws"), fs::read_to_string(&kept).unwrap());
    fs::remove_file(other).unwrap();
    fs::write(&kept, signed.replacen('.', ".AA", 1)).unwrap();
    let refused = deployment.keyturn(&verify);
    assert!(
        refused.status.code() == Some(1)
            && text(&refused.stderr).contains("is in no key set of this deployment")
    );
}
