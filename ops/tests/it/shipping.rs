//! Audit and events to Azure Monitor, as real processes; fakes of the Logs Ingestion API and of the managed identity's
//! endpoint stand for Azure.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::logs::{FakeLogs, Fault, RULE};
use keyturn_testkit::postgres::TestDatabase;
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::key_vault::Up;
use crate::processes::{Role, build, free_address, install, run};

const AUDIT: &str = "Custom-CloudLAPSAudit_CL";
const EVENTS: &str = "Custom-CloudLAPSClient_CL";

struct Site {
    deployment: Deployment,
    fake: FakeLogs,
    listen: SocketAddr,
    health: SocketAddr,
    settings: String,
    _identity: ManagedIdentity,
}

impl Site {
    async fn new(state: &str) -> Self {
        let template = serde_json::from_str(include_str!("../../../infra/azure/logs.json")).unwrap();
        let (fake, identity) = (FakeLogs::start(&template).await, ManagedIdentity::start().await);
        let mut deployment = Deployment::init();
        deployment.variables = identity.variables().to_vec();
        let (listen, health) = (free_address(), free_address());
        fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
        let settings = format!(
            "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"{health}\"\n\
             [workers]\nlease = \"1s\"\nfirst_delay = \"50ms\"\nmax_deliveries = 1000\n\
             [rotation]\nversions_per_day = 1000\n\
             [azure]\nca = \"azure.pem\"\ntimeout = \"1s\"\nattempts = 1\nmax_delay = \"200ms\"\n\
             [azure.logs]\nendpoint = \"{}\"\nrule = \"{RULE}\"\nevery = \"50ms\"\nmax_delay = \"200ms\"\n\
             lease = \"2s\"\npage = 3\n",
            fake.server.url()
        );
        deployment.configure(&format!("{settings}{state}"));
        deployment.make_tables();
        Self { deployment, fake, listen, health, settings, _identity: identity }
    }

