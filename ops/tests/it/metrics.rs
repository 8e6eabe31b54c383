//! docs/METRICS.md is true of the code and of running roles, and dashboards and alerts name nothing else; every alert has
//! a runbook and a test of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::deployment::Deployment;
use crate::processes::{ROLES, Role, build, free_address, install};

/// What the table says of a metric.
#[derive(Debug, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
}

type Table = BTreeMap<String, Metric>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
        if entry.is_dir() && !["target", "tests", ".git", "fuzz"].contains(&name.as_str()) {
            sources(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&entry).unwrap());
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The rows that begin with a metric's name.
fn table() -> Table {
    let text = read("docs/METRICS.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let (name, kind, labels) = (cells.next()?.trim_end_matches('`'), cells.next()?, cells.next()?);
        let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
        Some((name.to_owned(), Metric { kind: kind.to_owned(), labels: labels.map(str::to_owned).collect() }))
    });
    let rows: Vec<_> = rows.collect();
    let table: Table = rows.into_iter().collect();
    assert!(table.len() >= 40, "there is a table: {table:?}");
    table
}

/// What the code counts: names in the macros of `metrics`, with the macro's kind.
fn counted(code: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for call in code.split("metrics::").skip(1) {
        let Some((kind, rest)) = call.split_once("!(") else { continue };
        let kind = match kind {
            "counter" | "gauge" | "histogram" => kind,
            _ => continue,
        };
        if let Some(name) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()) {
            found.entry(name.to_owned()).or_default().insert(kind.to_owned());
        }
    }
    found
}

#[test]
fn the_table_is_what_the_code_counts() {
    let (table, mut code) = (table(), String::new());
    sources(&root(), &mut code);
    let counted = counted(&code);
    assert!(counted.len() >= 35, "{counted:?}");
    for (name, kinds) in &counted {
        let metric = table.get(name).unwrap_or_else(|| panic!("{name} is not in docs/METRICS.md"));
        assert_eq!(kinds.iter().collect::<Vec<_>>(), [&metric.kind], "{name}");
    }
    for (name, metric) in &table {
        // Three gauges are set in a loop over their names.
        let looped = metric.kind == "gauge" && code.contains(&format!("(\"{name}\", depth."));
        assert!(counted.contains_key(name) || looped, "{name} is in docs/METRICS.md and nowhere counted");
        for label in ["device", "request", "actor", "lane_id", "user"] {
            assert!(!metric.labels.contains(label), "{name} has as many series as there are devices");
        }
    }
}

/// Words of a query that are names of metrics or labels.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The labels that a query names: in matchers, and after `by`, `on` and the like.
fn labels_of(query: &str) -> BTreeSet<String> {
    let matchers = query.split('{').skip(1).map(|rest| rest.split('}').next().unwrap());
    let matched = matchers.flat_map(|all| all.split(',')).filter_map(|one| one.split(['=', '!']).next());
    let grouped = ["by (", "on (", "without (", "ignoring ("]
        .into_iter()
        .flat_map(|by| query.split(by).skip(1).flat_map(|rest| rest.split(')').next().unwrap().split(',')));
    matched.chain(grouped).map(|label| label.trim().to_owned()).collect()
}

/// The metric that a series is of: a histogram is told in three.
fn base<'a>(series: &'a str, table: &Table) -> &'a str {
    let ends = ["_bucket", "_sum", "_count"].into_iter().filter_map(|end| series.strip_suffix(end));
    let mut of_histogram =
        ends.filter(|name| table.get(*name).is_some_and(|metric| metric.kind == "histogram"));
    of_histogram.next().unwrap_or(series)
}

