//! The whole pipeline on what it has in Azure: hops on a real Azurite, the state on a real PostgreSQL, and fakes of Key
//! Vault, Graph and the managed identity's endpoint, all the roles as processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_testkit::azure::graph::{FakeGraph, Fault as GraphFault};
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};
use keyturn_testkit::azure::logs::{FakeLogs, Fault as LogsFault, RULE};
use keyturn_testkit::azurite::{ACCOUNT, API_VERSION, Azurite, KEY};
use keyturn_testkit::postgres::{Cluster, TestDatabase};
use serde_json::Value;

use crate::deployment::Deployment;
use crate::processes::{Device, ROLES, Role, build, free_address, install, run};

struct Site {
    deployment: Deployment,
    devices: Vec<Device>,
    azurite: Azurite,
    database: TestDatabase,
    vault: FakeKeyVault,
    graph: FakeGraph,
    logs: FakeLogs,
    _identity: ManagedIdentity,
}

impl Site {
    async fn new(devices: usize) -> Self {
        build();
        let (azurite, database) = (Azurite::start(&[], None).await, TestDatabase::on(Cluster::private()));
        let vault = FakeKeyVault::start(Arc::new(SystemClock)).await;
        let (graph, identity) = (FakeGraph::start().await, ManagedIdentity::start().await);
        let template = serde_json::from_str(include_str!("../../../infra/azure/logs.json")).unwrap();
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
        let site = Self { deployment, devices, azurite, database, vault, graph, logs, _identity: identity };
        site.configure(listen);
        site.deployment.make_tables();
        site
    }

    fn configure(&self, listen: SocketAddr) {
        let Self { deployment, azurite, database, vault, graph, logs, .. } = self;
        let (authorities, key) = (deployment.path("data/azure.pem"), deployment.path("account.key"));
        fs::write(authorities, format!("{}{}{}", vault.server.ca, graph.server.ca, logs.server.ca)).unwrap();
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let hops =
            ["requests", "findings", "outcomes", "alarms"].map(|hop| format!("{hop} = \"azure-storage\"\n"));
        deployment.configure(&format!(
            "[ingress]\nlisten = \"{listen}\"\n\
             [health]\nprobe_every = \"200ms\"\nprobe_timeout = \"1s\"\n\
             [workers]\nlease = \"2s\"\nfirst_delay = \"50ms\"\nmax_delay = \"200ms\"\n\
             [rotation]\nversions_per_day = 1000\n\
             [state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n\
             [vault]\nengine = \"key-vault\"\nurls = [\"{}\"]\ndanger_unverified_challenge = true\n\
             copy_every = \"1s\"\n\
             [directory]\nengine = \"graph\"\nurl = \"{}\"\nkeep = \"0s\"\nkeep_unknown = \"0s\"\n\
             [azure]\nca = \"azure.pem\"\ntimeout = \"2s\"\nmax_delay = \"1s\"\n\
             [azure.logs]\nendpoint = \"{}\"\nrule = \"{RULE}\"\nevery = \"50ms\"\nmax_delay = \"200ms\"\n\
             [queues]\n{}[queues.azure_storage]\nendpoint = \"{}\"\naccess = \"key\"\naccount = \"{ACCOUNT}\"\n\
             secret_file = \"{}\"\npoll = \"20ms\"\napi_version = \"{API_VERSION}\"\n",
            database.address(),
            vault.server.url(),
            graph.server.url(),
            logs.server.url(),
            hops.concat(),
            azurite.url("http"),
            key.display(),
        ));
    }

    /// How many versions the vault has, in all, without the copies under the second names.
    fn versions(&self) -> usize {
        let names = self.vault.names();
        names.iter().filter(|name| name.ends_with("-next")).map(|name| self.vault.versions(name).len()).sum()
    }

