//! A whole deployment that looks devices up at Microsoft Graph, as real processes; fakes of Graph and of the managed
//! identity's endpoint stand for Azure.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use keyturn_ports::directory::{DeviceRecord, Membership};
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_testkit::azure::graph::{FakeGraph, Fault};
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::conformance::sample;
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::key_vault::Up;
use crate::processes::{Device, Role, build, free_address, install, run};

struct Site {
    deployment: Deployment,
    fake: FakeGraph,
    device: Device,
    _identity: ManagedIdentity,
    _up: Option<Up>,
}

/// Nothing of the feed, and no answer is kept.
const ASKED_EACH_TIME: &str = "keep = \"0s\"\nkeep_unknown = \"0s\"\ndelta_every = \"0s\"\n";

/// Answers are kept for minutes, whatever becomes of the feed.
const KEPT: &str = "keep = \"9m\"\nkeep_unknown = \"9m\"\nkeep_unfed = \"9m\"\nkeep_uses = 1000\n";

/// The feed is read each second, and another process goes on after two.
const FED: &str = "delta_every = \"1s\"\ndelta_hold = \"3s\"\ndelta_look = \"100ms\"\n";

fn configure(deployment: &Deployment, fake: &FakeGraph, listen: SocketAddr, directory: &str) {
    fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\n\
         [workers]\nfirst_delay = \"20ms\"\nmax_delay = \"50ms\"\nmax_deliveries = 3\n\
         [directory]\nengine = \"graph\"\nurl = \"{}\"\n{directory}\
         [azure]\nca = \"azure.pem\"\ntimeout = \"2s\"\n",
        fake.server.url()
    ));
}

impl Site {
    /// A running deployment with a device whose record is in Graph and nowhere else.
    async fn start() -> Self {
        Self::start_with("", |_| {}).await
    }

    /// The same with other settings of the directory.
    async fn start_as(directory: &str) -> Self {
        let site = Self::prepare(directory, "", |_| {}).await;
        Self { _up: Some(Up::start(&site.deployment)), ..site }
    }

    /// The same, with policies, and a change to the record.
    async fn start_with(policies: &str, change: impl Fn(&mut DeviceRecord)) -> Self {
        let site = Self::prepare(ASKED_EACH_TIME, policies, change).await;
        Self { _up: Some(Up::start(&site.deployment)), ..site }
    }

    /// The deployment without its processes.
    async fn prepare(directory: &str, policies: &str, change: impl Fn(&mut DeviceRecord)) -> Self {
        let (fake, identity) = (FakeGraph::start().await, ManagedIdentity::start().await);
        let mut deployment = Deployment::init();
        let address = free_address();
        let device = install(&deployment, 0, address);
        let engines = Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap();
        for listed in engines.directory().page(None, 10).await.unwrap() {
            let mut record = listed.record.unwrap();
            change(&mut record);
            fake.add(&record);
        }
        drop(engines);
        deployment.variables = identity.variables().to_vec();
        configure(&deployment, &fake, address, directory);
        let text = fs::read_to_string(deployment.config()).unwrap();
        fs::write(deployment.config(), format!("{text}{policies}")).unwrap();
        Self { deployment, fake, device, _identity: identity, _up: None }
    }

    fn versions(&self) -> usize {
        let history = self.deployment.ok(&["--output", "json", "device", "history", &self.device.name]);
        serde_json::from_str::<Vec<Value>>(&history).unwrap().len()
    }

    fn disable(&self) {
        self.fake.change(|device| device["accountEnabled"] = false.into());
    }

    /// Has a rotation asked for, and asks once. Returns how many versions there are then.
    async fn asked_to_rotate(&self) -> usize {
        self.deployment.ok(&["device", "rotate-now", &self.device.name, "--reason", "test"]);
        // It may be refused.
        drop(self.device.agent_waiting(Duration::from_secs(3)).once().await);
        self.versions()
    }

