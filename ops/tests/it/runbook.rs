//! docs/runbooks/lost-signing-key.md, run as it stands: every line of its code, in order, on a deployment with real
//! agents. Two things are put in the place of what the page says: the values of its first block, which are the
//! reader's to fill in, and waiting, which is done by turning the files' times back and having them looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_schemas::envelope::rfc3339;
use serde_json::Value;

use crate::deployment::text;
use crate::keys::World;
use crate::processes::Device;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runbooks/lost-signing-key.md");

/// The lines of code, block by block.
fn blocks() -> Vec<Vec<String>> {
    blocks_of(PAGE)
}

pub(crate) fn blocks_of(page: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("\n```bash\n").skip(1).map(|rest| rest.split_once("\n```").unwrap().0);
    blocks.map(|block| block.lines().map(str::to_owned).collect()).collect()
}

/// A line as a shell runs it.
pub(crate) fn run(line: &str, filled_in: &BTreeMap<&str, String>) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_keyturn")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut shell = Command::new("bash");
    let output = shell.args(["-euc", line]).env("PATH", path).envs(filled_in).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The confirmed version of a device.
fn confirmed(world: &World, device: &Device) -> String {
    let history = world.deployment.ok(&["--output", "json", "device", "history", &device.name]);
    let versions: Vec<Value> = serde_json::from_str(&history).unwrap();
    let state = |version: &&Value| version["state"].as_str().unwrap().starts_with("confirmed");
    versions.iter().find(state).unwrap()["version"].as_str().unwrap().to_owned()
}

/// Runs the page; returns what each command printed, without the waits, of which there must be three.
fn follow(world: &World, filled_in: &BTreeMap<&str, String>) -> Vec<(String, String)> {
    let mut blocks = blocks().into_iter();
    let to_fill_in = blocks.next().unwrap();
    let names =
        to_fill_in.iter().map(|line| line.strip_prefix("export ").unwrap().split_once('=').unwrap().0);
    assert_eq!(names.collect::<Vec<_>>(), ["KEYTURN_CONFIG", "ROOT", "LOST", "SINCE"]);
    let (mut waits, mut said) = (0, Vec::new());
    for line in blocks.flatten() {
        if line.starts_with("sleep ") {
            waits += 1;
            world.age_file("key-set.jws");
            world.ingress.keys.look();
            world.workers.keys.look();
        } else {
            said.push((run(&line, filled_in), line));
        }
    }
    assert_eq!((waits, said.len()), (3, 11), "{said:?}");
    said
}

/// Whoever has the lost key answers in the rotator's place, and no agent takes what it says.
async fn nobody_believes(world: &World, lost: &[u8]) {
    let signing = world.deployment.path("data/keys/signing.key");
    let new = fs::read(&signing).unwrap();
    fs::write(&signing, lost).unwrap();
    world.workers.keys.look();
    for device in &world.devices {
        let current = confirmed(world, device);
        world.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "forged"]);
        let outcome = device.agent_waiting(Duration::from_secs(2)).once().await;
        let history = world.deployment.ok(&["device", "history", &device.name]);
        assert!(history.contains("pending"), "it was answered: {history}");
        assert!(!outcome.as_ref().is_ok_and(keyturn_agent::Outcome::is_success), "{outcome:?}");
        assert_eq!(confirmed(world, device), current, "{} keeps its password", device.name);
        device.invariant_shown(&world.deployment, 0);
    }
    fs::write(&signing, &new).unwrap();
    world.workers.keys.look();
}

/// Every device checks in, rotates, and has one confirmed password.
async fn rotate_all(world: &World) {
    for device in &world.devices {
        assert!(device.agent().once().await.unwrap().is_success(), "{}", device.name);
    }
    for device in &world.devices {
        device.invariant_settled(&world.deployment);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_signing_key_is_replaced_and_so_is_every_password_since() {
    let world = World::start().await;
    let since = rfc3339(SystemClock.now());
    rotate_all(&world).await;
    let before: Vec<String> = world.devices.iter().map(|device| confirmed(&world, device)).collect();
    let lost = fs::read(world.deployment.path("data/keys/signing.key")).unwrap();
    // The root is offline; here that is another folder.
    let root = world.deployment.path("root.key");
    fs::rename(world.deployment.path("data/offline/root.key"), &root).unwrap();
    let filled_in = [
        ("KEYTURN_CONFIG", world.deployment.config().display().to_string()),
        ("ROOT", root.display().to_string()),
        ("LOST", "signing-1".to_owned()),
        ("SINCE", since),
    ];
    let said = follow(&world, &filled_in.into());
    let keys = &said[6].0;
    assert!(
        keys.contains("signing-2") && !keys.contains("signing-1") && keys.contains("key set 3"),
        "{keys}"
    );
    assert!(said[7].0.contains("3 devices with 3 open lanes would be asked"), "{said:?}");
    assert!(said[9].0.contains("3/3") && said[9].0.contains("0/3"), "{said:?}");

    rotate_all(&world).await;
    for (device, old) in world.devices.iter().zip(&before) {
        assert_ne!(confirmed(&world, device), *old, "{} has another version", device.name);
    }
    let jobs = world.deployment.ok(&["--output", "json", "device", "rotations"]);
    let jobs: Vec<Value> = serde_json::from_str(&jobs).unwrap();
    assert_eq!((&jobs[0]["job"]["asked"], &jobs[0]["rotated"]), (&3.into(), &3.into()), "{jobs:?}");

    nobody_believes(&world, &lost).await;
    rotate_all(&world).await;
    world.stop();
}
