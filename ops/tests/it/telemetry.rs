//! Dashboards and alerts name metrics that exist, and runbooks that exist; a running server tells of its queues and
//! changes its log level.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::deployment::Deployment;
use crate::processes::free_address;

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

/// Every word that begins like a metric of ours.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = text.split(|c: char| !word(c));
    words.filter(|one| one.starts_with("keyturn_")).map(str::to_owned).collect()
}

#[test]
fn dashboards_and_alerts_name_what_exists() {
    let mut code = String::new();
    sources(&root(), &mut code);
    let alerts = fs::read_to_string(root().join("infra/prometheus/alerts.yaml")).unwrap();
    let dashboard = fs::read_to_string(root().join("infra/grafana/keyturn.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = parsed["panels"].as_array().unwrap();
    let shown: String = panels.iter().map(|panel| panel["targets"][0]["expr"].as_str().unwrap()).collect();
    assert!(named(&alerts).len() >= 10 && named(&shown).len() >= 10, "there is something to check");
    for metric in named(&alerts).union(&named(&dashboard)) {
        assert!(code.contains(&format!("\"{metric}\"")), "{metric} is no metric of the code");
    }
    let rules = alerts.matches("- alert: ").count();
    let runbooks: Vec<&str> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
    assert_eq!(runbooks.len(), rules);
    for runbook in runbooks {
        assert!(root().join(runbook).is_file(), "{runbook} is missing");
    }
    let alert_names = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in alert_names {
        let block = alerts.split(&format!("- alert: {name}\n")).nth(1).unwrap();
        let runbook = block.lines().find_map(|line| line.trim().strip_prefix("runbook_url: ")).unwrap();
        let text = fs::read_to_string(root().join(runbook)).unwrap();
        assert!(text.contains(name) || runbook.ends_with("restore.md"), "{runbook} does not name {name}");
    }
    // Whose metric is by device would have as many as there are devices.
    for label in ["device", "request", "actor", "lane_id"] {
        let written = format!("\"{label}\" =>");
        let metrics = code.lines().filter(|line| line.contains("metrics::") && line.contains(&written));
        assert_eq!(metrics.count(), 0, "a metric with the label {label}");
    }
}

#[test]
fn a_server_tells_of_its_queues_and_changes_its_log_level() {
    let deployment = Deployment::init();
    let (listen, health) = (free_address(), free_address());
    deployment.configure(&format!("[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"{health}\"\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config()).arg("up").stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&server);
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut until = |said: &str| log.by_ref().map(Result::unwrap).find(|line| line.contains(said)).unwrap();
    until("working");
    let scraped = loop {
        let Ok(mut stream) = TcpStream::connect(health) else { continue };
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        break text;
    };
    for metric in [
        "keyturn_queue_oldest_message_age_seconds{queue=\"requests\"} 0",
        "keyturn_queue_dead_letters{queue=\"alarms\"} 0",
    ] {
        assert!(scraped.contains(metric), "{metric}: {scraped}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert!(until("told to log more").contains("\"debug\":true"));
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert!(until("told to log more").contains("\"debug\":false"));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}