    /// What `keyturn fleet --list` says, once it says this of the device with this name.
    async fn fleet_says(&self, name: &str, state: Option<&str>) -> Vec<Value> {
        let mut seen = String::new();
        for _ in 0..200 {
            let told = self.deployment.keyturn(&["--output", "json", "fleet", "--list"]);
            seen = text(&if told.status.success() { told.stdout } else { told.stderr });
            let devices: Vec<Value> = serde_json::from_str(&seen).unwrap_or_default();
            let one = devices.iter().find(|device| device["name"] == name);
            if !devices.is_empty() && one.map(|one| one["state"].as_str().unwrap()) == state {
                return devices;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} is not {state:?}: {seen}");
    }

    /// Asks until the server is up and a version is set.
    async fn rotated(&self) {
        run(self.device.agent()).await;
        self.device.invariant_settled(&self.deployment);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_graph_lists_rotates_until_it_is_disabled() {
    let site = Site::start().await;
    site.rotated().await;
    assert_eq!(site.versions(), 1);

    let add = site.deployment.keyturn(&["device", "disable", &site.device.name, "--reason", "stolen"]);
    assert!(!add.status.success() && text(&add.stderr).contains("Entra"), "{}", text(&add.stderr));
    let list = site.deployment.ok(&["device", "list"]);
    assert!(list.contains(&site.device.name), "{list}");

    // A help desk gets at a password whatever became of the directory.
    site.fake.always(Some(Fault::Status(503, None)));
    let lanes =
        site.deployment.keyturn(&["reveal", &site.device.id().to_string(), "--reason", "directory down"]);
    assert!(lanes.status.success(), "{}", text(&lanes.stderr));
}

/// Which policy a device comes under is what Graph says of its groups, at each request anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_comes_under_the_policy_of_its_group() {
    let group = "fee2c45b-915a-4a64-b130-f4eb9e75525e";
    let policy = format!(
        "[[policy]]\nname = \"kiosks\"\ngroups = [\"{group}\"]\ncomplexity = 7\nwords = 7\nseparator = \"-\"\n"
    );
    let member = |record: &mut DeviceRecord| {
        record.groups = Some([Membership { id: group.parse().unwrap() }].into());
    };
    let site = Site::start_with(&policy, member).await;
    site.rotated().await;
    let words = |site: &Site| {
        let shown =
            site.deployment.ok(&["--output", "json", "reveal", &site.device.name, "--reason", "test"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown[0]["password"].as_str().unwrap().matches('-').count()
    };
    assert!(words(&site) >= 6, "seven words");
    let shown = site.deployment.ok(&["device", "show", &site.device.name]);
    assert!(shown.contains("policy: kiosks"), "{shown}");

    // Out of the group, its next password is one of the others.
    site.fake.change(|device| device["transitiveMemberOf"] = serde_json::json!([]));
    site.deployment.ok(&["device", "rotate-now", &site.device.name, "--reason", "left the hall"]);
    site.rotated().await;
    assert_eq!(site.versions(), 2);
    assert!(words(&site) < 6, "sixteen characters");
    let shown = site.deployment.ok(&["device", "show", &site.device.name]);
    assert!(shown.contains("policy: default"), "{shown}");
    let check = site.deployment.ok(&["config", "check"]);
    assert!(check.contains("kiosks: 7 words") && check.contains("groups of the directory: 1"), "{check}");
    let list = site.deployment.keyturn(&["group", "list"]);
    assert!(text(&list.stderr).contains("Entra"), "{}", text(&list.stderr));
}

/// U-01: two records of one id are nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_two_records_gets_nothing() {
    let site = Site::start().await;
    site.fake.duplicate();
    for _ in 0..100 {
        let outcome = site.device.agent_waiting(Duration::from_secs(2)).once().await;
        assert!(!outcome.is_ok_and(|outcome| outcome.is_success()), "it must not rotate");
        if site.fake.calls() > 0 {
            break;
        }
    }
    assert!(site.fake.calls() > 0, "Graph was never asked");
    assert_eq!(site.versions(), 0);
    site.fake.single();
    site.rotated().await;
    assert_eq!(site.versions(), 1);
}

/// U-02: a page that is no JSON is tried again, and then a dead letter; after the mend it rotates.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_no_json_makes_a_dead_letter_and_no_version() {
    let site = Site::start().await;
    site.fake.always(Some(Fault::Html));
    let mut letters = Vec::new();
    for _ in 0..100 {
        // It is never answered.
        drop(site.device.agent_waiting(Duration::from_millis(500)).once().await);
        let list = site.deployment.ok(&["--output", "json", "dead-letters", "list"]);
        letters = serde_json::from_str::<Vec<Value>>(&list).unwrap();
        if !letters.is_empty() {
            break;
        }
    }
    assert!(letters[0].to_string().contains("not JSON"), "{}", letters[0]);
    assert!(site.fake.calls() >= 3, "{} calls", site.fake.calls());
    site.fake.always(None);
    assert_eq!(site.versions(), 0);
    site.rotated().await;
}

fn stranger(n: u8, name: &str) -> DeviceRecord {
    DeviceRecord {
        device_id: sample::device(n),
        display_name: Some(name.to_owned()),
        account_enabled: Some(true),
        trust_type: Some("AzureAd".to_owned()),
        alternative_security_ids: Vec::new(),
        operating_system: None,
        groups: Some([].into()),
    }
}

/// What the next test stands on: an answer that is kept lets a disabled device rotate, where no feed is read.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_feed_a_kept_answer_is_used_to_its_end() {
    let site = Site::start_as(&format!("{KEPT}delta_every = \"0s\"\n")).await;
    site.rotated().await;
    site.disable();
    assert_eq!(site.asked_to_rotate().await, 2);
    assert_eq!(site.fake.feed_calls(), 0);
    let fleet = site.deployment.keyturn(&["fleet"]);
    assert!(text(&fleet.stderr).contains("directory.delta_every"), "{}", text(&fleet.stderr));
}

/// Two validators, either of which may be the one that reads, and one of which is killed: what is disabled, deleted and
/// new in Graph is known to the other within the feed's interval, although answers are kept for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_feed_tells_reaches_every_process() {
    build();
    let site = Site::prepare(&format!("{KEPT}{FED}"), "", |_| {}).await;
    site.fake.feed_pages_of(2);
    for (n, name) in [(1, "KIOSK-1"), (2, "KIOSK-2"), (3, "KIOSK-3")] {
        site.fake.add(&stranger(n, name));
    }
    let _others = ["ingress", "rotator", "notifier"].map(|name| Role::start(name, &site.deployment));
    let mut validators = [(); 2].map(|()| Some(Role::start("validator", &site.deployment)));
    site.rotated().await;
    let fleet = site.fleet_says(&site.device.name, Some("confirmed")).await;
    assert_eq!(fleet.len(), 4, "{fleet:?}");
    assert_eq!(fleet.iter().filter(|device| device["state"] == "never_escrowed").count(), 3, "{fleet:?}");
    let doctor = text(&site.deployment.keyturn(&["doctor"]).stdout);
    assert!(doctor.contains("directory feed 4 devices, as of"), "{doctor}");