/// Fails unless the query names metrics of the table, and labels that those have.
fn check_query(query: &str, shown: &str, table: &Table) {
    let ours = |word: &&str| word.starts_with("keyturn_") || word.starts_with("messaging_");
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let (labels, mut metrics) = (labels_of(query), 0);
    for word in words(query).filter(ours).filter(|word| !labels.contains(*word)) {
        let metric = table
            .get(base(word, table))
            .unwrap_or_else(|| panic!("{word} of «{query}» is not in docs/METRICS.md"));
        known.extend(metric.labels.iter().map(String::as_str));
        known.extend(word.ends_with("_bucket").then_some("le"));
        metrics += 1;
    }
    assert!(metrics > 0, "«{query}» asks for nothing of ours");
    for label in &labels {
        assert!(known.contains(label.as_str()), "«{query}»: no metric in it has the label {label}");
    }
    // What is shown of the result is what it is grouped by.
    for label in shown.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim()) {
        let label = label.strip_prefix("$labels.").unwrap_or(label);
        let value = label.starts_with("$value");
        assert!(value || labels.contains(label), "«{query}» has no label {label} to show");
    }
}

#[test]
fn dashboards_ask_for_what_there_is() {
    let (table, dashboard) = (table(), read("infra/grafana/keyturn.json"));
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = parsed["panels"].as_array().unwrap();
    assert!(panels.len() >= 20);
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(places.insert(panel["gridPos"].to_string()) && panel["title"].is_string(), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            check_query(target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap(), &table);
        }
    }
}

#[test]
fn every_alert_has_a_query_a_runbook_and_a_test() {
    let (table, alerts) = (table(), read("infra/prometheus/alerts.yaml"));
    let tests = read("infra/prometheus/alerts_test.yaml");
    let rules: Vec<&str> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() >= 20);
    for rule in rules {
        let name = rule.lines().next().unwrap();
        let query: Vec<&str> = rule
            .lines()
            .skip_while(|line| !line.contains("expr:"))
            .skip(1)
            .take_while(|line| !line.contains("for:"))
            .collect();
        let said = |key: &str| rule.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
        check_query(&query.join(" "), said("summary:"), &table);
        let runbook = said("runbook_url: ");
        let text = read(runbook);
        assert!(text.contains(&format!("`{name}`")), "{runbook} does not name {name}");
        assert!(["page", "ticket"].contains(&said("severity: ")), "{name}");
        let raised = format!("alertname: {name}\n        exp_alerts:\n          - exp_labels:");
        let quiet = format!("alertname: {name}, exp_alerts: []");
        for case in [raised, quiet] {
            assert!(tests.contains(&case), "{name} has no such test: {case}");
        }
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// What a role tells: the kind of each metric, and every set of labels that one of its series has.
fn told(text: &str, into: &mut BTreeMap<String, (String, BTreeSet<BTreeSet<String>>)>) {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
            continue;
        }
        let Some((series, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| kinds.get(base) == Some(&"histogram"));
        let name = base.unwrap_or(name);
        let Some(kind) = kinds.get(name) else { continue };
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels = labels.map(|(label, _)| label.to_owned()).filter(|label| label != "le").collect();
        let entry = into.entry(name.to_owned()).or_insert_with(|| ((*kind).to_owned(), BTreeSet::new()));
        entry.1.insert(labels);
    }
}

/// What only happens when something is slow, is old, or goes wrong: the tests of the code that counts it see to it.
const RARE: [&str; 17] = [
    "keyturn_alarm_deliveries_total",
    "keyturn_alarms_total",
    // Only beside a queue on Azure.
    "keyturn_dead_letters_adopted_total",
    // Only where the directory has a feed.
    "keyturn_directory_changes_total",
    "keyturn_directory_feed_failures_total",
    "keyturn_directory_feed_read_timestamp_seconds",
    "keyturn_directory_feed_restarts_total",
    "keyturn_keys_reloaded_total",
    "keyturn_lease_renewals_total",
    // The test of shipping has an Azure Monitor.
    "keyturn_log_failures_total",
    "keyturn_log_lag_seconds",
    "keyturn_log_rows_shipped_total",
    "keyturn_log_rows_waiting",
    "keyturn_rows_forgotten_total",
    // The test of tracing has a collector.
    "keyturn_spans_dropped_total",
    "keyturn_spans_exported_total",
    // Only on Key Vault.
    "keyturn_vault_copies_total",
];

