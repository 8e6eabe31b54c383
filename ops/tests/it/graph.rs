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
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::key_vault::Up;
use crate::processes::{Device, free_address, install, run};

struct Site {
    deployment: Deployment,
    fake: FakeGraph,
    device: Device,
    _identity: ManagedIdentity,
    _up: Up,
}

fn configure(deployment: &Deployment, fake: &FakeGraph, listen: SocketAddr) {
    fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\n\
         [workers]\nfirst_delay = \"20ms\"\nmax_delay = \"50ms\"\nmax_deliveries = 3\n\
         [directory]\nengine = \"graph\"\nurl = \"{}\"\nkeep = \"0s\"\nkeep_unknown = \"0s\"\n[azure]\nca = \"azure.pem\"\n",
        fake.server.url()
    ));
}

impl Site {
    /// A running deployment with a device whose record is in Graph and nowhere else.
    async fn start() -> Self {
        Self::start_with("", |_| {}).await
    }

    /// The same, with policies, and a change to the record.
    async fn start_with(policies: &str, change: impl Fn(&mut DeviceRecord)) -> Self {
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
        configure(&deployment, &fake, address);
        let text = fs::read_to_string(deployment.config()).unwrap();
        fs::write(deployment.config(), format!("{text}{policies}")).unwrap();
        let up = Up::start(&deployment);
        Self { deployment, fake, device, _identity: identity, _up: up }
    }

    fn versions(&self) -> usize {
        let history = self.deployment.ok(&["--output", "json", "device", "history", &self.device.name]);
        serde_json::from_str::<Vec<Value>>(&history).unwrap().len()
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

    let add = site.deployment.keyturn(&["device", "disable", &site.device.name]);
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