    /// What the export has of a stream, one row each.
    fn exported(&self, stream: &str) -> Vec<Value> {
        let noun = if stream == AUDIT { "audit" } else { "events" };
        let lines = self.deployment.ok(&[noun, "export"]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until everything the store has is there, and checks its order. Returns how many rows came more than once.
    async fn everything_arrives(&self, stream: &str) -> usize {
        let ids = |rows: &[Value]| -> Vec<String> {
            rows.iter().map(|row| row["RowId"].as_str().unwrap().to_owned()).collect()
        };
        let mut tries = 0;
        loop {
            let (stored, arrived) = (ids(&self.exported(stream)), ids(&self.fake.rows(stream)));
            let mut seen = BTreeSet::new();
            let merged: Vec<&String> = arrived.iter().filter(|id| seen.insert(*id)).collect();
            // Whatever is there is there in the order of the store, from its beginning.
            assert!(merged.iter().zip(&stored).all(|(there, here)| *there == here), "{merged:?}\n{stored:?}");
            if merged.len() == stored.len() {
                return arrived.len() - merged.len();
            }
            tries += 1;
            assert!(tries < 200, "{} of {} rows of {stream} arrived", merged.len(), stored.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn asks(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.health).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn metric(&self, named: &str) -> f64 {
        let text = self.asks("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(named));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    fn doctor(&self) -> String {
        text(&self.deployment.keyturn(&["doctor"]).stdout)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_in_the_store_while_the_service_is_away_and_reveals_do_not() {
    let site = Site::new("").await;
    site.fake.always(Some(Fault::Unavailable));
    let device = install(&site.deployment, 0, site.listen);
    let _up = Up::start(&site.deployment);
    run(device.agent()).await;
    device.invariant_settled(&site.deployment);
    site.deployment.ok(&["reveal", &device.name, "--reason", "while the service is away"]);
    for _ in 0..100 {
        if site.metric("keyturn_log_failures_total{stream=\"audit\"}") >= 3.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(site.fake.rows(AUDIT).is_empty() && site.fake.rows(EVENTS).is_empty());
    assert!(site.metric("keyturn_log_lag_seconds{stream=\"audit\"}") > 0.0);
    assert!(site.metric("keyturn_log_rows_waiting{stream=\"events\"}") >= 3.0);
    assert!(site.asks("/readyz").contains("200 OK"), "devices are served all the same");
    let told = site.doctor();
    assert!(told.contains("failed  log shipping") && told.contains("status 503"), "{told}");

    // Without its row in the store's own audit no password is shown, whatever becomes of the service.
    let file = rusqlite::Connection::open(site.deployment.path("data/keyturn.db")).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    file.execute_batch(full).unwrap();
    site.fake.always(None);
    let refused = site.deployment.keyturn(&["reveal", &device.name, "--reason", "no room"]);
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{}", text(&refused.stdout));
    file.execute_batch("DROP TRIGGER full").unwrap();

    for stream in [AUDIT, EVENTS] {
        site.everything_arrives(stream).await;
    }
    // The same columns in the export and in the table, under their two names, with the same values.
    for (stream, named, other) in [
        (AUDIT, "UserPrincipalName_s", "UserPrincipalName"),
        (EVENTS, "Message_s", "Message"),
        (EVENTS, "Event", "Event"),
    ] {
        let (rows, exported) = (site.fake.rows(stream), site.exported(stream));
        let values =
            |rows: &[Value], name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
        assert_eq!(values(&rows, named), values(&exported, other), "{named}");
    }
    let looked = site.fake.rows(AUDIT);
    let looked = looked.iter().find(|row| row["Reason"] == "while the service is away").unwrap();
    assert_eq!(looked["Action_s"], "SecretGet");
    assert_eq!(looked["ComputerName_s"], device.name.as_str());
    for _ in 0..100 {
        if site.metric("keyturn_log_rows_waiting{stream=\"events\"}") == 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(site.metric("keyturn_log_lag_seconds{stream=\"events\"}") == 0.0);
    let told = site.doctor();
    assert!(told.contains("would take rows") && told.contains("events: everything is shipped"), "{told}");

    site.fake.always(Some(Fault::Forbidden));
    let told = site.doctor();
    assert!(told.contains("Monitoring Metrics Publisher"), "{told}");
}

/// A notifier that dies after the service took its rows, and before that is noted, has them sent again, under the same
/// ids; two notifiers at once ship as one.
async fn a_notifier_killed_between_send_and_note_loses_nothing(state: &str) {
    build();
    let site = Site::new(state).await;
    let device = install(&site.deployment, 0, site.listen);
    let [_ingress, _validator, _rotator] =
        ["ingress", "validator", "rotator"].map(|name| Role::start(name, &site.deployment));
    // The first call of each stream is taken over and never answered.
    for stream in [AUDIT, EVENTS] {
        site.fake.fault_of(stream, Fault::DoneInSilence);
    }
    let mut first = Role::start("notifier", &site.deployment);
    run(device.agent()).await;
    while site.fake.rows(AUDIT).is_empty() || site.fake.rows(EVENTS).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.kill_and_restart(&site.deployment);
    let _second = Role::start("notifier", &site.deployment);
    device.invariant_settled(&site.deployment);
    // What was noted nowhere is sent again; it may all have arrived before that.
    let mut repeated = [0, 0];
    for _ in 0..200 {
        repeated = [site.everything_arrives(AUDIT).await, site.everything_arrives(EVENTS).await];
        if !repeated.contains(&0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(repeated.iter().all(|rows| (1..=9).contains(rows)), "{repeated:?} rows twice");

    // Killed at any moment, with a service that answers late, fails after the fact, and throttles.
    for round in 0..4 {
        site.fake.faults([
            Fault::Late(Duration::from_millis(300)),
            Fault::DoneThen500,
            Fault::Unavailable,
            Fault::DoneThenCut,
            Fault::Throttled(Some(1)),
        ]);
        site.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
        let agent = tokio::spawn(run(device.agent()));
        tokio::time::sleep(Duration::from_millis(150 * round)).await;
        first.kill_and_restart(&site.deployment);
        agent.await.unwrap();
        device.invariant_settled(&site.deployment);
    }
    for stream in [AUDIT, EVENTS] {
        site.everything_arrives(stream).await;
        assert!(site.exported(stream).len() >= 10, "there is something to lose in {stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_killed_between_send_and_note_loses_nothing_on_sqlite() {
    a_notifier_killed_between_send_and_note_loses_nothing("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notifier_killed_between_send_and_note_loses_nothing_on_postgresql() {
    let database = TestDatabase::fresh();
    let state =
        format!("[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n", database.address());
    a_notifier_killed_between_send_and_note_loses_nothing(&state).await;
    assert_ne!(database.sql("SELECT place FROM keyturn.shipped WHERE stream = 2"), "0");
}

/// What was shipped from the file is not sent again from PostgreSQL, and what was not is sent from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_to_postgresql_sends_nothing_again_and_leaves_nothing_out() {
    let (site, database) = (Site::new("").await, TestDatabase::fresh());
    let device = install(&site.deployment, 0, site.listen);
    let up = Up::start(&site.deployment);
    run(device.agent()).await;
    for stream in [AUDIT, EVENTS] {
        site.everything_arrives(stream).await;
    }
    let mut tries = 0;
    while site.doctor().matches("everything is shipped").count() < 2 {
        tries += 1;
        assert!(tries < 200, "{}", site.doctor());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // While the service is away some more comes, which is still to be sent when the state moves.
    site.fake.always(Some(Fault::Unavailable));
    site.deployment.ok(&["device", "rotate-now", &device.name, "--reason", "before the move"]);
    run(device.agent()).await;
    let before = [AUDIT, EVENTS].map(|stream| (site.fake.rows(stream).len(), site.exported(stream).len()));
    assert!(before.iter().all(|(there, all)| *there > 0 && there < all), "{before:?}");
    drop(up);

    let (file, to) = (site.deployment.path("data/file.toml"), site.deployment.path("data/postgres.toml"));
    fs::rename(site.deployment.config(), &file).unwrap();
    site.deployment.configure(&format!(
        "{}[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{}\"\n",
        site.settings,
        database.address()
    ));
    fs::copy(site.deployment.config(), &to).unwrap();
    let moved = std::process::Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .envs(site.deployment.variables.iter().cloned())
        .arg("--config")
        .arg(&file)
        .args(["migrate", "--reason", "several machines", "--to"])
        .arg(&to)
        .output()
        .unwrap();
    assert!(moved.status.success(), "{}", text(&moved.stderr));
    let places = database.sql("SELECT string_agg(place::text, ',' ORDER BY stream) FROM keyturn.shipped");
    assert!(places.split(',').all(|place| place != "0"), "{places}");

    site.fake.always(None);
    let _up = Up::start(&site.deployment);
    for stream in [AUDIT, EVENTS] {
        assert_eq!(site.everything_arrives(stream).await, 0, "rows of {stream} were sent again");
    }
}
