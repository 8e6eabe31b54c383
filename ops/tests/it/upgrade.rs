//! A data folder that an older build wrote, under the present one; and a state that a later build brought forward, which
//! this one goes on with or refuses, as the later one said.
//!
//! fixtures/schema-4.tar.gz is a deployment of four devices as `keyturn up --demo` leaves it, written by a build that
//! knew four schemas: the oldest whose files are promised to open. Its keys are of that deployment and of nothing else.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use keyturn_testkit::postgres::TestDatabase;
use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use crate::deployment::{Deployment, text};
use crate::processes::{free_address, install, run};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/schema-4.tar.gz");

/// Each device, and SHA-256 of the password that the older build revealed for it.
const REVEALED: [(&str, &str); 3] = [
    ("DEMO-01", "82df1788dccb55d1b3e1a34c096ff3801ba1029c14304df8b41315d0d3097813"),
    ("DEMO-03", "ceb718e6f8f2e0c94b5e4119582d2b8650f2f2fe6c89d2cfb90f1a149db364a7"),
    ("DEMO-04", "474710f2477199dddbe79c930268ae5874550fbe10411d984d22fde29a87520c"),
];

fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    assert!(tar.args(["-xzf", FIXTURE, "-C"]).arg(folder.path()).status().unwrap().success());
    folder
}

