//! Results signed by a key of Key Vault, as real processes; the service is a fake. Agents judge: they set no password in an
//! answer that they cannot verify under the root's key set.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::key_vault::Up;
use crate::processes::{Device, Role, binary, build, free_address, install, run};

const PARALLEL: usize = 2;

struct World {
    fake: FakeKeyVault,
    deployment: Deployment,
    devices: Vec<Device>,
    _identity: ManagedIdentity,
}

fn configure(deployment: &Deployment, fake: &FakeKeyVault, listen: SocketAddr) {
    fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\n\
         [rotation]\nversions_per_day = 1000\n\
         [workers]\nlease = \"1s\"\nfirst_delay = \"50ms\"\nmax_delay = \"200ms\"\nmax_deliveries = 2\n\
         [vault]\nunwrap_every = \"1s\"\n\
         [signing]\nengine = \"key-vault\"\nkey = \"{}/keys/signing\"\nparallel = {PARALLEL}\n\
         danger_unverified_challenge = true\n\
         [azure]\nca = \"azure.pem\"\ntimeout = \"2s\"\nattempts = 1\n",
        fake.server.url()
    ));
}

impl World {
    async fn start(devices: usize) -> Self {
        let (fake, identity) =
            (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
        let mut deployment = Deployment::init();
        deployment.variables = identity.variables().to_vec();
        let address = free_address();
        configure(&deployment, &fake, address);
        let devices = (0..devices).map(|number| install(&deployment, number, address)).collect();
        Self { fake, deployment, devices, _identity: identity }
    }

    fn refused(&self, arguments: &[&str], part: &str) {
        let output = self.deployment.keyturn(arguments);
        let told = text(&output.stderr);
        assert!(!output.status.success() && told.contains(part), "{arguments:?}: {told}");
    }

    /// Makes a file of the key folder older than any process may take to read it.
    fn age(&self, name: &str) {
        let file = File::options().append(true).open(self.deployment.path("data/keys").join(name)).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - Duration::from_hours(48)).unwrap();
    }

    fn sign_keys(&self) {
        let root = self.deployment.path("data/offline/root.key");
        self.deployment.ok(&["root", "sign-keys", "--root", root.to_str().unwrap()]);
    }

    /// Takes the newest version in Key Vault and puts it to use. Returns its id.
    fn take_newest(&self) -> String {
        let id = self.fake.make_signing_key("signing");
        self.deployment.ok(&["keys", "rotate", "signing"]);
        self.sign_keys();
        self.age("key-set.jws");
        self.deployment.ok(&["keys", "rotate", "signing", "--activate"]);
        id
    }

    /// Every device is told to rotate, and does. Returns how many versions there are then.
    async fn round(&self) -> u64 {
        for device in &self.devices {
            self.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
        }
        self.rotated().await
    }

    async fn rotated(&self) -> u64 {
        let agents: Vec<_> = self.devices.iter().map(|device| tokio::spawn(run(device.agent()))).collect();
        for agent in agents {
            agent.await.unwrap();
        }
        self.devices.iter().for_each(|device| device.invariant_settled(&self.deployment));
        assert_eq!(self.json(&["dead-letters", "list"]).len(), 0, "nothing is a dead letter");
        self.versions()
    }