    for turn in [0, 1] {
        // Each in its turn alone, so that both have forgotten and both have read.
        validators[turn] = None;
        site.fake.change(|device| device["accountEnabled"] = true.into());
        site.listed_as(true).await;
        let versions = site.versions();
        while site.asked_to_rotate().await == versions {}
        site.disable();
        site.listed_as(false).await;
        let versions = site.versions();
        assert_eq!(site.asked_to_rotate().await, versions, "it is disabled");
        validators[turn] = Some(Role::start("validator", &site.deployment));
    }

    site.fake.delete(|device| device["displayName"] == "KIOSK-2");
    site.fleet_says("KIOSK-2", None).await;
    // A place that has expired: everything is read again, and what came meanwhile is there.
    site.fake.expire_feed();
    site.fake.add(&stranger(4, "KIOSK-4"));
    site.fake.delete(|device| device["displayName"] == "KIOSK-3");
    let fleet = site.fleet_says("KIOSK-4", Some("never_escrowed")).await;
    assert_eq!(fleet.len(), 3, "{fleet:?}");
    assert!(fleet.iter().all(|device| device["name"] != "KIOSK-3"), "{fleet:?}");
}

impl Site {
    /// Waits until `device list` says whether the device is enabled, and for as long as processes take to look.
    async fn listed_as(&self, enabled: bool) {
        let wanted = if enabled { "yes" } else { "no" };
        for _ in 0..200 {
            let list: Vec<Value> =
                serde_json::from_str(&self.deployment.ok(&["--output", "json", "device", "list"])).unwrap();
            let one = list.iter().find(|device| device["name"] == self.device.name.as_str());
            if one.is_some_and(|one| one["enabled"] == wanted) {
                tokio::time::sleep(Duration::from_millis(500)).await;
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the device is not listed as {wanted}");
    }
}
