//! What `keyturn doctor` finds on deployments that are well, ill and broken, and what `keyturn support` leaves out.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rusqlite::Connection;
use serde_json::Value;

use crate::deployment::{Deployment, register, text};
use crate::keys::World;
use crate::processes::free_address;

/// State and mend of each check of this name.
fn found(deployment: &Deployment, check: &str) -> Vec<(String, String)> {
    let output = deployment.keyturn(&["--output", "json", "doctor"]);
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let failed = checks.iter().any(|check| check["state"] == "Failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
    let these = checks.iter().filter(|one| one["check"] == check);
    let told = |one: &Value| {
        let text = format!("{} {}", one["found"].as_str().unwrap(), one["mend"].as_str().unwrap_or_default());
        (one["state"].as_str().unwrap().to_owned(), text)
    };
    these.map(told).collect()
}

fn is(deployment: &Deployment, check: &str, state: &str, said: &str) {
    let found = found(deployment, check);
    assert!(found.iter().any(|(is, text)| is == state && text.contains(said)), "{check}: {found:?}");
}

fn file(deployment: &Deployment) -> Connection {
    Connection::open(deployment.path("data/keyturn.db")).unwrap()
}

/// By the rule that roles go by: a group may read a key, and share the database.
#[test]
fn files_may_be_a_groups_and_not_the_worlds() {
    let deployment = Deployment::init();
    let (vault, database) = (deployment.path("data/keys/vault.key"), deployment.path("data/keyturn.db"));
    let mode = |file: &std::path::Path, mode: u32| {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    };
    is(&deployment, "permissions", "Ok", "closed to others");
    mode(&vault, 0o640);
    mode(&database, 0o660);
    is(&deployment, "permissions", "Ok", "closed to others; its group may read 1 key file");
    is(&deployment, "keys", "Ok", "");
    for exposed in [0o644, 0o660, 0o601] {
        mode(&vault, exposed);
        is(&deployment, "permissions", "Failed", "chmod 600");
        is(&deployment, "keys", "Failed", "until then no role reads it");
    }
    mode(&vault, 0o600);
    mode(&database, 0o664);
    is(&deployment, "permissions", "Failed", "chmod o= ");
}

#[test]
fn each_illness_is_told_with_its_mend() {
    let deployment = Deployment::init();
    deployment.add(&register(), "LAB-07");
    let well = deployment.ok(&["doctor"]);
    assert!(!well.contains("failed"), "{well}");
    assert_eq!(
        well.lines().filter(|line| line.starts_with("ok ")).count() + 1,
        well.lines().count(),
        "{well}"
    );
    is(&deployment, "root key", "Warning", "take it off this machine");
    fs::rename(deployment.path("data/offline"), deployment.path("elsewhere")).unwrap();
    is(&deployment, "root key", "Ok", "");

    let vault = deployment.path("data/keys/vault.key");
    fs::rename(&vault, deployment.path("vault.key")).unwrap();
    is(&deployment, "keys", "Failed", "vault");
    fs::rename(deployment.path("vault.key"), &vault).unwrap();

    // The rotator signs with a key that the root never vouched for.
    let other = Deployment::init();
    let signing = deployment.path("data/keys/signing.key");
    let good = fs::read(&signing).unwrap();
    fs::copy(other.path("data/keys/signing.key"), &signing).unwrap();
    is(&deployment, "agent pins", "Failed", "does not list");
    fs::write(&signing, good).unwrap();
    let set = deployment.path("data/keys/key-set.jws");
    let good = fs::read(&set).unwrap();
    fs::copy(other.path("data/keys/key-set.jws"), &set).unwrap();
    is(&deployment, "agent pins", "Failed", "not signed by this deployment's root");
    fs::write(&set, good).unwrap();
    is(&deployment, "agent pins", "Ok", "signing-1");

    file(&deployment).execute("UPDATE queue_counters SET dead = 3 WHERE queue = 2", []).unwrap();
    is(&deployment, "queue", "Warning", "findings: 0 wait, 3 dead");
    file(&deployment)
        .execute("INSERT INTO queue_requests VALUES (1, 1, zeroblob(32), zeroblob(16), '')", [])
        .unwrap();
    is(&deployment, "queue", "Warning", "see whether its worker runs");

    file(&deployment)
        .execute_batch(
            "DROP TRIGGER audit_is_never_changed; UPDATE audit SET at = 99999999999999 WHERE seq = 1",
        )
        .unwrap();
    is(&deployment, "audit", "Failed", "row 1 does not follow");
    is(&deployment, "clock", "Failed", "time server");
    let before: i64 =
        file(&deployment).query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).unwrap();
    is(&deployment, "audit writable", "Ok", "could be written");
    file(&deployment)
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .unwrap();
    is(&deployment, "audit writable", "Failed", "disk full");
    let after: i64 = file(&deployment).query_row("SELECT count(*) FROM audit", [], |row| row.get(0)).unwrap();
    assert_eq!(before, after, "looking leaves no row");

    deployment.configure("[nonsense]\n");
    is(&deployment, "configuration", "Failed", "nonsense");
}

