//! Rotations asked of many devices at once, by a command that is killed in the middle.

use std::fs;
use std::process::{Command, Stdio};

use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_schemas::envelope::rfc3339;
use serde_json::Value;

use crate::deployment::{Deployment, register, text};
use crate::keys::World;

fn jobs(deployment: &Deployment) -> Vec<Value> {
    serde_json::from_str(&deployment.ok(&["--output", "json", "device", "rotations"])).unwrap()
}

/// Audit rows of a rotation that was asked for with this reason: for a job, and for devices.
fn recorded(deployment: &Deployment, reason: &str) -> (usize, Vec<String>) {
    let rows = deployment.ok(&["audit", "export"]);
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows: Vec<Value> =
        rows.filter(|row| row["Action"] == "RotationForced" && row["Reason"] == reason).collect();
    let devices = rows.iter().filter_map(|row| row["AzureADDeviceId"].as_str().map(str::to_owned));
    let devices: Vec<String> = devices.collect();
    (rows.len() - devices.len(), devices)
}

fn fails(deployment: &Deployment, arguments: &[&str], code: i32, said: &str) {
    let output = deployment.keyturn(arguments);
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(code) && error.contains(said), "{arguments:?}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_goes_on_where_it_was_and_asks_nobody_twice() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let devices = world.devices.len() as u64;
    let all = ["device", "rotate-now", "--all", "--max-rate", "30", "--reason", "drill"];

    let planned = deployment.ok(&[&["--output", "json"], &all[..], &["--dry-run"]].concat());
    let planned: Value = serde_json::from_str(&planned).unwrap();
    assert_eq!(
        (&planned["devices"], &planned["lanes"], &planned["minutes"]),
        (&3.into(), &3.into(), &1.into())
    );
    assert!(jobs(deployment).is_empty() && recorded(deployment, "drill").0 == 0, "a plan leaves no trace");

    // One device at once, the next ones two seconds apart: killed in between.
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config()).args(all).stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    while jobs(deployment).first().is_none_or(|job| job["job"]["asked"] == 0) {
        assert!(running.try_wait().unwrap().is_none(), "it ended by itself");
        tokio::task::yield_now().await;
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let cut = jobs(deployment).remove(0);
    assert!(cut["job"]["asked"].as_u64().unwrap() < devices && cut["finished"] == false, "{cut}");

    // The same words go on with it, and keep its pace.
    let before = SystemClock.monotonic();
    let done: Value =
        serde_json::from_str(&deployment.ok(&[&["--output", "json"], &all[..]].concat())).unwrap();
    assert!(
        SystemClock.monotonic().saturating_sub(before) >= std::time::Duration::from_secs(2),
        "the pace is the job's"
    );
    assert_eq!((&done["job"]["id"], &done["job"]["asked"]), (&cut["job"]["id"], &devices.into()));
    let (of_jobs, mut asked) = recorded(deployment, "drill");
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(
        (of_jobs, asked.len() as u64, recorded(deployment, "drill").1.len() as u64),
        (1, devices, devices)
    );

    // Nothing is left of it to do.
    let id = cut["job"]["id"].to_string();
    deployment.ok(&["device", "rotate-now", "--resume", &id]);
    assert_eq!(recorded(deployment, "drill").1.len() as u64, devices);
    assert_eq!(jobs(deployment)[0]["rotated"], 0, "nobody has checked in");
    for device in &world.devices {
        assert!(device.agent().once().await.unwrap().is_success());
    }
    for device in &world.devices {
        device.invariant_settled(deployment);
    }
    assert_eq!(jobs(deployment)[0]["rotated"], devices);
    assert_eq!(jobs(deployment).len(), 1);
    assert!(deployment.ok(&["device", "rotations"]).contains("drill"));
    // What is asked afterwards takes nothing back from it, neither while it waits nor when it is done.
    deployment.ok(&["device", "rotate-now", "--all", "--reason", "another drill"]);
    let rotated = |place: usize| jobs(deployment)[place]["rotated"].clone();
    assert_eq!((rotated(1), rotated(0)), (devices.into(), 0.into()));
    assert!(world.devices[0].agent().once().await.unwrap().is_success());
    world.devices[0].invariant_settled(deployment);
    assert_eq!((rotated(1), rotated(0)), (devices.into(), 1.into()));
    assert!(deployment.ok(&["audit", "verify"]).contains("the chain is whole"));
    world.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_selected_by_time_and_by_list() {
    let world = World::start().await;
    let deployment = &world.deployment;
    let first = &world.devices[0];
    assert!(first.agent().once().await.unwrap().is_success());
    first.invariant_settled(deployment);
    let since = rfc3339(SystemClock.now().plus(std::time::Duration::from_millis(1)));
    for device in &world.devices[1..] {
        assert!(device.agent().once().await.unwrap().is_success());
    }
    let ask = |which: &[&str]| {
        let words = [&["--output", "json", "device", "rotate-now", "--reason", "r"], which].concat();
        serde_json::from_str::<Value>(&deployment.ok(&words)).unwrap()
    };
    assert_eq!(ask(&["--since", &since])["job"]["devices"], 2);
    assert_eq!(ask(&["--since", "2026-01-01T00:00:00Z", "--dry-run"])["devices"], 3);
    assert_eq!(ask(&["--all", "--dry-run"])["asked_before"], 2);
    assert_eq!(ask(&[&first.name, "--dry-run"])["devices"], 1);

    let list = deployment.path("list.txt");
    let path = list.to_str().unwrap();
    fs::write(&list, format!("# spares\n\n{}  # desk\n{0}\nLAB-01\n", first.name)).unwrap();
    assert_eq!(ask(&["--file", path])["job"]["asked"], 2);
    fs::write(&list, format!("{}\nNOBODY\n", first.name)).unwrap();
    let before = jobs(deployment).len();
    let now = |which: &[&'static str]| [&["device", "rotate-now", "--reason", "r"], which].concat();
    fails(
        deployment,
        &["device", "rotate-now", "--reason", "r", "--file", path],
        3,
        "list.txt:2; nothing was asked",
    );
    fails(deployment, &now(&["--since", "2999-01-01T00:00:00Z"]), 3, "no device to ask");
    fails(deployment, &now(&["--since", "yesterday"]), 2, "2026-11-22T00:00:00Z");
    fails(deployment, &["device", "rotate-now", "--resume", "99"], 3, "no such job");
    fails(deployment, &["device", "rotate-now", "--all", "--reason", " "], 2, "--reason must say why");
    fails(deployment, &["device", "rotate-now", "--all"], 2, "--reason");
    fails(deployment, &now(&[]), 2, "required");
    fails(deployment, &now(&["--all", "--since", "x"]), 2, "cannot be used with");
    fails(deployment, &now(&["--all", "--max-rate", "0"]), 2, "60000");
    assert_eq!(jobs(deployment).len(), before);
    let spare = register();
    deployment.add(&spare, "SPARE");
    assert_eq!(ask(&["SPARE"])["lanes"], 0);
    world.stop();
}
