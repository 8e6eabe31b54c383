//! The adapters against real resources, named by the environment (docs/AZURE-LIVE.md). One that is not named is skipped,
//! and says so. `proof.rs` names fakes by the same variables, so that the way there is tested too.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skipped"
)]

mod proof;
mod switches;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use keyturn_azure::graph::{GraphDirectory, Keep};
use keyturn_azure::key_vault::KeyVault;
use keyturn_azure::logs::LogsIngestion;
use keyturn_azure::pace::{Limit, Shared};
use keyturn_azure::service_bus::{Namespace, SessionSettings};
use keyturn_azure::storage_queues::{Access, Endpoint};
use keyturn_azure::{Attempts, Reach, ServiceBus, StorageQueues, service_bus};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::directory::Directory as _;
use keyturn_ports::queue::{Queue, QueueName, Settlement};
use keyturn_ports::vault::{NewVersion, Sought, Tags, Vault as _, VaultReader as _};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::{Subject, queue as suite};
use tempfile::TempDir;

use self::switches::Switches;

const LEASE: Duration = Duration::from_mins(1);

const ATTEMPTS: Attempts =
    Attempts { most: 5, first_delay: Duration::from_millis(200), max_delay: Duration::from_secs(5) };

/// Says that a test did nothing, and why.
fn skipped(variable: &str) {
    println!("skipped: {variable} is not set, see docs/AZURE-LIVE.md");
}

fn reach(switches: &Switches) -> Reach {
    let ca = switches.ca.as_ref().map(|file| fs::read(file).unwrap());
    Reach { timeout: Duration::from_secs(30), ca, proxy: None }
}

fn credential(switches: &Switches) -> Arc<dyn TokenCredential> {
    switches.credential.open(&reach(switches)).unwrap()
}

fn random<const N: usize>() -> [u8; N] {
    (&SystemEntropy as &dyn Entropy).bytes()
}

/// A state of its own, for what queues and the vault keep there.
fn state() -> (Database, TempDir) {
    let folder = TempDir::new().unwrap();
    let options =
        OpenOptions::new(folder.path().join("keyturn.db"), Arc::new(SystemClock), Arc::new(SystemEntropy));
    (Database::open(options).unwrap(), folder)
}

/// Cases of the suite of queues that ask for no other time: a service's clock is its own.
async fn queues_keep_their_contract<S: Subject<Engine: Queue>>() {
    suite::queues_are_apart(&S::fresh().await).await;
    suite::at_most_max_are_leased(&S::fresh().await).await;
    suite::completing_twice_is_void(&S::fresh().await).await;
    suite::strange_receipts_are_void(&S::fresh().await).await;
    suite::a_release_does_not_count(&S::fresh().await).await;
    suite::forwards_come_with_the_completion(&S::fresh().await).await;
    suite::arrival_resolves_when_a_message_is_sent(&S::fresh().await).await;
}

/// Queues of Azure Storage, each case under a prefix of its own.
struct Storage {
    queues: StorageQueues,
    clock: ManualClock,
    _folder: TempDir,
}

impl Subject for Storage {
    type Engine = StorageQueues;

    async fn fresh() -> Self {
        let switches = Switches::of_environment();
        let (address, version) = switches.storage.clone().unwrap();
        let prefix = format!("keyturn-live-{:08x}-", u32::from_le_bytes(random()));
        let mut endpoint = Endpoint::new(&address, &prefix).unwrap();
        endpoint.api_version = version;
        let access = Access::Token { credential: credential(&switches), reach: reach(&switches) };
        let (state, folder) = state();
        let queues = StorageQueues::new(&endpoint, &access, Arc::new(state), Arc::new(SystemClock)).unwrap();
        Self { queues, clock: ManualClock::default(), _folder: folder }
    }

