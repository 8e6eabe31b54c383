//! Every command's `--output json`: keys in snake case, whatever the names of the types behind them. The commands are
//! counted by their manual pages, so a new one has to be put into one of the lists here.

use std::collections::BTreeSet;
use std::fs;

use keyturn_ports::queue::QueueName;
use serde_json::Value;

use crate::dead_letters::{bury_alarms, engines};
use crate::deployment::{Deployment, register, text};
use crate::keys::World;

/// Those that print nothing for programs: files, completions, what they did on stderr.
const SILENT: [&str; 21] = [
    "init",
    "up",
    "support",
    "completions",
    "man",
    "device-add",
    "device-import",
    "device-disable",
    "device-enable",
    "device-close-lane",
    "device-hold",
    "device-release",
    "group-set",
    "root-sign-keys",
    "vault-recovery-key",
    "vault-export",
    "config-template",
    "keys-rotate",
    "keys-retire",
    "vault-rekey",
    "dead-letters-discard",
];

/// Those whose JSON is somebody else's form: CloudLAPS's columns, and an anchor that was signed as it stands.
const OTHERS: [&str; 3] = ["audit-export", "events-export", "audit-anchor"];

/// Those that tell of the deployment as it is.
const PLAIN: [&[&str]; 18] = [
    &["device", "list"],
    &["device", "rotate-now", "--all", "--reason", "x", "--dry-run"],
    &["device", "rotate-now", "--all", "--reason", "x"],
    &["device", "rotations"],
    &["group", "list"],
    &["queues"],
    &["fleet"],
    &["fleet", "--list"],
    &["dead-letters", "list"],
    &["dead-letters", "list", "--each"],
    &["dead-letters", "export"],
    &["dead-letters", "replay", "--where", "reason:exhausted", "--dry-run"],
    &["dead-letters", "jobs"],
    &["dead-letters", "reconcile"],
    &["audit", "list"],
    &["audit", "verify"],
    &["keys", "list"],
    &["vault", "verify"],
];

/// Those that need a service that is not here; their keys are looked at where that is faked or real.
const ELSEWHERE: [&str; 7] = [
    "migrate",
    "vault-history",
    "vault-rebalance",
    "vault-wrap",
    "vault-recover",
    "vault-open-export",
    "restore",
];

