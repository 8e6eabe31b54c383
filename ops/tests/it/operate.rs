//! docs/OPERATE.md, run as it stands: every line of its `bash` blocks, in order, on a deployment with real agents. The
//! values of its first block are the reader's to fill in, and waiting is making the key older. Its table of exit
//! codes is run as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use keyturn_ports::queue::QueueName;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;

use crate::dead_letters::bury_alarms;
use crate::deployment::{Deployment, register, text};
use crate::keys::World;
use crate::runbook::{blocks_of, run};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATE.md");

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_page_works_as_it_stands() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let device = &world.devices[0];
    deployment.ok(&["device", "disable", &device.name, "--reason", "stolen"]);
    let refused = device.agent().once().await;
    assert!(!refused.is_ok_and(|outcome| outcome.is_success()), "it is disabled");
    // The workers take a dead alarm that is replayed, so it is nobody's: no webhook is set.
    bury_alarms(deployment, &register(), 1).await;
    let engines = Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap();
    let letters = engines.dead_letters().list(Some(QueueName::Alarms), 9).await.unwrap();
    let folder = deployment.path("share");
    fs::create_dir(&folder).unwrap();
    let at = |name: &str| deployment.path(name).display().to_string();
    let filled_in: BTreeMap<&str, String> = [
        ("KEYTURN_CONFIG", deployment.config().display().to_string()),
        ("DEVICE", device.name.clone()),
        ("LETTER", letters[0].id.0.to_string()),
        ("BACKUP", at("backup")),
        ("ANCHORS", at("anchors.jsonl")),
        ("FOLDER", folder.display().to_string()),
    ]
    .into();
    let mut blocks = blocks_of(PAGE).into_iter();
    let names: Vec<String> = blocks
        .next()
        .unwrap()
        .iter()
        .map(|line| line.strip_prefix("export ").unwrap().split_once('=').unwrap().0.to_owned())
        .collect();
    assert_eq!(
        names.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(),
        filled_in.keys().copied().collect()
    );
    let (mut said, mut waits) = (BTreeMap::new(), 0);
    for line in blocks.flatten() {
        if line.starts_with("sleep ") {
            waits += 1;
            world.age("stamp");
            world.ingress.keys.look();
            world.workers.keys.look();
            continue;
        }
        let answer = run(&line, &filled_in);
        said.entry(line).or_insert_with(String::new).push_str(&answer);
    }
    assert_eq!((waits, said.len()), (1, 27), "{:?}", said.keys());
    what_was_said_is_true(&said);
    what_was_written_can_be_read(&folder);
    // The device that was refused is heard again.
    assert!(world.devices[0].agent().once().await.unwrap().is_success());
    world.devices[0].invariant_settled(&world.deployment);
    world.stop();
}

/// What the commands printed, by their lines.
fn what_was_said_is_true(said: &BTreeMap<String, String>) {
    let of = |beginning: &str| {
        said.iter().find(|(line, _)| line.starts_with(beginning)).unwrap_or_else(|| panic!("{beginning}")).1
    };
    assert!(of("keyturn device show").contains("KT-0206"), "{}", of("keyturn device show"));
    let shown = of("keyturn dead-letters show");
    // A worker may be quicker than the test to take the alarm, which dies all the same.
    let died =
        ["503 from «desk»", "webhook desk is configured no more"].iter().any(|why| shown.contains(why));
    assert!(died && shown.contains("is gone: replayed "), "{shown}");
    let listed = of("keyturn audit list --limit");
    assert!(listed.contains("the receiver is back"), "{listed}");
    let of_one = of("keyturn audit list --device");
    assert!(of_one.contains("by mistake") && !of_one.contains("rotation asked for"), "{of_one}");
    assert!(of("keyturn audit verify").contains("the chain is whole"));
    assert!(of("keyturn doctor").contains("the newest that this release knows"));
    assert!(of("keyturn log-level info").contains("info,keyturn_rotator=debug, set in"));
    assert!(of("keyturn keys list").contains("stamp"));
}

/// Completions that bash takes, and a manual page for each command.
fn what_was_written_can_be_read(folder: &Path) {
    let completions = fs::read_to_string(folder.join("keyturn.bash")).unwrap();
    assert!(completions.contains("dead-letters") && completions.contains("_keyturn()"));
    let checked = Command::new("bash").arg("-n").arg(folder.join("keyturn.bash")).status().unwrap();
    assert!(checked.success(), "bash can read it");
    let page = fs::read_to_string(folder.join("man1/keyturn-dead-letters-replay.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains("max\\-rate"), "{page}");
    assert!(fs::read_dir(folder.join("man1")).unwrap().count() > 40, "a page for each command");
}

/// A row of the page's table for each code, and a command that ends with it.
#[test]
fn every_exit_code_is_in_the_table_and_is_met() {
    let page = fs::read_to_string(PAGE).unwrap();
    let rows =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.parse::<i32>().ok());
    assert_eq!(rows.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7, 130], "130 is met in dead_letters.rs");
    let deployment = Deployment::init();
    for _ in 0..2 {
        deployment.add(&register(), "TWIN");
    }
    let ends = |code: i32, arguments: &[&str]| {
        let output = deployment.keyturn(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    };
    ends(0, &["fleet"]);
    ends(1, &["device", "import", "/nonexistent"]);
    ends(2, &["fleet", "--no-such-option"]);
    ends(3, &["device", "show", "NOBODY"]);
    ends(5, &["device", "show", "TWIN"]);
    let database = rusqlite::Connection::open(deployment.path("data/keyturn.db")).unwrap();
    database.execute("UPDATE queue_counters SET dead = 5 WHERE name = 'alarms'", []).unwrap();
    ends(6, &["dead-letters", "reconcile"]);
    // Nobody listens there.
    let away = "[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"postgres://keyturn@127.0.0.1:1/keyturn\"\n";
    deployment.configure(away);
    ends(7, &["fleet"]);
}

/// A server that is there, and does not let this user in.
#[test]
fn a_database_that_refuses_its_user_is_code_4() {
    use keyturn_testkit::postgres::{Cluster, TestDatabase};
    let database = TestDatabase::on(Cluster::private());
    database.sql("CREATE ROLE stranger LOGIN");
    let address = database.address();
    let (_, rest) = address.split_once("://").unwrap();
    let after = rest.split_once('@').map_or(rest, |(_, after)| after);
    let deployment = Deployment::init();
    let on = |url: &str| {
        deployment.configure(&format!("[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{url}\"\n"));
    };
    on(&address);
    deployment.make_tables();
    on(&format!("postgres://stranger@{after}"));
    let output = deployment.keyturn(&["fleet"]);
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(4) && error.starts_with("keyturn: KT-0319 "), "{error}");
}