    /// Waits until the second name of every device has the password that it confirmed.
    async fn all_are_copied(&self) {
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

    fn nothing_died(&self) {
        let queues: Value =
            serde_json::from_str(&self.deployment.ok(&["--output", "json", "queues"])).unwrap();
        assert!(queues.as_array().unwrap().iter().all(|queue| queue["dead"] == 0), "{queues}");
    }
}

/// Two workers of each stage; one of each is killed while they work, and stays away; and the vault throttles.
#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_at_a_throttled_vault_lose_nothing_on_azure_storage() {
    let site = Site::new(6).await;
    let throttled = [Some(1), None, Some(1), None, Some(2)].map(Fault::Throttled);
    site.vault.faults(Call::Set, throttled);
    let _ingress = Role::start("ingress", &site.deployment);
    let stages = ["validator", "rotator", "notifier"];
    let mut victims = stages.map(|name| Some(Role::start(name, &site.deployment)));
    let _others = stages.map(|name| Role::start(name, &site.deployment));
    for round in 1..=3 {
        let mut agents = tokio::task::JoinSet::new();
        for device in &site.devices {
            agents.spawn(run(device.agent()));
        }
        // The rotator first, as soon as it has stored something; SIGKILL is how a role that is dropped ends.
        while site.versions() < (round - 1) * site.devices.len() + 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop([1, 0, 2].get(round - 1).and_then(|victim| victims[*victim].take()));
        while let Some(ended) = agents.join_next().await {
            ended.unwrap();
        }
        for device in &site.devices {
            device.invariant_settled(&site.deployment);
            site.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
        }
        assert_eq!(site.versions(), round * site.devices.len(), "one version for each device and round");
    }
    assert!(site.vault.all_happened(), "the vault throttled");
    assert!(victims.iter().all(Option::is_none), "one of each stage was killed");
    site.all_are_copied().await;
    site.nothing_died();
}

