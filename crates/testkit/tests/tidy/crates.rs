//! Which crate may name which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::{none, rust, tree};

/// Which crates of the workspace each of them may depend on, all without `keyturn-`. An edge that is not here is a
/// change of the design, and asks for a paragraph in docs/decisions.
const EDGES: [(&str, &str); 16] = [
    // Values and pure decisions stand on nothing.
    ("domain", ""),
    // The wire contract puts those values into bytes.
    ("schemas", "domain"),
    // Traits speak of values. They see no message's inside: what is queued or stored is bytes to them.
    ("ports", "domain"),
    // Lease, decode, handle, settle: against traits, and never against what is behind them.
    ("pipeline", "domain ports schemas"),
    // Adapters implement the traits, and never know each other.
    ("azure", "domain ports schemas"),
    ("embedded", "domain ports schemas"),
    ("postgres", "domain ports schemas"),
    // The one composition root: adapters by name, and no role.
    ("service", "azure domain embedded pipeline ports postgres schemas"),
    // Roles meet in `schemas` and never import each other. `service` is for their main.rs alone, see below.
    ("ingress", "domain pipeline ports schemas service"),
    ("validator", "domain pipeline ports schemas service"),
    ("rotator", "domain pipeline ports schemas service"),
    ("notifier", "domain pipeline ports schemas service"),
    // The device program knows the contract, and nothing of the server.
    ("agent", "domain schemas"),
    // The operator's command may name everything that is shipped.
    ("ops", "agent domain embedded ingress notifier pipeline ports rotator schemas service validator"),
    // Devices under load know the contract, as the agent does; everything else they learn from outside.
    ("loadtest", "domain schemas"),
    // Runs the roles in one process for the tests of every crate, which are all that may depend on it. It composes
    // them itself, by hand and on a clock of its own: not `service`, no program.
    ("testkit", "domain embedded ingress notifier pipeline ports rotator schemas validator"),
];

/// The workers and edges that `service` gives a process to.
const ROLES: [&str; 4] = ["ingress", "validator", "rotator", "notifier"];

/// What stands behind the traits.
const ADAPTERS: [&str; 3] = ["azure", "embedded", "postgres"];

/// A program's main.rs is wiring.
const MAIN_LINES: usize = 40;

#[test]
fn every_crate_depends_on_what_it_may_depend_on() {
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    let members = members();
    let mut wrong = Vec::new();
    for (name, edges) in &members {
        let Some(allowed) = allowed.get(name.as_str()) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let more = edges.iter().filter(|edge| !allowed.split(' ').any(|one| one == edge.as_str()));
        wrong.extend(more.map(|edge| format!("{name} -> {edge}")));
    }
    none("dependencies that the plan of the house does not have", wrong);
    let gone = allowed.keys().filter(|name| !members.contains_key(**name));
    none("crates in the table that are not in the workspace", gone.map(|&name| name.to_owned()));
}

#[test]
fn the_process_shell_and_adapters_are_named_in_main_alone() {
    let mut wrong = Vec::new();
    for source in rust::all() {
        let Some((role, file)) = source.path.split_once("/src/").filter(|(role, _)| ROLES.contains(role))
        else {
            continue;
        };
        let ours = |name: &&str| *name == format!("keyturn_{role}") || *name == "keyturn_service";
        let elsewhere = |name: &&str| {
            let name = name.trim_start_matches("keyturn_");
            name == "service" || ADAPTERS.contains(&name)
        };
        let named = source.words("keyturn_").into_iter();
        let named: Vec<&str> = match file {
            "main.rs" => named.filter(|name| !ours(name)).collect(),
            _ => named.filter(elsewhere).collect(),
        };
        wrong.extend(named.iter().map(|name| format!("{}: {name}", source.path)));
    }
    none("crates that a role may not name there", wrong);
}

#[test]
fn every_main_is_wiring() {
    let mains = tree::files("main.rs").into_iter().filter(|path| path.ends_with("src/main.rs"));
    let counted = mains.map(|path| (tree::read(&path).lines().count(), path));
    let long = counted.filter(|(lines, _)| *lines > MAIN_LINES);
    none("main.rs of more than 40 lines", long.map(|(lines, path)| format!("{path}: {lines}")));
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    // Workspaces of their own.
    let apart = |path: &String| path.starts_with("fuzz/") || path.starts_with("loadtest/compare/");
    let manifests = tree::files("Cargo.toml").into_iter().filter(|path| !apart(path));
    let without = manifests.filter(|path| path != "Cargo.toml" && !has_lints(&tree::read(path)));
    none("crates without `[lints] workspace = true`", without);
}

fn has_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        section == "[lints]" && line == "workspace = true"
    })
}

/// The workspace's crates, each with the others that it is built with: no dev-dependencies, and not itself.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(tree::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let short = |named: &Value| named["name"].as_str().unwrap().trim_start_matches("keyturn-").to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (short(package), edges(package, &short))).collect()
}

fn edges(package: &Value, short: &impl Fn(&Value) -> String) -> BTreeSet<String> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    let built_with = dependencies.filter(|one| one["path"].is_string() && one["kind"] != "dev");
    built_with.map(short).filter(|name| *name != short(package)).collect()
}
