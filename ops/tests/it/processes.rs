//! The roles as separate processes on one database, killed without warning again and again.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyturn_agent::accounts::file::FileAccounts;
use keyturn_agent::accounts::{Accounts as _, Verdict};
use keyturn_agent::identity::Identity;
use keyturn_agent::observer::{Observer, Stage};
use keyturn_agent::settings::{Settings, Timing};
use keyturn_agent::{Agent, Deps};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::RequestId;
use keyturn_domain::label::Label;
use keyturn_domain::password::Password;
use keyturn_schemas::claims::Labels;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_testkit::postgres::{Cluster, TestDatabase};

use crate::deployment::{Deployment, Registration, register};

pub(crate) const ROLES: [&str; 4] = ["ingress", "validator", "rotator", "notifier"];
const DEVICES: usize = 5;
const ROUNDS: usize = 8;

/// Fewer, because each has the server crash too, and begin anew.
const ROUNDS_ON_POSTGRESQL: usize = 4;

/// Fewer, because Azurite is slow: it sorts a queue for every look.
#[cfg(feature = "azurite")]
const ROUNDS_ON_AZURITE: usize = 3;

/// Fewer, because each takes four processes' worth of new connections.
#[cfg(feature = "service-bus")]
const ROUNDS_ON_SERVICE_BUS: usize = 3;

/// One role's process.
pub(crate) struct Role {
    name: &'static str,
    child: Child,
}

/// A device whose agent runs in this process; its account is a file.
pub(crate) struct Device {
    pub(crate) name: String,
    settings: Settings,
    accounts: Arc<FileAccounts>,
    accepted: Arc<Accepted>,
}

/// The messages that were answered with 202.
#[derive(Default)]
struct Accepted(Mutex<Vec<RequestId>>);