    fn versions(&self) -> u64 {
        self.json(&["vault", "verify"]).iter().map(|row| row["versions"].as_u64().unwrap()).sum()
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let told = self.deployment.ok(&[&["--output", "json"], arguments].concat());
        serde_json::from_str(&told).unwrap()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.deployment.path("data/keys").join(name)).unwrap()
    }

    /// Starts `keyturn up`, which must end by itself and say this.
    fn start_refused(&self, part: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        command.envs(self.deployment.variables.iter().cloned()).stdin(Stdio::null());
        let output = command.arg("--config").arg(self.deployment.config()).arg("up").output().unwrap();
        let told = text(&output.stderr);
        assert!(!output.status.success() && told.contains(part), "{told}");
    }

    fn doctor(&self) -> Value {
        let output = self.deployment.keyturn(&["--output", "json", "doctor"]);
        let checks: Vec<Value> = serde_json::from_str(&text(&output.stdout)).unwrap();
        checks.into_iter().find(|check| check["check"] == "signing").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_signed_by_a_key_that_never_leaves_key_vault() {
    let world = World::start(1).await;
    let World { fake, deployment, .. } = &world;
    let up = Up::start(deployment);
    assert_eq!(world.rotated().await, 1);
    assert_eq!(fake.count(Call::Sign), 0, "until a key of Key Vault is in use nobody asks it to sign");
    assert_eq!(world.doctor()["state"], "Warning");

    // The key is taken, told to the agents and put to use, in that order and no other.
    world.refused(&["keys", "rotate", "signing"], "no such key");
    fake.make_key("signing");
    world.refused(&["keys", "rotate", "signing"], "P-256");
    let id = fake.make_signing_key("signing");
    deployment.ok(&["keys", "rotate", "signing"]);
    let listed = world.json(&["keys", "list"]);
    let listed = listed.iter().find(|row| row["id"] == "signing-2").unwrap();
    assert_eq!(listed["standing"], "to come");
    assert!(listed["note"].as_str().unwrap().contains(&id), "{listed}");
    assert!(world.file("signing.next.key").contains(&id) && !world.file("signing.next.key").contains("seed"));
    world.refused(&["keys", "rotate", "signing", "--activate"], "not in key set");
    world.sign_keys();
    fake.faults(Call::Sign, [Fault::Forbidden(Some("ForbiddenByRbac"))]);
    world.refused(&["keys", "rotate", "signing", "--activate"], "may not do that");
    world.refused(&["keys", "rotate", "signing", "--activate"], "before every ingress hands out");
    world.age("key-set.jws");
    deployment.ok(&["keys", "rotate", "signing", "--activate"]);
    world.refused(&["keys", "rotate", "signing"], "two keys already");
    drop(up);

    let _up = Up::start(deployment);
    let before = fake.count(Call::Sign);
    assert_eq!(world.round().await, 2);
    assert!(fake.count(Call::Sign) >= before + 2, "the request and its report were answered");
    assert_eq!(world.doctor()["state"], "Ok", "{}", world.doctor());

    // Anchors of the audit are by the same key, and hold.
    let anchors = deployment.path("anchors.jsonl");
    fs::write(&anchors, deployment.ok(&["audit", "anchor"])).unwrap();
    deployment.ok(&["audit", "verify", "--anchor", anchors.to_str().unwrap()]);

    // The next version: the same steps. A version that nobody took signs nothing.
    world.age("signing.prev.key");
    deployment.ok(&["keys", "retire", "signing", "signing-1"]);
    world.refused(&["keys", "rotate", "signing"], "az keyvault key create --vault-name");
    let next = world.take_newest();
    assert!(world.file("signing.key").contains(&next) && world.file("signing.prev.key").contains(&id));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_the_signature_an_answer_is_whole_or_waits() {
    let world = World::start(3).await;
    let World { fake, deployment, .. } = &world;
    let first = world.take_newest();
    let up = Up::start(deployment);
    assert_eq!(world.rotated().await, 3);
    assert!(fake.most_at_once(Call::Sign) <= PARALLEL);

    // More failures than a message may be delivered times with a fault of its own, of every kind that the service has. No
    // version is made twice, although each was in the vault before its signature failed.
    let fault = |number: usize| match number % 6 {
        0 => Fault::Throttled(None),
        1 => Fault::Unavailable,
        2 => Fault::DoneThen500,
        3 => Fault::DoneThenHtml,
        4 => Fault::Late(Duration::from_millis(300)),
        _ => Fault::DoneThenCut,
    };
    fake.faults(Call::Sign, (0..24).map(fault));
    assert_eq!(world.round().await, 6);
    assert!(fake.all_happened());

    // Killed between the vault and the signature.
    fake.faults(Call::Sign, [const { Fault::DoneInSilence }; 3]);
    let before = fake.count(Call::Sign);
    for device in &world.devices {
        deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
    }
    let agents: Vec<_> = world.devices.iter().map(|device| tokio::spawn(run(device.agent()))).collect();
    while fake.count(Call::Sign) == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(up);
    let _up = Up::start(deployment);
    for agent in agents {
        agent.await.unwrap();
    }
    world.devices.iter().for_each(|device| device.invariant_settled(deployment));
    assert_eq!(world.versions(), 9);

    // Somebody else's signature gets to no agent, and nothing waits any more once the key is the right one again.
    let strange = fake.make_signing_key("signing");
    fake.exchange_keys("signing", &first, &strange);
    let before = fake.count(Call::Sign);
    let round = async {
        while fake.count(Call::Sign) < before + 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let check = world.doctor();
        assert!(
            check["state"] == "Failed" && check["found"].as_str().unwrap().contains("another public half")
        );
        fake.exchange_keys("signing", &first, &strange);
    };
    let (versions, ()) = tokio::join!(world.round(), round);
    assert_eq!(versions, 12);
}

/// A process that would sign with what agents do not take.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_agents_do_not_know_is_not_started_with() {
    let world = World::start(1).await;
    let World { fake, deployment, .. } = &world;
    let (first, strange) = (world.take_newest(), fake.make_signing_key("signing"));
    fake.exchange_keys("signing", &first, &strange);
    world.start_refused("another public half");
    fake.exchange_keys("signing", &first, &strange);
    let path = deployment.path("data/keys/signing.key");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, part) in [
        ("signing-2", "signing-7", "signing-7 is not in key set"),
        (first.as_str(), strange.as_str(), "another public half"),
        ("/keys/signing/", "/keys/other/", "no version of signing.key"),
    ] {
        fs::write(&path, good.replace(from, to)).unwrap();
        world.start_refused(part);
    }
    fs::write(&path, &good).unwrap();
    let _up = Up::start(deployment);
    assert_eq!(world.rotated().await, 1);
}