/// Four processes, two devices of which one is disabled, a look at a password, and a request that nobody understands.
#[tokio::test(flavor = "multi_thread")]
async fn running_roles_tell_what_the_table_says() {
    build();
    let deployment = Deployment::init();
    let address = free_address();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{address}\"\n[health]\nfleet_every = \"1s\"\n[retention]\nevery = \"1s\"\n"
    ));
    let devices = [0, 1].map(|number| install(&deployment, number, address));
    let scraped = ROLES.map(|_| free_address());
    let mut roles: Vec<Role> = ROLES
        .iter()
        .zip(scraped)
        .map(|(name, health)| Role::answering(name, &deployment, &health.to_string()))
        .collect();
    for health in scraped {
        while get(health, "/readyz").is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(devices[0].agent().once().await.unwrap().is_success());
    deployment.ok(&["device", "disable", &devices[1].name, "--reason", "stolen"]);
    let refused = devices[1].agent_waiting(Duration::from_secs(5)).once().await;
    assert!(!refused.is_ok_and(|outcome| outcome.is_success()));
    deployment.ok(&["reveal", &devices[0].name, "--reason", "test"]);
    assert!(get(address, "/v1/requests/nonsense").unwrap().contains("application/problem+json"));

    let wanted = [
        "keyturn_fleet_devices{state=\"confirmed\"} 1\n",
        "keyturn_fleet_devices{state=\"never_escrowed\"} 1\n",
        "keyturn_reveals_total 1\n",
        "keyturn_audit_broken 0\n",
        "keyturn_audit_failures_total{operation=\"probe\"} 0\n",
        "keyturn_rotations_total{outcome=\"confirmed\"} 1\n",
    ];
    let rotator = scraped[2];
    let mut tries = 0;
    let text = loop {
        let text = get(rotator, "/metrics").unwrap();
        if wanted.iter().all(|line| text.contains(line)) {
            break text;
        }
        tries += 1;
        assert!(tries < 200, "{wanted:?} in {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(text.contains("messaging_client_sent_messages_total{messaging_system=\"sqlite\",messaging_destination_name=\"outcomes\",messaging_operation_name=\"send\"}"), "{text}");
    has_the_buckets(&text);
    let days = get(scraped[0], "/metrics").unwrap();
    let days = days.lines().find_map(|line| {
        line.strip_prefix("keyturn_certificate_days_left{certificate=\"key_set\"} ")?.parse::<f64>().ok()
    });
    assert!(days.is_some_and(|days| (700.0..740.0).contains(&days)), "two years: {days:?}");

    compare_with_the_table(&scraped);
    roles.iter_mut().for_each(Role::end);
}

/// The bounds of the buckets, which dashboards and alerts stand on.
fn has_the_buckets(text: &str) {
    for (metric, bounds) in [
        (
            "keyturn_stage_seconds",
            "0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 60 300 900 +Inf",
        ),
        (
            "messaging_process_duration_seconds",
            "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 +Inf",
        ),
    ] {
        let series = text.lines().filter(|line| line.starts_with(&format!("{metric}_bucket")));
        let bound = |line: &str| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(series.map(bound).collect::<Vec<_>>().join(" "), bounds, "{metric}");
    }
}

fn compare_with_the_table(scraped: &[SocketAddr]) {
    let (table, mut seen) = (table(), BTreeMap::new());
    for health in scraped {
        told(&get(*health, "/metrics").unwrap(), &mut seen);
    }
    for (name, (kind, labels)) in &seen {
        let metric = table.get(name).unwrap_or_else(|| panic!("{name} is not in docs/METRICS.md"));
        assert_eq!((kind, labels), (&metric.kind, &BTreeSet::from([metric.labels.clone()])), "{name}");
    }
    let unseen: BTreeSet<&str> =
        table.keys().map(String::as_str).filter(|name| !seen.contains_key(*name)).collect();
    assert!(unseen.is_subset(&BTreeSet::from(RARE)), "nobody tells {unseen:?}");
}
