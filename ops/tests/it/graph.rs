//! A whole deployment that looks devices up at Microsoft Graph, as real processes; fakes of Graph and of the managed
//! identity's endpoint stand for Azure.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

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
         [directory]\nengine = \"graph\"\nurl = \"{}\"\nkeep_unknown = \"0s\"\n[azure]\nca = \"azure.pem\"\n",
        fake.server.url()
    ));
}

impl Site {
    /// A running deployment with a device whose record is in Graph and nowhere else.
    async fn start() -> Self {
        let (fake, identity) = (FakeGraph::start().await, ManagedIdentity::start().await);
        let mut deployment = Deployment::init();
        let address = free_address();
        let device = install(&deployment, 0, address);
        let engines = Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap();
        for listed in engines.directory().page(None, 10).await.unwrap() {
            fake.add(&listed.record.unwrap());
        }
        drop(engines);
        deployment.variables = identity.variables().to_vec();
        configure(&deployment, &fake, address);
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