impl Observer for Accepted {
    fn reached(&self, stage: Stage) {
        if let Stage::Requested(rid) | Stage::Reported(rid) = stage {
            self.0.lock().unwrap().push(rid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_killed_at_any_moment_lose_nothing() {
    kill_roles_at_any_moment("", ROUNDS, None).await;
}

/// The same on PostgreSQL, whose server crashes in every round too and loses the commits that nobody was told of. A
/// role that starts while the server is away ends, and is started again, as systemd does.
#[tokio::test(flavor = "multi_thread")]
async fn roles_and_server_killed_at_any_moment_lose_nothing_on_postgresql() {
    let database = TestDatabase::on(Cluster::private());
    let state =
        format!("[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n", database.address());
    kill_roles_at_any_moment(&state, ROUNDS_ON_POSTGRESQL, Some(&database)).await;
    let sessions = "SELECT count(DISTINCT application_name) FROM pg_stat_activity \
                    WHERE application_name LIKE 'keyturn-%' AND datname = current_database()";
    for tries in 0.. {
        // The server notices a little later than the role's end.
        if database.sql(sessions) == "0" {
            break;
        }
        assert!(tries < 100, "roles that ended leave connections behind");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_ne!(database.sql("SELECT count(*) FROM effects"), "0", "the state was on this server");
}

/// The same with every hop on Azure Storage, which is a real Azurite.
#[cfg(feature = "azurite")]
#[tokio::test(flavor = "multi_thread")]
async fn roles_killed_at_any_moment_lose_nothing_on_azure_storage() {
    use std::os::unix::fs::PermissionsExt as _;

    use keyturn_testkit::azurite::{ACCOUNT, API_VERSION, Azurite, KEY};

    let azurite = Azurite::start(&[], None).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("account.key");
    std::fs::write(&secret, KEY).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let hops =
        ["requests", "findings", "outcomes", "alarms"].map(|hop| format!("{hop} = \"azure-storage\"\n"));
    let queues = format!(
        "[queues]\n{}[queues.azure_storage]\nendpoint = \"{}\"\naccess = \"key\"\naccount = \"{ACCOUNT}\"\n\
         secret_file = \"{}\"\npoll = \"20ms\"\napi_version = \"{API_VERSION}\"\n",
        hops.concat(),
        azurite.url("http"),
        secret.display(),
    );
    kill_roles_at_any_moment(&queues, ROUNDS_ON_AZURITE, None).await;
}

/// The same with every hop on Service Bus, which is the fake: every connection breaks in between as well.
#[cfg(feature = "service-bus")]
#[tokio::test(flavor = "multi_thread")]
async fn roles_killed_at_any_moment_lose_nothing_on_service_bus() {
    kill_roles_on_service_bus(false).await;
}

/// And with sessions: those that a killed role had are had by the one that takes its place.
#[cfg(feature = "service-bus")]
#[tokio::test(flavor = "multi_thread")]
async fn roles_killed_at_any_moment_lose_nothing_on_service_bus_with_sessions() {
    kill_roles_on_service_bus(true).await;
}

#[cfg(feature = "service-bus")]
async fn kill_roles_on_service_bus(sessions: bool) {
    use std::os::unix::fs::PermissionsExt as _;

    use keyturn_testkit::service_bus::{FakeServiceBus, KEY, POLICY};
    use serde_json::json;

    // Who is killed keeps its locks until they run out, so they are short.
    let queue = json!({ "lockMs": 5000, "maxDelivery": 2000, "dedupMs": 600_000, "sessions": sessions });
    let hops = ["requests", "findings", "outcomes", "alarms"];
    let queues: serde_json::Map<_, _> =
        hops.iter().map(|hop| (format!("keyturn-{hop}"), queue.clone())).collect();
    let fake = FakeServiceBus::start(&queues.into(), None);
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("policy.key");
    std::fs::write(&secret, KEY).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let queues = format!(
        "[queues]\n{}[queues.service_bus]\nendpoint = \"{}\"\naccess = \"key\"\npolicy = \"{POLICY}\"\n\
         secret_file = \"{}\"\nlock = \"5s\"\nsessions = {sessions}\n",
        hops.map(|hop| format!("{hop} = \"service-bus\"\n")).concat(),
        fake.url("amqp"),
        secret.display(),
    );
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (ended, dropping) = (Arc::clone(&over), fake.clone());
    let breaking = std::thread::spawn(move || {
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_secs(3));
            dropping.drop_links();
        }
    });
    kill_roles_at_any_moment(&queues, ROUNDS_ON_SERVICE_BUS, None).await;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    breaking.thread().unpark();
    breaking.join().unwrap();
    for hop in hops {
        let told = fake.look(&format!("keyturn-{hop}"));
        assert_eq!(told["dead"], json!([]), "{hop}");
        assert_eq!(told["sent"] != 0, hop != "alarms", "{hop} went over the fake: {told}");
    }
}

async fn kill_roles_at_any_moment(state: &str, rounds: usize, server: Option<&TestDatabase>) {
    build();
    let deployment = Deployment::init();
    let address = free_address();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{address}\"\n[workers]\nlease = \"1s\"\nfirst_delay = \"50ms\"\nmax_deliveries = 1000\n\
         [rotation]\nversions_per_day = 1000\n{state}"
    ));
    deployment.make_tables();
    let devices: Vec<Device> = (0..DEVICES).map(|number| install(&deployment, number, address)).collect();
    let mut roles: Vec<Role> = ROLES.iter().map(|name| Role::start(name, &deployment)).collect();

    let mut kills = 0;
    for round in 0..rounds {
        let mut agents = tokio::task::JoinSet::new();
        for device in &devices {
            agents.spawn(run(device.agent()));
        }
        // So many and no more: on a busy machine a role may take longer to start than to be killed again.
        let mut victims = 10;
        let mut crash_before = server.map(|_| 5);
        while !agents.is_empty() {
            tokio::select! {
                ended = agents.join_next() => ended.unwrap().unwrap(),
                () = tokio::time::sleep(Duration::from_millis(u64::from(random(60)) + 2)), if victims > 0 => {
                    if crash_before.take_if(|victim| *victim == victims).is_some() {
                        crash(server.unwrap());
                        // One that was just starting found no server, and has ended or is about to.
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        restart_ended(&mut roles, &deployment);
                    }
                    let victim = usize::try_from(random(4)).unwrap();
                    roles[victim].kill_and_restart(&deployment);
                    if server.is_some() {
                        restart_ended(&mut roles, &deployment);
                    }
                    kills += 1;
                    victims -= 1;
                }
            }
        }
        for device in &devices {
            device.invariant_shown(&deployment, round);
            deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
        }
    }
    assert!(kills >= rounds, "{kills} kills prove little");
    for device in &devices {
        let outcome = device.agent().once().await.unwrap();
        assert!(outcome.is_success(), "{outcome}");
        device.invariant_settled(&deployment);
    }
    assert!(
        server.is_none_or(|server| server.sql("SELECT count(*) FROM events") != "0"),
        "it is on the server"
    );
    nothing_is_lost(&deployment, &devices, rounds).await;
    older_versions_are_shown_on_request(&deployment, &devices[0], rounds);
    for mut role in roles {
        role.end();
    }
}

/// As a service manager does.
fn restart_ended(roles: &mut [Role], deployment: &Deployment) {
    for role in roles {
        role.restart_if_ended(deployment);
    }
}

/// The server goes as it does in a power loss, and comes back.
fn crash(server: &TestDatabase) {
    server.cluster().crash();
    server.cluster().start();
}

/// Runs an agent as its service does: again until it has rotated, whatever happens to the server.
pub(crate) async fn run(agent: Agent) {
    for _ in 0..40 {
        if agent.once().await.is_ok_and(|outcome| outcome.is_success()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the agent never succeeded");
}

/// What a device had before is shown one by one, and a closed lane's candidates only that way.
fn older_versions_are_shown_on_request(deployment: &Deployment, device: &Device, rounds: usize) {
    let history = deployment.ok(&["--output", "json", "device", "history", &device.name]);
    let versions: Vec<serde_json::Value> = serde_json::from_str(&history).unwrap();
    assert!(versions.len() > rounds, "{history}");
    assert!(versions[0]["state"].as_str().unwrap().starts_with("confirmed"), "{history}");
    let (oldest, lane) =
        (versions.last().unwrap()["version"].as_str().unwrap(), versions[0]["lane"].as_str().unwrap());
    let look = ["reveal", &device.name, "--reason", "old backup"];
    let shown = deployment.ok(&[&look[..], &["--version", oldest]].concat());
    assert!(shown.ends_with("older\n") && !device.accepts(shown.split('\t').nth(1).unwrap()), "{shown}");
    deployment.ok(&["device", "close-lane", &device.name, "--lane", lane, "--reason", "scrapped"]);
    assert_eq!(deployment.keyturn(&look).status.code(), Some(3));
    assert!(deployment.ok(&["device", "show", &device.name]).contains("closed"));
    deployment.ok(&[&look[..], &["--version", oldest]].concat());
    let export = deployment.ok(&["audit", "export", "--since", "2026-01-01T00:00:00Z"]);
    let rows: Vec<serde_json::Value> =
        export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let looked = |row: &&serde_json::Value| row["Action"] == "SecretGet" && row["Reason"] == "old backup";
    let look_row = rows.iter().find(looked).unwrap();
    assert_eq!(
        (look_row["ComputerName"].as_str(), look_row["Result"].as_str()),
        (Some(device.name.as_str()), Some("Success"))
    );
    let events = deployment.ok(&["events", "export"]);
    let rotated =
        events.lines().filter(|line| line.contains("\"PasswordRotationResult\":\"PasswordRotated\""));
    assert!(rotated.count() > rounds * DEVICES, "{events}");
    assert_eq!(deployment.ok(&["audit", "export", "--since", "2999-01-01T00:00:00Z"]), "");
    let audit = deployment.ok(&["audit", "list"]);
    assert!(audit.contains("lane closed") && audit.contains("old backup"), "{audit}");
}

async fn nothing_is_lost(deployment: &Deployment, devices: &[Device], rounds: usize) {
    let engines = Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap();
    let accepted: Vec<RequestId> =
        devices.iter().flat_map(|device| device.accepted.0.lock().unwrap().clone()).collect();
    assert!(accepted.len() >= DEVICES * rounds * 2);
    for rid in accepted {
        let mut tries = 0;
        while engines.result_reader().result(rid).await.unwrap().is_none() {
            tries += 1;
            assert!(tries < 200, "the acknowledged message {rid} has no result");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let queues: serde_json::Value =
        serde_json::from_str(&deployment.ok(&["--output", "json", "queues"])).unwrap();
    assert!(queues.as_array().unwrap().iter().all(|queue| queue["dead"] == 0), "{queues}");
}

impl Role {
    pub(crate) fn start(name: &'static str, deployment: &Deployment) -> Self {
        Self::answering(name, deployment, "off")
    }

    /// One that answers health questions at this address.
    pub(crate) fn answering(name: &'static str, deployment: &Deployment, health: &str) -> Self {
        let child = Command::new(binary(&format!("keyturn-{name}")))
            .arg("--config")
            .arg(deployment.config())
            .args(["--health", health])
            .envs(deployment.variables.iter().cloned())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { name, child }
    }

    fn restart_if_ended(&mut self, deployment: &Deployment) {
        if self.child.try_wait().unwrap().is_some() {
            *self = Self::start(self.name, deployment);
        }
    }

    pub(crate) fn kill_and_restart(&mut self, deployment: &Deployment) {
        assert!(self.child.try_wait().unwrap().is_none(), "{} ended by itself", self.name);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::start(self.name, deployment);
    }

    /// Ends the role as systemd does, and expects it to end well.
    pub(crate) fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{} does not end cleanly on SIGTERM", self.name);
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Already gone, unless the test failed half-way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Device {
    pub(crate) fn agent(&self) -> Agent {
        self.agent_waiting(self.settings.wait)
    }

    /// An agent that waits no longer than this for its result.
    pub(crate) fn agent_waiting(&self, wait: Duration) -> Agent {
        let deps = Deps::system(Arc::clone(&self.accounts) as _).observed(Arc::clone(&self.accepted) as _);
        Agent::new(Settings { wait, ..self.settings.clone() }, deps).unwrap()
    }

    /// The same device from a copy of its disk that was made before its first check-in: its key, and nothing else.
    pub(crate) fn cloned(&self, deployment: &Deployment) -> Self {
        let state = deployment.path(&format!("devices/{}-clone", self.name));
        std::fs::create_dir_all(&state).unwrap();
        let accounts = accounts(&state);
        let settings = Settings { state, ..self.settings.clone() };
        Self { name: self.name.clone(), settings, accounts: Arc::new(accounts), accepted: Arc::default() }
    }

    /// The messages that were answered with 202.
    pub(crate) fn accepted(&self) -> Vec<RequestId> {
        self.accepted.0.lock().unwrap().clone()
    }

    pub(crate) fn id(&self) -> keyturn_domain::ids::DeviceId {
        self.settings.device
    }

    /// What a reveal shows now.
    pub(crate) fn shown(&self, deployment: &Deployment) -> Vec<(String, String)> {
        let printed = deployment.ok(&["--output", "json", "reveal", &self.name, "--reason", "test"]);
        let rows: Vec<serde_json::Value> = serde_json::from_str(&printed).unwrap();
        let field = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_owned();
        rows.iter().map(|row| (field(row, "standing"), field(row, "password"))).collect()
    }

    pub(crate) fn accepts(&self, password: &str) -> bool {
        matches!(self.accounts.verify(&Password::new(password.to_owned())), Ok(Verdict::Accepted))
    }

    pub(crate) fn invariant_shown(&self, deployment: &Deployment, round: usize) {
        let shown = self.shown(deployment);
        assert!(shown.iter().any(|(_, password)| self.accepts(password)), "{} in round {round}", self.name);
    }

    pub(crate) fn invariant_settled(&self, deployment: &Deployment) {
        for _ in 0..100 {
            let shown = self.shown(deployment);
            if shown.len() == 1 && shown[0].0 == "confirmed" && self.accepts(&shown[0].1) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        panic!("{} does not settle", self.name);
    }
}

fn accounts(state: &std::path::Path) -> FileAccounts {
    FileAccounts::new(
        state.join("account.json"),
        Label::parse("localadmin").unwrap(),
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
    )
    .danger_iterations(NonZeroU32::MIN)
}

pub(crate) fn install(deployment: &Deployment, number: usize, address: SocketAddr) -> Device {
    let name = format!("LAB-{number:02}");
    let Registration { id, key, certificate } = register();
    let registration = Registration { id, key, certificate };
    deployment.add(&registration, &name);
    let root = std::fs::read_to_string(deployment.path("data/root.pub.json")).unwrap();
    let identity = Identity::from_der(&registration.certificate, &registration.key).unwrap();
    let state = deployment.path(&format!("devices/{name}"));
    std::fs::create_dir_all(&state).unwrap();
    let accounts = accounts(&state);
    let timing = Timing {
        gap: Duration::from_millis(5),
        retry: Duration::from_millis(20),
        unknown_post: Duration::from_secs(3),
        long_poll: Duration::from_secs(2),
        ..Timing::default()
    };
    let settings = Settings {
        server: format!("http://{address}").parse().unwrap(),
        ca: None,
        proxy: None,
        deployment: "test".parse().unwrap(),
        root: serde_json::from_str(&root).unwrap(),
        device: id,
        identity: Arc::new(identity),
        state,
        labels: Labels::default(),
        machine: None,
        create_account: true,
        wait: Duration::from_mins(1),
        check_in: Duration::from_secs(5),
        splay: Duration::ZERO,
        timing,
    };
    Device { name, settings, accounts: Arc::new(accounts), accepted: Arc::default() }
}

/// Builds the roles' binaries: this package's tests do not depend on them. With the same features as the tests of
/// the whole workspace, so that nothing is built twice.
pub(crate) fn build() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--offline", "--workspace", "--bins", "--tests"]);
    assert!(command.status().unwrap().success());
}

/// A program beside this package's own.
pub(crate) fn binary(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_keyturn")).with_file_name(name)
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn random(bound: u32) -> u32 {
    let entropy: &dyn Entropy = &SystemEntropy;
    entropy.below(bound)
}
