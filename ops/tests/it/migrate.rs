//! An installation with a past and with work under way moves to PostgreSQL, by a command that is killed again and again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use keyturn_ops::Roles;
use keyturn_ports::queue::{DeadReason, NewMessage, QueueName, Settlement};
use keyturn_service::config::Config;
use keyturn_service::shell;
use keyturn_testkit::postgres::{Cluster, TestDatabase};
use serde_json::Value;

use crate::dead_letters::{alarm, bury, engines};
use crate::deployment::{Deployment, register, text};
use crate::processes::{Device, ROLES, Role, build, free_address, install, random, run};
use crate::recovery::rotate;

/// A deployment on a file, and the configuration that it is to have.
struct World {
    deployment: Deployment,
    database: TestDatabase,
    devices: Vec<Device>,
    /// The configurations, once each: `keyturn.toml` is the one in use.
    file: PathBuf,
    postgres: PathBuf,
}

impl World {
    fn new(devices: usize) -> Self {
        Self::on(TestDatabase::fresh(), devices)
    }

    fn on(database: TestDatabase, devices: usize) -> Self {
        let (deployment, address) = (Deployment::init(), free_address());
        let settings = format!(
            "[ingress]\nlisten = \"{address}\"\n[workers]\nlease = \"1s\"\nfirst_delay = \"20ms\"\n\
             max_delay = \"50ms\"\nmax_deliveries = 1000\n[rotation]\nversions_per_day = 1000\n"
        );
        let (file, postgres) = (deployment.path("data/file.toml"), deployment.path("data/postgres.toml"));
        deployment.configure(&format!(
            "{settings}[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n",
            database.address()
        ));
        fs::rename(deployment.config(), &postgres).unwrap();
        deployment.configure(&settings);
        fs::copy(deployment.config(), &file).unwrap();
        let devices = (0..devices).map(|number| install(&deployment, number, address)).collect();
        Self { deployment, database, devices, file, postgres }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut all = vec!["--config".to_owned(), self.file.display().to_string(), "migrate".to_owned()];
        all.extend(["--to".to_owned(), self.postgres.display().to_string()]);
        all.extend(more.iter().map(|&one| one.to_owned()));
        all
    }

    /// `keyturn migrate`, from the file to PostgreSQL whichever is in use.
    fn migrate(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keyturn")).args(self.arguments(more)).output().unwrap()
    }

