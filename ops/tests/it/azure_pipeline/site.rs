//! A site whose engines are all in Azure, or what stands in for them.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_testkit::azure::graph::FakeGraph;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::FakeKeyVault;
use keyturn_testkit::azure::logs::{FakeLogs, RULE};
use keyturn_testkit::postgres::{Cluster, TestDatabase};
use serde_json::Value;

use super::hops::Hops;
use crate::deployment::Deployment;
use crate::processes::{Device, build, free_address, install};

/// Waits that pass while a test looks on.
pub(super) const SHORT: &str = "[ingress.admission]\nretry_after = \"1s\"\nretry_spread = \"1s\"\n\
     [health]\nprobe_every = \"200ms\"\nprobe_timeout = \"1s\"\n\
     [workers]\nlease = \"2s\"\nfirst_delay = \"50ms\"\nmax_delay = \"200ms\"\n";

/// Those of a deployment that says nothing of them, but for a lease as short as the locks of the queues here.
pub(super) const DEFAULT: &str = "[workers]\nlease = \"5s\"\n";

/// The devices and engines of a deployment, without its roles.
pub(super) struct Site {
    pub(super) deployment: Deployment,
    pub(super) devices: Vec<Device>,
    pub(super) hops: Box<dyn Hops>,
    pub(super) database: TestDatabase,
    pub(super) vault: FakeKeyVault,
    pub(super) graph: FakeGraph,
    pub(super) logs: FakeLogs,
    _identity: ManagedIdentity,
}

impl Site {
    /// One with so many devices and these waits.
    pub(super) async fn new(hops: Box<dyn Hops>, devices: usize, waits: &str) -> Self {
        build();
        let database = TestDatabase::on(Cluster::private());
        let vault = FakeKeyVault::start(Arc::new(SystemClock)).await;
        let (graph, identity) = (FakeGraph::start().await, ManagedIdentity::start().await);
        let template = serde_json::from_str(include_str!("../../../../infra/azure/logs.json")).unwrap();
        let logs = FakeLogs::start(&template).await;
        let mut deployment = Deployment::init();
        deployment.variables = identity.variables().to_vec();
        let listen = free_address();
        let devices: Vec<Device> = (0..devices).map(|number| install(&deployment, number, listen)).collect();
        let engines = Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap();
        for listed in engines.directory().page(None, 100).await.unwrap() {
            graph.add(&listed.record.unwrap());
        }
        drop(engines);
        let site = Self { deployment, devices, hops, database, vault, graph, logs, _identity: identity };
        site.configure(listen, waits);
        site.deployment.make_tables();
        site
    }

    fn configure(&self, listen: SocketAddr, waits: &str) {
        let Self { deployment, hops, database, vault, graph, logs, .. } = self;
        let authorities = deployment.path("data/azure.pem");
        fs::write(authorities, format!("{}{}{}", vault.server.ca, graph.server.ca, logs.server.ca)).unwrap();
        deployment.configure(&format!(
            "{waits}[ingress]\nlisten = \"{listen}\"\n\
             [rotation]\nversions_per_day = 1000\n\
             [state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n\
             [vault]\nengine = \"key-vault\"\nurls = [\"{}\"]\ndanger_unverified_challenge = true\n\
             copy_every = \"1s\"\ncreations = 30\ncreations_window = \"1s\"\n\
             [directory]\nengine = \"graph\"\nurl = \"{}\"\nkeep = \"0s\"\nkeep_unknown = \"0s\"\n\
             [azure]\nca = \"azure.pem\"\ntimeout = \"2s\"\nmax_delay = \"1s\"\n\
             [azure.logs]\nendpoint = \"{}\"\nrule = \"{RULE}\"\nevery = \"50ms\"\nmax_delay = \"200ms\"\n{}",
            database.address(),
            vault.server.url(),
            graph.server.url(),
            logs.server.url(),
            hops.config(deployment),
        ));
    }

    /// How many versions the vault has, in all, without the copies under the second names.
    pub(super) fn versions(&self) -> usize {
        let names = self.vault.names();
        names.iter().filter(|name| name.ends_with("-next")).map(|name| self.vault.versions(name).len()).sum()
    }

    /// Has every device rotate when it asks next.
    pub(super) fn order_rotations(&self, reason: &str) {
        for device in &self.devices {
            self.deployment.ok(&["device", "rotate-now", &device.name, "--reason", reason]);
        }
    }

    /// Waits until the second name of every device has the password that it confirmed.
    pub(super) async fn all_are_copied(&self) {
        for device in &self.devices {
            let (name, shown) = (format!("lap-{}", device.id()), device.shown(&self.deployment)[0].1.clone());
            let mut tries = 0;
            while self.vault.current(&name).is_none_or(|copy| copy["value"] != shown.as_str()) {
                assert!(tries < 400, "the copy {name} is {:?}", self.vault.current(&name));
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub(super) fn nothing_died(&self) {
        let queues: Value =
            serde_json::from_str(&self.deployment.ok(&["--output", "json", "queues"])).unwrap();
        assert!(queues.as_array().unwrap().iter().all(|queue| queue["dead"] == 0), "{queues}");
    }
}
