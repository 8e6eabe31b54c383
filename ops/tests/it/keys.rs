//! Keys that are changed while a fleet rotates: the ingress and the workers read the new files at different
//! moments, and no rotation fails at any of them.

use std::fs::{self, File};
use std::time::Duration;

use keyturn_ops::Roles;
use keyturn_service::config::Config;
use keyturn_service::host::Host;
use keyturn_service::shell;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::deployment::{Deployment, text};
use crate::processes::{Device, free_address, install};

const DEVICES: usize = 3;

/// A server in two halves that read key files each for itself, and a fleet.
pub(crate) struct World {
    pub(crate) deployment: Deployment,
    pub(crate) ingress: Host,
    pub(crate) workers: Host,
    pub(crate) devices: Vec<Device>,
    rounds: usize,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_versions_per_day(1000).await
    }

    pub(crate) async fn with_versions_per_day(versions: usize) -> Self {
        let deployment = Deployment::init();
        let address = free_address();
        deployment.configure(&format!(
            "[ingress]\nlisten = \"{address}\"\n[workers]\nfirst_delay = \"50ms\"\n\
             [rotation]\nversions_per_day = {versions}\n"
        ));
        let host = || shell::host(Config::load(&deployment.config()).unwrap()).unwrap();
        let (ingress, workers) = (host(), host());
        Roles::new(ingress.clone()).serve().await.unwrap();
        Roles::new(workers.clone()).work().unwrap();
        let devices = (0..DEVICES).map(|number| install(&deployment, number, address)).collect();
        Self { deployment, ingress, workers, devices, rounds: 0 }
    }

    /// Ends both halves.
    pub(crate) fn stop(&self) {
        self.ingress.stop.cancel();
        self.workers.stop.cancel();
    }

    /// Every device but those that are away rotates.
    async fn round_without(&mut self, away: usize) {
        self.rounds += 1;
        let mut agents = JoinSet::new();
        for device in self.devices.iter().skip(away) {
            self.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
            let agent = device.agent();
            agents.spawn(async move { agent.once().await.unwrap() });
        }
        while let Some(outcome) = agents.join_next().await {
            let outcome = outcome.unwrap();
            assert!(outcome.is_success(), "round {}: {outcome}", self.rounds);
        }
        for device in self.devices.iter().skip(away) {
            device.invariant_shown(&self.deployment, self.rounds);
        }
    }

    pub(crate) async fn round(&mut self) {
        self.round_without(0).await;
    }

    /// A round before anybody has read the new files, one when one half has, and one when both have.
    async fn rounds(&mut self, workers_first: bool) {
        self.round().await;
        let (one, other) = (self.ingress.clone(), self.workers.clone());
        let (one, other) = if workers_first { (other, one) } else { (one, other) };
        one.keys.look();
        self.round().await;
        other.keys.look();
        self.round().await;
    }

    fn refused(&self, arguments: &[&str], said: &str) {
        let output = self.deployment.keyturn(arguments);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(5) && error.contains(said), "{arguments:?}: {error}");
    }

    /// Makes a ring's file a day older.
    pub(crate) fn age(&self, kind: &str) {
        let path = self.deployment.path(&format!("data/keys/{kind}.key"));
        let mut ring: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for key in ring["keys"].as_array_mut().unwrap() {
            for note in ["added_ms", "sealed_until_ms"] {
                if let Some(at) = key[note].as_u64() {
                    key[note] = (at - 2 * 86_400_000).into();
                }
            }
        }
        fs::write(path, ring.to_string()).unwrap();
    }

    /// Makes a file of the key folder two days older.
    pub(crate) fn age_file(&self, name: &str) {
        let file = File::options().append(true).open(self.deployment.path("data/keys").join(name)).unwrap();
        let old = file.metadata().unwrap().modified().unwrap() - Duration::from_hours(48);
        file.set_modified(old).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_rotates_while_every_ring_is_changed() {
    let mut world = World::start().await;
    for (kind, workers_first) in
        [("nonce", false), ("stamp", true), ("ticket", false), ("finding", true), ("vault", true)]
    {
        world.deployment.ok(&["keys", "rotate", kind]);
        world.refused(&["keys", "rotate", kind], "two keys already");
        world.refused(&["keys", "rotate", kind, "--activate"], "before every process has read it");
        world.rounds(workers_first).await;
        world.age(kind);
        world.deployment.ok(&["keys", "rotate", kind, "--activate"]);
        world.rounds(workers_first).await;
        world.refused(&["keys", "retire", kind, "2"], "in use");
        world.refused(&["keys", "retire", kind, "1"], "try again at");
        world.age(kind);
        if kind == "vault" {
            world.refused(&["keys", "retire", "vault", "1"], "KT-0411 ");
            world.refused(&["keys", "retire", "vault", "1"], "keyturn vault rekey");
            world.deployment.ok(&["vault", "rekey"]);
            let counted = world.deployment.ok(&["--output", "json", "vault", "verify"]);
            let counted: Value = serde_json::from_str(&counted).unwrap();
            assert!(counted[0]["key"] == "2" && counted[0]["versions"].as_u64() > Some(0), "{counted}");
            assert_eq!(counted[1]["versions"], 0, "{counted}");
        }
        world.deployment.ok(&["keys", "retire", kind, "1"]);
        world.rounds(!workers_first).await;
    }
    assert!(!world.deployment.ok(&["keys", "list"]).contains("replaced"));
    for device in &world.devices {
        device.invariant_settled(&world.deployment);
    }
    world.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_any_age_follow_a_change_of_the_signing_key() {
    let mut world = World::start().await;
    world.round().await;
    let root = world.deployment.path("data/offline/root.key");
    let sign = ["root", "sign-keys", "--root", root.to_str().unwrap()];
    world.deployment.ok(&["keys", "rotate", "signing"]);
    world.refused(&["keys", "rotate", "signing", "--activate"], "root sign-keys");
    world.deployment.ok(&sign);
    world.refused(&["keys", "rotate", "signing", "--activate"], "every ingress");
    world.round_without(1).await;
    world.ingress.keys.look();
    world.age_file("key-set.jws");
    world.deployment.ok(&["keys", "rotate", "signing", "--activate"]);
    world.round_without(1).await;
    world.workers.keys.look();
    // The first device was away since before there was a second key.
    world.round().await;
    world.refused(&["keys", "retire", "signing", "signing-2"], "in use");
    world.refused(&["keys", "retire", "signing", "signing-1"], "try again at");
    world.age_file("signing.prev.key");
    world.deployment.ok(&["keys", "retire", "signing", "signing-1"]);
    world.deployment.ok(&sign);
    world.rounds(false).await;
    let listed = world.deployment.ok(&["keys", "list"]);
    assert!(listed.contains("signing-2") && !listed.contains("signing-1"), "{listed}");
    assert!(listed.contains("in key set 3"), "{listed}");
    world.stop();
}

#[test]
fn a_key_to_come_can_be_given_up_and_a_foreign_root_signs_nothing() {
    let deployment = Deployment::init();
    deployment.ok(&["keys", "rotate", "stamp"]);
    assert!(deployment.ok(&["keys", "list"]).contains("to come"));
    deployment.ok(&["keys", "retire", "stamp", "2"]);
    assert!(!deployment.ok(&["keys", "list"]).contains("to come"));
    let other = Deployment::init();
    let root = other.path("data/offline/root.key");
    let refused = deployment.keyturn(&["root", "sign-keys", "--root", root.to_str().unwrap()]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("root"), "{}", text(&refused.stderr));
    let audit = deployment.ok(&["audit", "list"]);
    assert!(audit.contains("made stamp key 2") && audit.contains("retired stamp key 2"), "{audit}");
}