/// A rotator as a process of its own, ended when it goes, as systemd runs it: with these credentials and no key folder.
struct Alone {
    child: Child,
    health: SocketAddr,
}

impl Alone {
    fn start(world: &World, credentials: &Path) -> Self {
        let deployment = &world.deployment;
        let config = fs::read_to_string(deployment.config()).unwrap();
        let probed =
            "[data]\nkeys = \"nowhere\"\n[health]\nprobe_every = \"200ms\"\nprobe_timeout = \"1s\"\n";
        let file = deployment.path("data/rotator.toml");
        fs::write(&file, config.replace("[health]\nall = \"off\"\n", probed)).unwrap();
        let health = free_address();
        let mut command = Command::new(binary("keyturn-rotator"));
        command.arg("--config").arg(file).args(["--health", &health.to_string()]);
        command.envs(deployment.variables.iter().cloned()).env("CREDENTIALS_DIRECTORY", credentials);
        Self { child: command.stderr(Stdio::piped()).spawn().unwrap(), health }
    }

    /// Waits until `/readyz` has this status, and these in one line about the signing key.
    async fn is(&self, status: &str, parts: [&str; 2]) {
        for _ in 0..600 {
            if let Ok(mut stream) = TcpStream::connect(self.health) {
                let mut told = String::new();
                stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
                stream.read_to_string(&mut told).unwrap();
                if told.contains(status)
                    && told.lines().any(|line| parts.iter().all(|part| line.contains(part)))
                {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("/readyz never said {status} and {parts:?}");
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Puts into a folder what a unit's file has systemd pass on.
fn pass_on(world: &World, unit: &str, credentials: &Path) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/systemd");
    let unit = fs::read_to_string(folder.join(unit)).unwrap();
    for line in unit.lines().filter_map(|line| line.strip_prefix("LoadCredential=")) {
        let (name, path) = line.split_once(':').unwrap();
        let file = path.strip_prefix("/etc/keyturn/keys/").unwrap();
        fs::copy(world.deployment.path("data/keys").join(file), credentials.join(name)).unwrap();
    }
}

/// With its unit and the addition to it, and with no other key, the rotator signs by Key Vault; `/readyz` tells of Key Vault
/// as `signing`, whether it goes away under way or before the rotator starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotator_of_its_own_signs_with_what_its_unit_gives_it() {
    build();
    let world = World::start(1).await;
    let World { fake, deployment, devices, .. } = &world;
    world.take_newest();
    let credentials = tempfile::tempdir().unwrap();
    pass_on(&world, "keyturn-rotator.service", credentials.path());
    let mut ended = Alone::start(&world, credentials.path());
    assert!(!ended.child.wait().unwrap().success(), "without the key set it does not start");
    let mut told = String::new();
    ended.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(
        told.contains("key-set.jws there") && told.contains("keyturn-rotator-key-vault-signing.conf"),
        "{told}"
    );

    pass_on(&world, "keyturn-rotator-key-vault-signing.conf", credentials.path());
    let _others = ["ingress", "validator", "notifier"].map(|name| Role::start(name, deployment));
    let rotator = Alone::start(&world, credentials.path());
    assert_eq!(world.rotated().await, 1);
    rotator.is("200 OK", ["signing", "up"]).await;

    // Key Vault is away: the rotator says so, no answer goes out, and none is lost.
    let is_waited_for = async |rotator: &Alone, parts: [&str; 2]| {
        deployment.ok(&["device", "rotate-now", &devices[0].name, "--reason", "next round"]);
        let agent = tokio::spawn(run(devices[0].agent()));
        rotator.is("503 Service Unavailable", parts).await;
        assert!(!agent.is_finished(), "no answer without its signature");
        fake.always(None);
        agent.await.unwrap();
        rotator.is("200 OK", ["signing", "up"]).await;
        devices[0].invariant_settled(deployment);
    };
    fake.always(Some(Fault::Unavailable));
    is_waited_for(&rotator, ["signing", "away since 20"]).await;
    assert_eq!(world.versions(), 2);
    // And before it starts: it waits with that.
    drop(rotator);
    fake.always(Some(Fault::Unavailable));
    let rotator = Alone::start(&world, credentials.path());
    is_waited_for(&rotator, ["signing", "status 503"]).await;
    assert_eq!(world.versions(), 3);
}