fn is_snake(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Keys that are not in snake case, with the way to them.
fn wrong(value: &Value, way: &str) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| wrong(item, way)).collect(),
        Value::Object(fields) => {
            let one = |(key, value): (&String, &Value)| {
                let way = format!("{way}.{key}");
                let within = wrong(value, &way);
                (!is_snake(key)).then_some(way).into_iter().chain(within)
            };
            fields.iter().flat_map(one).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn a_key_in_another_style_is_found() {
    let value =
        serde_json::json!({ "a_b": [{ "one": 1, "deviceId": { "x": [{ "Intact": 1 }] } }], "c-d": 1 });
    assert_eq!(wrong(&value, ""), [".a_b.deviceId", ".a_b.deviceId.x.Intact", ".c-d"]);
}

fn leaves(deployment: &Deployment) -> BTreeSet<String> {
    let folder = deployment.path("man");
    deployment.ok(&["man", folder.to_str().unwrap()]);
    let pages = fs::read_dir(folder).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = pages
        .filter_map(|page| Some(page.strip_suffix(".1")?.strip_prefix("keyturn-")?.to_owned()))
        .filter(|name| name != "help" && !name.ends_with("-help"))
        .collect();
    let nouns =
        ["device", "group", "dead-letters", "audit", "keys", "root", "vault", "backup", "events", "config"];
    names.into_iter().filter(|name| !nouns.contains(&name.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_every_command_is_in_snake_case() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let name = world.devices[0].name.as_str();
    let refused = world.devices[1].name.as_str();
    deployment.ok(&["device", "disable", refused, "--reason", "stolen"]);
    assert!(!world.devices[1].agent().once().await.is_ok_and(|outcome| outcome.is_success()));
    deployment.ok(&["device", "hold", name, "--reason", "an audit"]);
    bury_alarms(deployment, &register(), 1).await;
    let letters = engines(deployment).dead_letters().list(Some(QueueName::Alarms), 9).await.unwrap();
    let letter = letters[0].id.0.to_string();
    let backup = deployment.path("b.db").display().to_string();
    let commands: [&[&str]; 13] = [
        &["device", "show", name],
        &["device", "show", refused],
        &["device", "history", name],
        &["reveal", name, "--reason", "x"],
        &["dead-letters", "show", &letter],
        &["backup", "create", &backup],
        &["backup", "verify", &backup],
        &["config", "check"],
        &["config", "print"],
        &["log-level"],
        &["explain"],
        &["explain", "KT-0404"],
        &["doctor"],
    ];
    let mut met: BTreeSet<String> =
        [SILENT.as_slice(), &OTHERS, &ELSEWHERE].concat().into_iter().map(str::to_owned).collect();
    let all = leaves(deployment);
    for command in PLAIN.into_iter().chain(commands) {
        let output = deployment.keyturn(&[&["--output", "json"], command].concat());
        let said = text(&output.stdout);
        let one = serde_json::from_str::<Value>(&said).map(|value| vec![value]);
        let lines = || said.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
        let values = one.or_else(|_| lines()).unwrap_or_else(|error| panic!("{command:?}: {error}: {said}"));
        assert!(!values.is_empty(), "{command:?} says nothing: {}", text(&output.stderr));
        let found: Vec<String> = values.iter().flat_map(|value| wrong(value, "")).collect();
        assert!(found.is_empty(), "{command:?}: {found:?}");
        let noun = command[0].to_owned();
        met.insert(if all.contains(&noun) { noun } else { format!("{noun}-{}", command[1]) });
    }
    assert_eq!(met, all, "each command is in one of the lists");
    world.stop();
}

/// What the words tell a program is told as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_shown_to_programs_as_it_is_to_people() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let (name, refused) = (world.devices[0].name.as_str(), world.devices[1].name.as_str());
    deployment.ok(&["device", "disable", refused, "--reason", "stolen"]);
    assert!(!world.devices[1].agent().once().await.is_ok_and(|outcome| outcome.is_success()));
    let show = |name: &str| -> Value {
        serde_json::from_str(&deployment.ok(&["--output", "json", "device", "show", name])).unwrap()
    };
    let (free, page) = (show(name), show(refused));
    assert_eq!((&free["hold"], &free["last_refusal"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&page["last_refusal"]["code"], &page["device"]["account_enabled"]),
        (&"KT-0206".into(), &false.into())
    );
    assert!(page["last_refusal"]["at_ms"].is_u64() && page["last_heard_ms"].is_u64());
    for field in ["due_ms", "policy", "state", "name", "device_id"] {
        assert!(!free[field].is_null(), "{field}: {free}");
    }
    let lane = &free["lanes"][0];
    assert_eq!(
        (&lane["state"], &lane["policy"], &lane["open"]),
        (&"confirmed".into(), &"default".into(), &true.into())
    );
    assert_eq!((lane["due_ms"].is_u64(), &lane["candidates"][0]["standing"]), (true, &"confirmed".into()));
    assert_eq!(free["lanes"][0]["on_hold"], Value::Null);

    deployment.ok(&["device", "hold", name, "--reason", "an audit"]);
    let hold = show(name)["hold"].clone();
    assert_eq!((&hold["until_ms"], &hold["reason"]), (&Value::Null, &"an audit".into()));
    assert!(hold["by"].as_str().unwrap().contains("(uid ") && hold["since_ms"].is_u64(), "{hold}");
    let page = deployment.ok(&["device", "show", name]);
    assert!(page.contains("held by an operator until it is released, since 2"), "{page}");
    assert!(page.contains("(uid ") && page.contains(": an audit") && !page.contains("9999"), "{page}");
    let fleet = deployment.ok(&["fleet", "--list"]);
    assert!(fleet.contains("until it is released, since 2") && fleet.contains(": an audit"), "{fleet}");

    deployment.ok(&["device", "release", name, "--reason", "the audit is over"]);
    assert_eq!(show(name)["hold"], Value::Null);
    deployment.ok(&["device", "hold", name, "--for", "2h", "--reason", "a visit"]);
    let hold = show(name)["hold"].clone();
    assert_eq!(hold["reason"], "a visit");
    let span = hold["until_ms"].as_u64().unwrap().abs_diff(hold["since_ms"].as_u64().unwrap());
    assert!(span.abs_diff(7_200_000) < 60_000, "{hold}");
    let fleet: Vec<Value> =
        serde_json::from_str(&deployment.ok(&["--output", "json", "fleet", "--list"])).unwrap();
    let row = fleet.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!((&row["state"], &row["hold"]["reason"]), (&"on_hold".into(), &"a visit".into()));
    world.stop();
}
