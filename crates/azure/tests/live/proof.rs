//! The switches lead where they say: this very program is run once more with variables that name fakes, and has to find
//! in them what they stand for; without them it has to say what it skipped. For the queues of Storage it is a real Azurite
//! (`./test azurite`), for those of Service Bus the fake (`./test service-bus`), both over TLS and by tokens.

use std::collections::BTreeMap;
use std::fs;
use std::process::Output;
use std::sync::Arc;

use keyturn_domain::ambient::SystemClock;
use keyturn_ports::directory::DeviceRecord;
use keyturn_testkit::azure::graph::FakeGraph;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault};
use keyturn_testkit::azure::logs::{self, FakeLogs};
use keyturn_testkit::conformance::sample;

use crate::switches::{BUS, CA, CREDENTIAL, DANGER_FAKES, DEVICE, GRAPH, KEY_VAULT, LOGS, RULE, STORAGE};

const ON_FAKES: [(&str, &str); 3] = [
    ("key_vault_keeps_a_version", KEY_VAULT),
    ("graph_knows_a_device", GRAPH),
    ("azure_monitor_would_take_rows", LOGS),
];

const OF_QUEUES: [(&str, &str); 2] =
    [("storage_queues_keep_their_contract", STORAGE), ("service_bus_keeps_its_contract", BUS)];

/// Runs one test of this program with these variables and no other of ours.
async fn run(test: &str, variables: &BTreeMap<&str, String>) -> Output {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    let live = std::env::vars_os().map(|(name, _)| name);
    for name in live.filter(|name| name.to_string_lossy().starts_with("KEYTURN_LIVE_")) {
        command.env_remove(name);
    }
    command.envs(variables).kill_on_drop(true).output().await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// It was run, and skipped nothing.
async fn succeeds(test: &str, variables: &BTreeMap<&str, String>) {
    let output = run(test, variables).await;
    let told = text(&output);
    assert!(output.status.success() && told.contains("1 passed") && !told.contains("skipped"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_not_named_are_skipped_by_name() {
    for (test, variable) in ON_FAKES.into_iter().chain(OF_QUEUES) {
        let output = run(test, &BTreeMap::new()).await;
        let told = text(&output);
        assert!(
            output.status.success() && told.contains(&format!("skipped: {variable} is not set")),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_named_are_asked() {
    let (vault, graph) = (FakeKeyVault::start(Arc::new(SystemClock)).await, FakeGraph::start().await);
    let template = serde_json::from_str(include_str!("../../../../infra/azure/logs.json")).unwrap();
    let (logs, identity) = (FakeLogs::start(&template).await, ManagedIdentity::start().await);
    graph.add(&DeviceRecord {
        device_id: sample::device(1),
        display_name: Some("LAB-07".to_owned()),
        account_enabled: Some(true),
        trust_type: Some("AzureAd".to_owned()),
        alternative_security_ids: Vec::new(),
        operating_system: None,
        groups: None,
    });
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, format!("{}{}{}", vault.server.ca, graph.server.ca, logs.server.ca)).unwrap();
    let mut variables = BTreeMap::from([
        (KEY_VAULT, vault.server.url().clone()),
        (GRAPH, graph.server.url().clone()),
        (DEVICE, sample::device(1).to_string()),
        (LOGS, logs.server.url().clone()),
        (RULE, logs::RULE.to_owned()),
        (CREDENTIAL, "managed-identity".to_owned()),
        (CA, ca.display().to_string()),
        (DANGER_FAKES, "true".to_owned()),
    ]);
    variables.extend(identity.variables());
    for (test, _) in ON_FAKES {
        succeeds(test, &variables).await;
    }
    assert_eq!(vault.count(Call::Set), 1, "one version was stored");
    assert!(graph.calls() >= 2 && logs.calls() >= 2, "{} and {} calls", graph.calls(), logs.calls());

    // A failure of what is named is no skip.
    graph.single();
    variables.insert(DEVICE, sample::device(9).to_string());
    let output = run("graph_knows_a_device", &variables).await;
    assert!(!output.status.success() && text(&output).contains("is there once"), "{}", text(&output));
}

/// A server for the queues, over TLS and by tokens of a managed identity.
#[cfg(any(feature = "azurite", feature = "service-bus"))]
struct Queues {
    folder: tempfile::TempDir,
    _identity: ManagedIdentity,
    variables: BTreeMap<&'static str, String>,
}

#[cfg(any(feature = "azurite", feature = "service-bus"))]
impl Queues {
    /// What it takes for a server, whose certificate and key are in the files `cert.pem` and `key.pem`.
    async fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

        let (folder, identity) = (tempfile::tempdir().unwrap(), ManagedIdentity::start().await);
        let [key, own] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = folder.path().join("ca.pem");
        fs::write(&ca, authority.self_signed(&key).unwrap().pem()).unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &Issuer::new(authority, key)).unwrap();
        fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), own.serialize_pem()).unwrap();
        let mut variables =
            BTreeMap::from([(CREDENTIAL, "managed-identity".to_owned()), (CA, ca.display().to_string())]);
        variables.extend(identity.variables());
        Self { folder, _identity: identity, variables }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A server that does not want these tokens is no skip, and no success.
    async fn refuses_without_a_token(mut self, test: &str) {
        self.variables.insert("IDENTITY_HEADER", "another".to_owned());
        let output = run(test, &self.variables).await;
        let told = text(&output);
        assert!(!output.status.success() && told.contains("no token "), "{told}");
    }
}

#[cfg(feature = "azurite")]
#[tokio::test(flavor = "multi_thread")]
async fn storage_is_tried_on_azurite() {
    use keyturn_testkit::azurite::{API_VERSION, Azurite};

    let mut queues = Queues::new().await;
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| queues.file(name).display().to_string());
    let azurite = Azurite::start(&["--oauth", "basic", "--cert", &cert, "--key", &key], None).await;
    queues.variables.insert(STORAGE, azurite.url("https"));
    queues.variables.insert(crate::switches::STORAGE_VERSION, API_VERSION.to_owned());
    let (test, _) = OF_QUEUES[0];
    succeeds(test, &queues.variables).await;
    queues.refuses_without_a_token(test).await;
}

#[cfg(feature = "service-bus")]
#[tokio::test(flavor = "multi_thread")]
async fn service_bus_is_tried_on_the_fake() {
    use keyturn_testkit::service_bus::{Certificate, FakeServiceBus};
    use serde_json::json;

    for sessions in [false, true] {
        let mut queues = Queues::new().await;
        // As docs/AZURE-LIVE.md has them made.
        let given = json!({ "lockMs": 5_000, "maxDelivery": 2000, "sessions": sessions });
        let names = ["requests", "findings", "outcomes", "alarms"].map(|name| format!("keyturn-live-{name}"));
        let all: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), given.clone())).collect();
        let tls = Certificate { certificate: queues.file("cert.pem"), key: queues.file("key.pem") };
        let fake = FakeServiceBus::start(&all.into(), Some(&tls));
        queues.variables.insert(BUS, fake.url("sb"));
        queues.variables.insert(crate::switches::BUS_SESSIONS, sessions.to_string());
        let (test, _) = OF_QUEUES[1];
        succeeds(test, &queues.variables).await;
        let sent: u64 = names.iter().map(|name| fake.look(name)["sent"].as_u64().unwrap()).sum();
        assert!(sent >= 7, "each case sent something: {sent}");
        queues.refuses_without_a_token(test).await;
    }
}