/// A file that others may read is there and whole: nothing has to be put back.
#[test]
fn a_key_that_others_may_read_is_mended_where_it_is() {
    let deployment = Deployment::init();
    let vault = deployment.path("data/keys/vault.key");
    fs::set_permissions(&vault, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = found(&deployment, "keys");
    assert!(exposed.iter().any(|(state, text)| state == "Failed" && text.contains("`chmod 600` it")));
    assert!(!exposed.iter().any(|(_, text)| text.contains("put the file back")), "{exposed:?}");
}

#[test]
fn a_recovery_log_that_cannot_be_written_is_told_by_doctor_and_config_check() {
    let deployment = Deployment::init();
    assert!(!deployment.ok(&["doctor"]).contains("recovery log"), "there is none");
    let key = deployment.path("recovery.key");
    deployment.ok(&["vault", "recovery-key", key.to_str().unwrap()]);
    let configure = |more: &str| {
        deployment.configure(&format!(
            "[vault]\nrecovery_log = \"../elsewhere/vault.log\"\nrecovery_key = \"../recovery.key.pub\"\n{more}"
        ));
    };
    let checked = || {
        let output = deployment.keyturn(&["config", "check"]);
        (output.status.success(), text(&output.stdout))
    };
    configure("");
    is(&deployment, "recovery log", "Failed", "elsewhere: No such file");
    let (well, said) = checked();
    assert!(!well && said.contains("failed  recovery log") && said.contains("elsewhere"), "{said}");
    // Nothing waits for a log that is not required.
    configure("recovery_required = false\n");
    is(&deployment, "recovery log", "Warning", "elsewhere: No such file");
    configure("");
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    is(&deployment, "recovery log", "Ok", "can be appended to");
    assert!(checked().0, "{}", checked().1);
    let log = deployment.path("elsewhere/vault.log");
    assert!(!log.exists(), "looking leaves nothing");
    fs::create_dir(&log).unwrap();
    is(&deployment, "recovery log", "Failed", "vault.log: Is a directory");
    fs::remove_dir(&log).unwrap();
    fs::remove_file(deployment.path("recovery.key.pub")).unwrap();
    is(&deployment, "recovery log", "Failed", "recovery.key.pub");
}

/// A hop that is not in the database is not mended there.
#[test]
fn a_hop_elsewhere_that_does_not_answer_is_told_with_where_it_is() {
    let deployment = Deployment::init();
    let secret = deployment.path("queues.key");
    fs::write(&secret, "bm90IGEgc2VjcmV0LCBidXQgYSB0ZXN0Cg==").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // Nothing listens there.
    let nowhere = free_address();
    deployment.configure(&format!(
        "[queues]\nfindings = \"azure-storage\"\noutcomes = \"service-bus\"\n[queues.azure_storage]\n\
         endpoint = \"http://{nowhere}/account\"\naccess = \"key\"\naccount = \"account\"\nsecret_file = {secret:?}\n\
         [queues.service_bus]\nendpoint = \"amqp://{nowhere}\"\naccess = \"key\"\npolicy = \"p\"\n\
         secret_file = {secret:?}\n[azure]\nattempts = 1\n"
    ));
    let found = found(&deployment, "queue");
    for (queue, state, mend) in [
        ("requests", "Ok", ""),
        ("findings", "Failed", "see queues.azure_storage"),
        ("outcomes", "Failed", "see queues.service_bus"),
        ("alarms", "Ok", ""),
    ] {
        let told = found.iter().find(|(_, text)| text.starts_with(&format!("{queue}:"))).unwrap();
        assert!(
            told.0 == state && told.1.contains(mend) && !told.1.contains("mend the database"),
            "{told:?}"
        );
    }
}

/// What a queue was made with cannot be seen from the outside, so both ways are asked.
#[cfg(feature = "service-bus")]
#[test]
fn a_queue_that_requires_sessions_and_settings_that_do_not_agree_are_told() {
    use keyturn_testkit::service_bus::{FakeServiceBus, KEY, POLICY};
    use serde_json::json;

    let queues = json!({ "keyturn-findings": { "sessions": true }, "keyturn-outcomes": {} });
    let fake = FakeServiceBus::start(&queues, None);
    let deployment = Deployment::init();
    let secret = deployment.path("policy.key");
    fs::write(&secret, KEY).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    for sessions in [false, true] {
        deployment.configure(&format!(
            "[queues]\nfindings = \"service-bus\"\noutcomes = \"service-bus\"\n[queues.service_bus]\n\
             endpoint = \"{}\"\naccess = \"key\"\npolicy = \"{POLICY}\"\nsecret_file = {secret:?}\n\
             sessions = {sessions}\n[azure]\nattempts = 1\n",
            fake.url("amqp"),
        ));
        let found = found(&deployment, "sessions");
        assert_eq!(found.len(), 2, "{found:?}");
        for (queue, requires) in [("findings", true), ("outcomes", false)] {
            let (state, told) = found.iter().find(|(_, text)| text.starts_with(queue)).unwrap();
            let expected = if requires == sessions { "Ok" } else { "Failed" };
            assert_eq!(state, expected, "{queue}: {told}");
            assert_eq!(told.contains("--enable-session"), requires != sessions, "{told}");
        }
    }
}

#[test]
fn a_certificate_is_told_of_before_it_ends() {
    let deployment = Deployment::init();
    let (certificate, key) = (deployment.path("c.pem"), deployment.path("k.pem"));
    let make = |from: (i32, u8), until: (i32, u8)| {
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, 1);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, 1);
        fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
    };
    let configure = |warn: &str| {
        deployment.configure(&format!(
            "[ingress]\ntls.certificate = {certificate:?}\ntls.key = {key:?}\n[doctor]\ncertificate_warn = \"{warn}\"\n"
        ));
    };
    configure("30d");
    make((2020, 1), (2100, 1));
    is(&deployment, "certificate", "Ok", "days");
    configure("100000d");
    is(&deployment, "certificate", "Warning", "put a new certificate");
    make((2020, 1), (2021, 1));
    is(&deployment, "certificate", "Failed", "has ended");
    make((2090, 1), (2100, 1));
    is(&deployment, "certificate", "Failed", "not valid yet");
    fs::write(&certificate, "x").unwrap();
    is(&deployment, "certificate", "Failed", "no certificate that can be read");
}