    fn engine(&self) -> &StorageQueues {
        &self.queues
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

/// Queues of Service Bus, which are emptied before each case.
struct Bus {
    queues: ServiceBus,
    clock: ManualClock,
    _folder: TempDir,
}

impl Subject for Bus {
    type Engine = ServiceBus;

    async fn fresh() -> Self {
        let switches = Switches::of_environment();
        let (namespace, prefix, required) = switches.service_bus.clone().unwrap();
        let sessions = SessionSettings { held: 8, idle: Duration::from_millis(100) };
        let sessions = required.then_some(sessions);
        let settings = service_bus::Settings {
            namespace: Namespace::parse(&namespace).unwrap(),
            prefix,
            wait: Duration::from_secs(2),
            linger: Duration::from_millis(500),
            poll: Duration::from_secs(2),
            parallel: 16,
            attempts: ATTEMPTS,
            timeout: Duration::from_secs(30),
            refresh: Duration::from_mins(4),
            sessions,
            counted: 250,
            sweep: Duration::from_mins(1),
            ca: reach(&switches).ca,
        };
        let (state, folder) = state();
        let access = service_bus::Access::Token(credential(&switches));
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let queues = ServiceBus::new(settings, access, Arc::new(state), clock, entropy).unwrap();
        for queue in QueueName::ALL {
            queues.agrees(queue).await.unwrap();
            empty(&queues, queue).await;
        }
        Self { queues, clock: ManualClock::default(), _folder: folder }
    }

    fn engine(&self) -> &ServiceBus {
        &self.queues
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

/// Takes everything off a queue; what a case before has leased is waited for.
async fn empty(queues: &ServiceBus, queue: QueueName) {
    for _ in 0..200 {
        if queues.depth(queue).await.unwrap().total == 0 {
            return;
        }
        let leased = queues.lease(queue, 32, LEASE).await.unwrap();
        let settled = leased.into_iter().map(|one| (one.receipt, Settlement::Complete)).collect();
        queues.settle(queue, settled, Vec::new()).await.unwrap();
    }
    panic!(
        "{queue} does not get empty: does somebody else use it, or is its lock duration longer than a few seconds?"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_queues_keep_their_contract() {
    match Switches::of_environment().storage {
        Some(_) => Box::pin(queues_keep_their_contract::<Storage>()).await,
        None => skipped(switches::STORAGE),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_bus_keeps_its_contract() {
    match Switches::of_environment().service_bus {
        Some(_) => Box::pin(queues_keep_their_contract::<Bus>()).await,
        None => skipped(switches::BUS),
    }
}

/// A version of a device that nobody has is stored once, found, read, and listed.
#[tokio::test(flavor = "multi_thread")]
async fn key_vault_keeps_a_version() {
    let switches = Switches::of_environment();
    let Some(url) = switches.key_vault.clone() else { return skipped(switches::KEY_VAULT) };
    let (state, _folder) = state();
    let limit = Limit {
        calls: 300,
        window: Duration::from_secs(10),
        slack: Duration::from_millis(400),
        lease: 4,
        patience: Duration::from_secs(10),
    };
    let settings = keyturn_azure::key_vault::Settings {
        urls: vec![url],
        read_urls: Vec::new(),
        danger_unverified_challenge: switches.fakes,
        attempts: ATTEMPTS,
        parallel: 4,
    };
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let pace = Arc::new(Shared::new(Arc::new(state), limit));
    let vault = KeyVault::open(&settings, &reach(&switches), &credential(&switches), pace, &entropy).unwrap();
    let (device, request) = (DeviceId::from_bytes(random()), RequestId(random()));
    let (version, lane) = (VersionId(random()), LaneId(random()));
    let minted = || NewVersion {
        request,
        version,
        lane,
        password: Password::new("canary of docs/AZURE-LIVE.md".to_owned()),
        tags: Tags {
            user_name: "Administrator".to_owned(),
            device,
            device_name: "KEYTURN-LIVE".to_owned(),
            serial_number: "0".to_owned(),
        },
    };
    let sought = || vec![Sought { device, request }];
    assert!(vault.find(sought()).await.remove(0).unwrap().is_none());
    let stored = vault.put(vec![minted()]).await.remove(0).unwrap();
    let again = vault.put(vec![minted()]).await.remove(0).unwrap();
    assert_eq!(stored, again, "a repeated put finds the first");
    assert_eq!(vault.find(sought()).await.remove(0).unwrap(), Some(stored.clone()));
    assert_eq!(vault.history(device).await.unwrap(), std::slice::from_ref(&stored));
    let read = vault.read(lane, version, &stored.vault_ref).await.unwrap().unwrap();
    assert_eq!(read.expose(), "canary of docs/AZURE-LIVE.md");
    println!("stored as {}", stored.vault_ref);
}

/// A device that is there is found with its keys, and one that is not is known not to be.
#[tokio::test(flavor = "multi_thread")]
async fn graph_knows_a_device() {
    let switches = Switches::of_environment();
    let Some((url, device)) = switches.graph.clone() else { return skipped(switches::GRAPH) };
    let none = Duration::ZERO;
    let keep = Keep { known: none, unknown: none, unfed: none, uses: 1, entries: 10 };
    let settings = keyturn_azure::graph::Settings { url, attempts: ATTEMPTS, parallel: 4, keep, feed: None };
    // Where a feed would be filed.
    let (roster, _folder) = state();
    let ambient: (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let (reach, credential) = (reach(&switches), credential(&switches));
    let roster = Arc::new(roster);
    let directory = GraphDirectory::open(settings, [].into(), &reach, credential, roster, ambient).unwrap();
    let nobody = DeviceId::from_bytes(random());
    let mut answers = directory.look_up(vec![device, nobody]).await;
    assert_eq!(answers.pop().unwrap().unwrap().records, []);
    let found = answers.pop().unwrap().unwrap().records;
    let [record] = found.as_slice() else { panic!("{device} is there once: {found:?}") };
    assert_eq!(record.device_id, device);
    assert!(record.account_enabled.is_some(), "it says whether it is enabled");
}

/// Both streams would take rows. None is sent, since none can be taken back.
#[tokio::test(flavor = "multi_thread")]
async fn azure_monitor_would_take_rows() {
    let switches = Switches::of_environment();
    let Some((endpoint, rule)) = switches.logs.clone() else { return skipped(switches::LOGS) };
    let settings = keyturn_azure::logs::Settings {
        endpoint,
        audience: "https://monitor.azure.com".parse().unwrap(),
        rule,
        attempts: ATTEMPTS,
        batch_bytes: 900_000,
        compress: true,
    };
    let logs =
        LogsIngestion::open(settings, &reach(&switches), credential(&switches), Arc::new(SystemEntropy))
            .unwrap();
    for stream in ["Custom-CloudLAPSAudit_CL", "Custom-CloudLAPSClient_CL"] {
        logs.probe(&stream.parse().unwrap()).await.unwrap();
    }
}