struct Plugged {
    site: Site,
    health: [(&'static str, SocketAddr); 4],
    _roles: Vec<Role>,
}

impl Plugged {
    async fn new() -> Self {
        let site = Site::new(1).await;
        let health = ["ingress", "validator", "rotator", "notifier"].map(|name| (name, free_address()));
        let roles =
            health.map(|(name, address)| Role::answering(name, &site.deployment, &address.to_string()));
        let plugged = Self { site, health, _roles: roles.into() };
        run(plugged.site.devices[0].agent()).await;
        plugged.site.devices[0].invariant_settled(&plugged.site.deployment);
        plugged
    }

    fn asks(&self, role: &str, path: &str) -> String {
        let (_, address) = self.health.iter().find(|(name, _)| *name == role).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// How many messages of a queue were put off.
    fn retried(&self, role: &str, queue: &str) -> f64 {
        let text = self.asks(role, "/metrics");
        let labels = [format!("queue=\"{queue}\""), "outcome=\"retried\"".to_owned()];
        let fits = |line: &&str| {
            line.starts_with("keyturn_messages_settled_total{")
                && labels.iter().all(|label| line.contains(label))
        };
        let value = text.lines().find(fits).and_then(|line| line.rsplit(' ').next());
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Whether a role says that an engine is away, since when and why, and in what standing that leaves it.
    fn away(&self, role: &str, engine: &str, why: &str, ready: bool) -> bool {
        let told = self.asks(role, "/readyz");
        let status = if ready { "200 OK" } else { "503 Service Unavailable" };
        let line = told.lines().find(|line| line.starts_with(engine)).unwrap_or_default();
        let (gauge, text) =
            (format!("keyturn_engine_up{{engine=\"{engine}\"}} 0\n"), self.asks(role, "/metrics"));
        told.contains(status) && line.contains("away since 20") && line.contains(why) && text.contains(&gauge)
    }

    /// Everybody lives, and those who do not need what is away are ready.
    fn the_rest_is_well(&self, unready: &[&str]) {
        for (role, _) in self.health {
            assert!(self.asks(role, "/healthz").contains("200 OK"), "{role} lives");
            let told = self.asks(role, "/readyz");
            assert_eq!(told.contains("200 OK"), !unready.contains(&role), "{role}: {told}");
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never: {what}");
    }

    /// A device asks while something is away; it is told of; it comes back, and the device is served without further
    /// ado.
    async fn pulled(
        &self,
        away: impl FnOnce(&Site),
        told: impl Fn(&Self) -> bool,
        unready: &[&str],
        back: impl FnOnce(&Site),
        what: &str,
    ) {
        let (site, device) = (&self.site, &self.site.devices[0]);
        site.deployment.ok(&["device", "rotate-now", &device.name, "--reason", what]);
        let before = site.versions();
        away(site);
        let agent = tokio::spawn(run(device.agent()));
        self.until(what, told).await;
        self.the_rest_is_well(unready);
        assert_eq!(site.versions(), before, "no version without {what}");
        back(site);
        agent.await.unwrap();
        device.invariant_settled(&site.deployment);
        assert_eq!(site.versions(), before + 1, "one version, {what} or not");
        self.until("ready again", |this| {
            this.health.iter().all(|(role, _)| this.asks(role, "/readyz").contains("200 OK"))
        })
        .await;
    }
}

/// The pulled plug: whatever is away is waited for, told of, and the work goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_is_waited_for_on_azure_storage() {
    let plugged = Plugged::new().await;
    let put_off = plugged.retried("rotator", "findings");
    plugged
        .pulled(
            |site| site.vault.always(Some(Fault::Unavailable)),
            |this| {
                this.retried("rotator", "findings") >= put_off + 2.0
                    && this.away("rotator", "vault", "", false)
            },
            &["rotator"],
            |site| site.vault.always(None),
            "Key Vault",
        )
        .await;
    let put_off = plugged.retried("validator", "requests");
    plugged
        .pulled(
            |site| site.graph.always(Some(GraphFault::Status(503, None))),
            |this| {
                this.retried("validator", "requests") >= put_off + 2.0
                    && this.away("validator", "directory", "Graph", false)
            },
            &["validator"],
            |site| site.graph.always(None),
            "Graph",
        )
        .await;
    plugged
        .pulled(
            |site| site.azurite.pause(),
            |this| {
                this.away("validator", "queue_requests", "no answer within", false)
                    && this.away("rotator", "queue_findings", "no answer within", false)
                    && this.away("notifier", "queue_outcomes", "no answer within", false)
                    && this.away("ingress", "queue_requests", "no answer within", true)
            },
            &["validator", "rotator", "notifier"],
            |site| site.azurite.resume(),
            "Azurite",
        )
        .await;
    let server = |site: &Site, up: bool| {
        let cluster = site.database.cluster();
        if up { cluster.start() } else { cluster.crash() }
    };
    plugged
        .pulled(
            |site| server(site, false),
            |this| ROLES.iter().all(|role| this.away(role, "state", "", false)),
            &ROLES,
            |site| server(site, true),
            "PostgreSQL",
        )
        .await;
    plugged.site.all_are_copied().await;
    plugged.site.nothing_died();
    azure_monitor_is_missed_by_nobody(&plugged).await;
}

/// Devices rotate while log shipping is away, and `doctor` looks at the engines there are.
async fn azure_monitor_is_missed_by_nobody(plugged: &Plugged) {
    let (site, device) = (&plugged.site, &plugged.site.devices[0]);
    let doctor = |state: &str, line: &str| {
        let told = String::from_utf8(site.deployment.keyturn(&["doctor"]).stdout).unwrap();
        assert!(told.lines().any(|told| told.starts_with(state) && told.contains(line)), "{line}: {told}");
        assert!(!told.contains("write-ahead log"), "there is no file to look at: {told}");
    };
    site.logs.always(Some(LogsFault::Unavailable));
    site.vault.always(Some(Fault::Unavailable));
    plugged.until("logs away", |this| this.away("notifier", "logs", "", true)).await;
    doctor("failed  vault", "status 503");
    site.vault.always(None);
    site.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "without logs"]);
    run(device.agent()).await;
    device.invariant_settled(&site.deployment);
    plugged.the_rest_is_well(&[]);
    site.logs.always(None);
    plugged
        .until("logs back", |this| this.asks("notifier", "/readyz").contains("logs (can be waited for): up"))
        .await;
    doctor("ok      vault", "Key Vault answers");
    doctor("ok      audit writable", "a row could be written");
    doctor("ok      vault readable", &site.vault.server.url());
    for taken in ["PostgreSQL: 15", "Key Vault http", "Graph: v1.0, and it takes that"] {
        doctor("ok      api version", taken);
    }
    for who in ["PostgreSQL".to_owned(), site.vault.server.url(), site.graph.server.url()] {
        doctor("ok      service clock", &format!("{who}: its clock and this machine's are 0 s apart"));
    }
}