fn keyturn(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(folder.join("data/keyturn.toml")).args(arguments);
    let output = command.output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn schema(folder: &Path) -> u32 {
    let file = Connection::open(folder.join("data/keyturn.db")).unwrap();
    file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

#[test]
fn what_an_older_build_wrote_is_all_there() {
    let folder = unpacked();
    let folder = folder.path();
    assert_eq!(schema(folder), 4);
    let (code, said, error) = keyturn(folder, &["audit", "verify"]);
    assert_eq!((code, said.as_str()), (Some(0), "14 rows, the chain is whole\n"), "{error}");
    assert!(schema(folder) > 4, "it is of this build now");
    for (device, digest) in REVEALED {
        let (code, shown, error) = keyturn(folder, &["reveal", device, "--reason", "upgrade"]);
        assert_eq!(code, Some(0), "{error}");
        let password = shown.split('\t').nth(1).unwrap();
        let found: Vec<String> =
            Sha256::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found.concat(), digest, "{device}");
    }
    let (_, fleet, _) = keyturn(folder, &["--output", "json", "fleet"]);
    let fleet: Vec<serde_json::Value> = serde_json::from_str(&fleet).unwrap();
    let count = |state: &str| fleet.iter().find(|row| row["state"] == state).unwrap()["devices"].clone();
    assert_eq!(count("never_escrowed"), 1);
    assert_eq!(count("confirmed").as_u64().unwrap() + count("overdue").as_u64().unwrap(), 3);
    let (code, _, error) = keyturn(folder, &["vault", "verify"]);
    assert_eq!(code, Some(0), "{error}");
    // What is new works on it.
    let (code, _, error) = keyturn(folder, &["fleet", "--last-report"]);
    assert!(code == Some(3) && error.contains("there is no report yet"), "{error}");
    let (code, _, error) = keyturn(folder, &["dead-letters", "reconcile"]);
    assert_eq!(code, Some(0), "{error}");
    // It is not taken for restored from a backup.
    let (_, audit, _) = keyturn(folder, &["audit", "list"]);
    assert!(!audit.contains("store restored"), "{audit}");
}

#[test]
fn a_folder_of_a_later_build_is_refused_with_the_way_back() {
    let folder = unpacked();
    let folder = folder.path();
    let file = Connection::open(folder.join("data/keyturn.db")).unwrap();
    file.pragma_update(None, "user_version", 900).unwrap();
    file.execute("UPDATE meta SET value = '899' WHERE key = 'compatible_from'", []).unwrap();
    for command in [&["fleet"][..], &["up", "--listen", "127.0.0.1:0"]] {
        let (code, said, error) = keyturn(folder, command);
        assert!(code == Some(1) && said.is_empty(), "{error}");
        for part in [
            "keyturn: KT-0314 ",
            "has schema 900",
            "run the release that wrote it",
            "restore the backup made before it",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    assert_eq!(schema(folder), 900, "nothing was touched");
}

#[test]
fn a_folder_of_a_build_before_the_tables_were_settled_is_refused() {
    let folder = unpacked();
    let folder = folder.path();
    let file = Connection::open(folder.join("data/keyturn.db")).unwrap();
    file.execute_batch("DROP INDEX dead_letters_by_origin; ALTER TABLE dead_letters DROP COLUMN origin")
        .unwrap();
    let (code, _, error) = keyturn(folder, &["fleet"]);
    assert!(code == Some(1) && error.contains("before the tables were settled"), "{error}");
}

/// A later release as this one meets it: one that only adds, or one that does not want it to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Later {
    Adds,
    Breaks,
}

/// Brings the file forward by a migration that this build does not know: a column more on every table that there is, and
/// a table of its own.
fn bring_file_forward(file: &Path, later: Later) {
    let mut file = Connection::open(file).unwrap();
    let step = file.transaction().unwrap();
    let next: u32 = step.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap() + 1;
    let tables = {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
        let mut tables = step.prepare(sql).unwrap();
        tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect::<Vec<String>>()
    };
    assert!(tables.len() > 15, "{tables:?}");
    for table in tables {
        step.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN of_schema_{next} TEXT")).unwrap();
    }
    step.execute_batch(&format!("CREATE TABLE of_schema_{next} (id INTEGER PRIMARY KEY) STRICT")).unwrap();
    if later == Later::Breaks {
        step.execute("UPDATE meta SET value = ?1 WHERE key = 'compatible_from'", [next.to_string()]).unwrap();
    }
    step.pragma_update(None, "user_version", next).unwrap();
    step.commit().unwrap();
}

/// The same on PostgreSQL.
fn bring_database_forward(database: &TestDatabase, later: Later) {
    let next: u32 = database.sql("SELECT value + 1 FROM meta WHERE key = 'schema'").parse().unwrap();
    let breaks = match later {
        Later::Adds => String::new(),
        Later::Breaks => format!("UPDATE meta SET value = {next} WHERE key = 'compatible_from';"),
    };
    database.sql(&format!(
        "BEGIN; DO $$ DECLARE one record; BEGIN FOR one IN SELECT tablename FROM pg_catalog.pg_tables \
         WHERE schemaname = 'keyturn' LOOP EXECUTE format('ALTER TABLE keyturn.%I ADD COLUMN of_schema_{next} text', \
         one.tablename); END LOOP; END $$; CREATE TABLE keyturn.of_schema_{next} (id bigint PRIMARY KEY); \
         {breaks} UPDATE meta SET value = {next} WHERE key = 'schema'; COMMIT"
    ));
}

/// A deployment with a device that has rotated once, is brought forward twice, and rotates in between.
async fn goes_on_and_is_refused(
    state: &str,
    forward: impl Fn(&Deployment, Later),
    schema: impl Fn(&Deployment) -> String,
) {
    let (deployment, address) = (Deployment::init(), free_address());
    deployment.configure(&format!("[ingress]\nlisten = \"{address}\"\n[health]\nall = \"off\"\n{state}"));
    deployment.make_tables();
    let device = install(&deployment, 7, address);
    let served = |log: &str| {
        let log = File::create(deployment.path(log)).unwrap();
        let mut up = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        let up = up.arg("--config").arg(deployment.config()).arg("up").stderr(log);
        up.spawn().unwrap()
    };
    let ready = |name: &str| {
        let said = || fs::read_to_string(deployment.path(name)).unwrap();
        for _ in 0..1500 {
            if said().contains("all roles are up") {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        panic!("it does not come up: {}", said());
    };
    let end = |mut server: std::process::Child| {
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(server.wait().unwrap().success());
    };
    let log = |name: &str| fs::read_to_string(deployment.path(name)).unwrap();
    let warned = "a later release brought the database forward";

    let server = served("before");
    ready("before");
    run(device.agent()).await;
    end(server);
    assert!(!log("before").contains(warned), "{}", log("before"));
    let checks = text(&deployment.keyturn(&["doctor"]).stdout);
    assert!(checks.contains("ok      schema"), "{checks}");

    forward(&deployment, Later::Adds);
    let brought = schema(&deployment);
    let server = served("adds");
    ready("adds");
    let before = device.shown(&deployment);
    deployment.ok(&["device", "rotate-now", &device.name, "--reason", "rolled back"]);
    run(device.agent()).await;
    device.invariant_settled(&deployment);
    assert_ne!(device.shown(&deployment), before, "a whole rotation went through");
    end(server);
    assert_eq!(log("adds").matches(warned).count(), 1, "{}", log("adds"));
    let checks = text(&deployment.keyturn(&["doctor"]).stdout);
    assert!(checks.contains("warning schema"), "{checks}");
    assert!(deployment.ok(&["audit", "verify"]).contains("the chain is whole"));
    assert_eq!(schema(&deployment), brought, "nothing was taken back");

    forward(&deployment, Later::Breaks);
    let broken = schema(&deployment);
    let server = served("breaks").wait().unwrap();
    let said = log("breaks");
    assert!(server.code() == Some(1) && said.contains("run the release that wrote it"), "{said}");
    let output = deployment.keyturn(&["fleet"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(schema(&deployment), broken, "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_later_build_added_to_goes_on_and_one_that_it_broke_is_refused() {
    let file = |deployment: &Deployment| deployment.path("data/keyturn.db");
    let forward = |deployment: &Deployment, later| {
        bring_file_forward(&file(deployment), later);
        if later == Later::Adds {
            // What this build makes of it in between is a backup like any other.
            let copy = deployment.path("copy.backup").display().to_string();
            deployment.ok(&["backup", "create", &copy]);
            deployment.ok(&["backup", "verify", &copy]);
        }
    };
    let schema = |deployment: &Deployment| {
        let file = Connection::open(file(deployment)).unwrap();
        let sql = "SELECT group_concat(sql, char(10)) || (SELECT user_version FROM pragma_user_version) \
                   || (SELECT value FROM meta WHERE key = 'compatible_from') FROM sqlite_schema";
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    goes_on_and_is_refused("", forward, schema).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_a_later_build_added_to_goes_on_and_one_that_it_broke_is_refused() {
    let database = TestDatabase::fresh();
    let state =
        format!("[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n", database.address());
    let schema = |_: &Deployment| {
        database.sql(
            "SELECT count(*) || ' ' || (SELECT string_agg(key || value, ' ' ORDER BY key) FROM meta) \
             FROM information_schema.columns WHERE table_schema = 'keyturn'",
        )
    };
    goes_on_and_is_refused(&state, |_, later| bring_database_forward(&database, later), schema).await;
}