    fn migrated(&self, more: &[&str]) -> String {
        let output = self.migrate(more);
        assert!(output.status.success(), "{more:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn refused(&self, more: &[&str], code: &str, said: &str) {
        let output = self.migrate(more);
        let error = text(&output.stderr);
        let told = error.contains(&format!("keyturn: {code} ")) && error.contains(said);
        assert!(!output.status.success() && told, "{more:?}: {error}");
    }

    /// Has `keyturn.toml` be this one from now on.
    fn work_with(&self, config: &Path) {
        fs::copy(config, self.deployment.config()).unwrap();
    }

    /// What a command says under a configuration that must be refused.
    fn refusal(&self, config: &Path) -> String {
        self.work_with(config);
        let output = self.deployment.keyturn(&["device", "list"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        text(&output.stderr)
    }

    /// What operators see that depends on neither time nor engine.
    fn sight(&self) -> Vec<String> {
        let mut looks: Vec<Vec<&str>> = vec![
            vec!["device", "list"],
            vec!["device", "rotations"],
            vec!["dead-letters", "list", "--each"],
            vec!["dead-letters", "jobs"],
            vec!["queues"],
            vec!["fleet", "--list"],
        ];
        for device in &self.devices {
            looks.push(vec!["device", "show", &device.name]);
            looks.push(vec!["device", "history", &device.name]);
        }
        looks.push(vec!["events", "export"]);
        // PostgreSQL has no place for this character.
        let see = |look: &Vec<&str>| {
            let seen = self.deployment.ok(&[&["--output", "json"], look.as_slice()].concat());
            format!("{look:?}: {}", seen.replace("\\u0000", "\u{fffd}"))
        };
        looks.iter().map(see).collect()
    }

    fn audit(&self) -> Vec<String> {
        self.deployment.ok(&["audit", "export"]).lines().map(str::to_owned).collect()
    }
}

/// Runs the command with one row at a time and kills it a moment after it said its `nth` line. Whether it ended before
/// that.
fn migrate_until(world: &World, nth: usize) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .args(world.arguments(&["--reason", "several machines", "--batch", "1"]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said: Vec<String> = lines.by_ref().take(nth).map(Result::unwrap).collect();
    if said.len() == nth {
        std::thread::park_timeout(Duration::from_micros(u64::from(random(8_000))));
        // It may have ended by now.
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    assert!(status.success() || status.code().is_none(), "{said:?} {:?}", lines.collect::<Vec<_>>());
    status.success()
}

/// Everything a deployment can have under way.
async fn live(world: &World) {
    let World { deployment, devices, .. } = world;
    rotate(deployment, devices, 3).await;
    let (held, other) = (&devices[0], register());
    deployment.add(&other, "LAB-99");
    deployment.ok(&["device", "hold", &held.name, "--for", "2h", "--reason", "being examined"]);
    for error in ["503 from «desk»", "a text with \0 in it"] {
        bury(deployment, QueueName::Alarms, alarm(&other), DeadReason::Exhausted, error).await;
    }
    deployment.ok(&["dead-letters", "replay", "1", "--reason", "desk is back"]);
    bury(deployment, QueueName::Outcomes, alarm(&other), DeadReason::Undecodable, "no JSON").await;
    // A letter that is gone: its number is not to come again.
    bury(deployment, QueueName::Alarms, alarm(&other), DeadReason::Exhausted, "the last").await;
    let archive = deployment.path("archive.jsonl");
    deployment.ok(&[
        "dead-letters",
        "discard",
        "5",
        "--reason",
        "noise",
        "--yes-discard",
        "alarms",
        "--archive",
        archive.to_str().unwrap(),
    ]);
    // One delayed with a past, one leased, one new.
    let (queue, engines) = (QueueName::Alarms, engines(deployment));
    let hour = Duration::from_hours(1);
    engines.queue().send(queue, (0..3).map(|_| alarm(&other)).collect()).await.unwrap();
    let leased = engines.queue().lease(queue, 2, hour).await.unwrap();
    let retry = Settlement::Retry { after: hour, error: "with \0".to_owned() };
    engines.queue().settle(queue, vec![(leased[0].receipt.clone(), retry)], Vec::new()).await.unwrap();
    drop(engines);
    half_a_job(deployment);
    // A message that was answered with 202, and nobody has looked at.
    let host = shell::host(Config::load(&deployment.config()).unwrap()).unwrap();
    let roles = Roles::new(host.clone());
    let (_, serving) = roles.serve().await.unwrap();
    let before = devices[2].accepted().len();
    drop(devices[2].agent_waiting(Duration::from_millis(200)).once().await);
    assert!(devices[2].accepted().len() > before, "no message is under way");
    host.stop.cancel();
    serving.await.unwrap().unwrap();
}

/// A rotation of all devices, cut off after the first.
fn half_a_job(deployment: &Deployment) {
    let mut asking = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .arg("--config")
        .arg(deployment.config())
        .args(["device", "rotate-now", "--all", "--max-rate", "1", "--reason", "all of them"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for tries in 0.. {
        let jobs = deployment.ok(&["--output", "json", "device", "rotations"]);
        let jobs: Value = serde_json::from_str(&jobs).unwrap();
        if jobs[0]["job"]["asked"] == 1 {
            break;
        }
        assert!(tries < 200, "{jobs}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    asking.kill().unwrap();
    asking.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_moves_by_a_command_that_is_killed_and_goes_on() {
    build();
    let world = World::new(4);
    let World { deployment, database, file, postgres, .. } = &world;
    live(&world).await;
    let anchors = deployment.path("anchors.jsonl");
    fs::write(&anchors, deployment.ok(&["audit", "anchor"])).unwrap();
    let (sight, audit) = (world.sight(), world.audit());
    let held = "SELECT string_agg(deliveries || ' ' || (visible_at > enqueued_at) || ' ' || (lease IS NULL) || ' ' || \
                coalesce(attempts -> 0 ->> 'error', ''), '; ' ORDER BY id) FROM messages WHERE queue = 4";

    let plan = world.migrated(&["--dry-run"]);
    assert!(plan.contains("vault_versions") && !plan.contains("SHA"), "{plan}");
    assert_eq!(world.sight(), sight, "looking changes nothing");
    let mut kills = 0;
    for nth in 1.. {
        if migrate_until(&world, nth) {
            break;
        }
        kills += 1;
        if nth == 10 {
            // Half of it is there: nobody works with either half.
            assert!(world.refusal(file).contains("KT-0301 the state in"), "the file");
            assert!(world.refusal(postgres).contains("KT-0302"), "the database");
        }
        assert!(nth < 100, "it never ends");
    }
    assert!(kills > 30, "{kills} kills prove little");
    let again = world.migrate(&["--reason", "once more"]);
    assert!(again.status.success() && text(&again.stderr).contains("already"), "{}", text(&again.stderr));
    assert!(world.refusal(file).contains("KT-0301") && world.refusal(file).contains("has moved to"));

    // What operators see is what they saw, and the audit is the same with one row more.
    world.work_with(postgres);
    for (seen, before) in world.sight().iter().zip(&sight) {
        assert_eq!(seen, before);
    }
    let moved = world.audit();
    assert!(moved.starts_with(&audit) && moved.len() == audit.len() + 1, "{moved:?}");
    assert!(
        moved.last().unwrap().contains("StoreMoved") && moved.last().unwrap().contains("several machines")
    );
    let verified = deployment.ok(&["audit", "verify", "--anchor", anchors.to_str().unwrap()]);
    assert!(verified.contains("the chain is whole"), "{verified}");
    deployment.ok(&["vault", "verify"]);
    assert_eq!(database.sql(held), "1 true true with \u{fffd}; 1 true false ; 0 false true");
    goes_on(&world).await;
}

/// Roles as processes work on with what was under way.
async fn goes_on(world: &World) {
    let World { deployment, devices, .. } = world;
    let mut roles: Vec<Role> = ROLES.iter().map(|name| Role::start(name, deployment)).collect();
    for (round, device) in devices.iter().enumerate() {
        device.invariant_shown(deployment, round);
    }
    let device = register();
    let number = |dead: &Value| dead.as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()).max();
    bury(deployment, QueueName::Findings, alarm(&device), DeadReason::Untrusted, "forged").await;
    let letters = deployment.ok(&["--output", "json", "dead-letters", "list", "--each"]);
    assert!(number(&serde_json::from_str(&letters).unwrap()) > Some(5), "a number came again: {letters}");
    deployment.ok(&["device", "release", &devices[0].name, "--reason", "examined"]);
    for device in devices {
        deployment.ok(&["device", "rotate-now", &device.name, "--reason", "on the new engine"]);
        run(device.agent()).await;
        device.invariant_settled(deployment);
    }
    let engines = engines(deployment);
    for rid in devices.iter().flat_map(Device::accepted) {
        for tries in 0.. {
            if engines.result_reader().result(rid).await.unwrap().is_some() {
                break;
            }
            assert!(tries < 200, "the acknowledged message {rid} has no result");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(deployment.ok(&["audit", "verify"]).contains("the chain is whole"));
    roles.iter_mut().for_each(Role::end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_undone_as_long_as_nothing_came_after() {
    let world = World::new(1);
    let World { deployment, database, devices, file, postgres } = &world;
    rotate(deployment, devices, 1).await;
    let shown = devices[0].shown(deployment);
    world.refused(&["--undo", "--reason", "x"], "KT-0427", "nothing to undo");
    world.migrated(&["--reason", "several machines"]);
    world.migrated(&["--undo", "--reason", "not yet"]);
    world.work_with(file);
    assert_eq!(devices[0].shown(deployment), shown);
    assert!(deployment.ok(&["audit", "list"]).contains("not yet"));
    assert!(world.refusal(postgres).contains("KT-0302"));
    world.refused(&["--reason", "again"], "KT-0426", "is not empty");
    database.sql("DROP SCHEMA keyturn CASCADE");
    world.work_with(file);
    rotate(deployment, devices, 1).await;
    world.migrated(&["--reason", "again"]);

    // Now there is something that the file lacks, and it is not lost by accident.
    world.work_with(postgres);
    rotate(deployment, devices, 1).await;
    world.refused(&["--undo", "--reason", "x"], "KT-0427", "going back would lose it");
    assert_eq!(devices[0].shown(deployment).len(), 1, "the database is worked with as before");
    world.migrated(&["--undo", "--reason", "the server burns", "--danger-leave-behind"]);
    assert!(world.refusal(postgres).contains("KT-0302"));
    world.work_with(file);
    let audit = deployment.ok(&["audit", "list"]);
    assert!(audit.contains("store restored") && audit.contains("leaving behind"), "{audit}");
    deployment.ok(&["audit", "verify"]);
    // The device is heard anew, and says what it has.
    rotate(deployment, devices, 1).await;
    devices[0].invariant_settled(deployment);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_move_is_refused_before_anything_changes() {
    let world = World::new(1);
    let World { deployment, database, file, postgres, .. } = &world;
    let sight = world.sight();
    let reason = ["--reason", "x"];
    let said = fs::read_to_string(postgres).unwrap();

    let host = shell::host(Config::load(&deployment.config()).unwrap()).unwrap();
    world.refused(&reason, "KT-0315", "is in use: stop every process");
    drop(host);
    fs::write(postgres, said.replace("\"test\"", "\"other\"")).unwrap();
    world.refused(&reason, "KT-0409", "deployment.name is not the same");
    fs::write(postgres, format!("{said}[data]\nkeys = \"other-keys\"\n")).unwrap();
    world.refused(&reason, "KT-0306", "there is no vault key");
    fs::copy(file, postgres).unwrap();
    world.refused(&reason, "KT-0409", "--to names a configuration whose state is not in PostgreSQL");
    fs::write(postgres, said.replace(database.name(), "nowhere")).unwrap();
    world.refused(&reason, "KT-0319", "does not exist");
    fs::write(postgres, &said).unwrap();

    // Keys of another deployment open nothing that was sealed here.
    let other = Deployment::init();
    fs::write(postgres, format!("{said}[data]\nkeys = \"{}\"\n", other.path("data/keys").display())).unwrap();
    world.refused(&reason, "KT-0309", "lacks a master key");
    fs::write(postgres, &said).unwrap();

    // A process with the new configuration was faster: what it has open is in the way, and then what it did.
    world.work_with(postgres);
    deployment.make_tables();
    let early = engines(deployment);
    early.queue().depth(QueueName::Alarms).await.unwrap();
    world.refused(&reason, "KT-0315", "is in use by");
    let message = NewMessage { body: "early".to_owned(), ..alarm(&register()) };
    early.queue().send(QueueName::Alarms, vec![message]).await.unwrap();
    world.refused(&reason, "KT-0426", "is not empty (messages)");
    drop(early);
    database.sql("DELETE FROM messages");
    world.work_with(file);
    assert_eq!(world.sight(), sight, "refusals change nothing");

    // A broken audit is not made whole by moving it.
    let sqlite = rusqlite::Connection::open(deployment.path("data/keyturn.db")).unwrap();
    sqlite
        .execute_batch(
            "DROP TRIGGER audit_is_never_changed; UPDATE audit SET reason = 'forged' WHERE seq = 1",
        )
        .unwrap();
    sqlite.close().unwrap();
    world.refused(&reason, "KT-0421", "the audit in the file is broken at row 1");
    world.work_with(file);
    assert_eq!(world.sight(), sight);
}

/// The server goes away in the middle, and what it had not promised is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_costs_a_repetition() {
    let world = World::on(TestDatabase::on(Cluster::private()), 1);
    let World { deployment, database, devices, postgres, .. } = &world;
    rotate(deployment, devices, 2).await;
    for nth in [3, 8, 14, 20, 30] {
        let crashed = std::thread::scope(|scope| {
            let moving = scope.spawn(|| {
                let arguments = world.arguments(&["--reason", "x", "--batch", "1"]);
                let mut child = Command::new(env!("CARGO_BIN_EXE_keyturn"));
                let child = child.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
                let mut child = child.spawn().unwrap();
                let lines = BufReader::new(child.stderr.take().unwrap()).lines();
                for (line, _) in lines.enumerate() {
                    if line + 1 == nth {
                        database.cluster().crash();
                    }
                }
                child.wait().unwrap()
            });
            !moving.join().unwrap().success()
        });
        assert!(crashed, "the server was gone after line {nth}");
        database.cluster().start();
    }
    world.migrated(&["--reason", "x"]);
    world.work_with(postgres);
    rotate(deployment, devices, 1).await;
    deployment.ok(&["audit", "verify"]);
}
