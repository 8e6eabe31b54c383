//! The switches lead where they say: this very program is run once more with variables that name fakes, and has to find
//! in them what they stand for; without them it has to say what it skipped.

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

use crate::switches::{CA, CREDENTIAL, DANGER_FAKES, DEVICE, GRAPH, KEY_VAULT, LOGS, RULE};

const TESTS: [(&str, &str); 3] = [
    ("key_vault_keeps_a_version", KEY_VAULT),
    ("graph_knows_a_device", GRAPH),
    ("azure_monitor_would_take_rows", LOGS),
];

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

#[tokio::test(flavor = "multi_thread")]
async fn services_that_are_not_named_are_skipped_by_name() {
    for (test, variable) in TESTS {
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
    for (test, _) in TESTS {
        let output = run(test, &variables).await;
        let told = text(&output);
        assert!(output.status.success() && told.contains("1 passed") && !told.contains("skipped"), "{told}");
    }
    assert_eq!(vault.count(Call::Set), 1, "one version was stored");
    assert!(graph.calls() >= 2 && logs.calls() >= 2, "{} and {} calls", graph.calls(), logs.calls());

    // A failure of what is named is no skip.
    graph.single();
    variables.insert(DEVICE, sample::device(9).to_string());
    let output = run("graph_knows_a_device", &variables).await;
    assert!(!output.status.success() && text(&output).contains("is there once"), "{}", text(&output));
}