/// Every secret that there is, and the bundle that has none of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_holds_no_secret() {
    let mut world = World::start().await;
    world.round().await;
    let deployment = &world.deployment;
    let secret = deployment.path("hook.key");
    let canary = "whsec_Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ";
    fs::write(&secret, canary).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let shown = deployment.ok(&["reveal", &world.devices[0].name, "--reason", "canary-reason"]);
    let password = shown.split('\t').nth(1).unwrap().to_owned();
    world.stop();
    deployment.configure(&format!(
        "[alarms]\nproxy = \"http://127.0.0.1:3128\"\n[[alarms.webhook]]\nname = \"desk\"\n\
         url = \"https://hooks.example.org/T0/canary-token?k=canary-query\"\nsecret_file = {secret:?}\n"
    ));
    let to = deployment.path("bundle.json");
    deployment.ok(&["support", to.to_str().unwrap()]);
    let bundle = fs::read_to_string(&to).unwrap();
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    let parsed: Value = serde_json::from_str(&bundle).unwrap();
    assert!(
        parsed["checks"].as_array().unwrap().len() > 10 && parsed["queues"].as_array().unwrap().len() == 4
    );
    assert!(bundle.contains("127.0.0.1:3128") && bundle.contains("audit_head"), "it is of use");

    let mut canaries = vec![canary.to_owned(), password, "canary-".to_owned(), "canary-reason".to_owned()];
    for entry in fs::read_dir(deployment.path("data/keys")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        canaries.extend(text.split('"').filter(|part| part.len() >= 40).map(str::to_owned));
    }
    assert!(canaries.len() > 8, "there are keys to look for: {}", canaries.len());
    for canary in &canaries {
        assert!(
            !bundle.contains(canary.as_str()),
            "a secret of {} characters is in the bundle",
            canary.len()
        );
    }
    let again = deployment.keyturn(&["support", to.to_str().unwrap()]);
    let error = text(&again.stderr);
    assert!(!again.status.success() && error.contains("there is such a file already"), "{error}");
}
