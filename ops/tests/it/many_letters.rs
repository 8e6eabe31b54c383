//! Dead letters by the thousand: replayed at a pace by commands that are killed, and planned within bounded memory.

use std::process::{Command, Stdio};
use std::time::Duration;

use keyturn_ports::queue::QueueName;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use rusqlite::Connection;
use serde_json::Value;

use crate::dead_letters::{alarm, bury_alarms};
use crate::deployment::{Deployment, register};

/// Letters of the killed replay, and how often it is killed.
const LETTERS: u64 = 10_000;
const KILLS: u64 = 5;

/// Makes `more` dead letters out of the one there is, each a message of its own.
fn multiply(deployment: &Deployment, more: u32) {
    let database = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    database.busy_timeout(Duration::from_mins(1)).unwrap();
    let filled = database.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
         INSERT INTO dead_letters (queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at) \
         SELECT queue, randomblob(32), device, body, reason, attempts, deliveries, enqueued_at, died_at + i \
         FROM dead_letters, n WHERE id = (SELECT min(id) FROM dead_letters)",
        [more],
    );
    assert_eq!(u32::try_from(filled.unwrap()).unwrap(), more);
    database.execute("UPDATE queue_counters SET dead = dead + ?1 WHERE name = 'alarms'", [more]).unwrap();
}

fn job(deployment: &Deployment) -> Value {
    let jobs = deployment.ok(&["--output", "json", "dead-letters", "jobs"]);
    serde_json::from_str::<Value>(&jobs).unwrap()[0].clone()
}

#[tokio::test]
async fn ten_thousand_are_replayed_at_a_pace_by_a_command_that_is_killed_again_and_again() {
    let (deployment, device) = (Deployment::init(), register());
    deployment.add(&device, "LAB-07");
    bury_alarms(&deployment, &device, 1).await;
    multiply(&deployment, 9_999);
    let words = ["dead-letters", "replay", "--where", "reason:exhausted", "--reason", "the desk is back"];
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        let command = command.arg("--config").arg(deployment.config()).args(words);
        command.args(["--max-rate", "60000"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let done = || job(&deployment)["done"].as_u64().unwrap_or_default();
    for kill in 1..=KILLS {
        let before = done();
        let mut running = start();
        // Each is killed somewhere in the middle of its share, after it has made headway.
        while done() < (LETTERS / (KILLS + 1) * kill).max(before + 1) {
            assert!(running.try_wait().unwrap().is_none(), "it ended by itself");
        }
        running.kill().unwrap();
        running.wait().unwrap();
        let (after, depth) = (done(), depth(&deployment).await);
        assert!(before < after && after < LETTERS, "{before} {after}");
        assert_eq!((depth.0, depth.1), (after, LETTERS - after), "each is in one place");
    }
    assert!(start().wait().unwrap().success());
    assert_eq!(depth(&deployment).await, (LETTERS, 0));
    let job = job(&deployment);
    assert_eq!((&job["done"], &job["moved"]), (&LETTERS.into(), &LETTERS.into()));
    let database = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    let one = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned();
    assert_eq!(one("SELECT count(DISTINCT request) FROM queue_alarms"), LETTERS, "each once, none twice");
    assert_eq!(one("SELECT count(*) FROM letter_jobs"), 1, "one job did it all");
    let rows = one("SELECT count(*) FROM audit WHERE action = 'DeadLettersReplayed'");
    assert_eq!(rows, LETTERS + 1, "each is in the audit once");
    assert!(deployment.ok(&["audit", "verify"]).contains("the chain is whole"));
}

async fn depth(deployment: &Deployment) -> (u64, u64) {
    let engines = Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap();
    let depth = engines.queue().depth(QueueName::Alarms).await.unwrap();
    (depth.total, depth.dead)
}

/// A plan, a list and an export over very many letters read them a page at a time.
#[tokio::test]
async fn memory_does_not_grow_with_the_letters() {
    let (deployment, device) = (Deployment::init(), register());
    deployment.add(&device, "LAB-07");
    bury_alarms(&deployment, &device, 1).await;
    multiply(&deployment, 999);
    let few = peak(&deployment);
    multiply(&deployment, 49_000);
    let many = peak(&deployment);
    println!("{few} KiB with 1,000 letters, {many} KiB with 50,000");
    // The numbers of the letters are kept, and the pages that SQLite has read; the letters are not.
    assert!(many < few + 16 * 1024, "{few} KiB with 1,000 letters, {many} KiB with 50,000");
    let body = alarm(&device).body.len();
    assert!(body * 49_000 > 16 * 1024 * 1024, "all of them in memory would show: {body}");
}

/// The most memory that planning a replay takes, in KiB, as the system counts it.
fn peak(deployment: &Deployment) -> u64 {
    let output = Command::new("python3")
        .args([
            "-c",
            "import resource, subprocess, sys\n\
             subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n\
             print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
        ])
        .arg(env!("CARGO_BIN_EXE_keyturn"))
        .arg("--config")
        .arg(deployment.config())
        .args(["dead-letters", "replay", "--where", "reason:exhausted", "--dry-run"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}
