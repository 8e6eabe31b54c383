//! What is refused before anything is done: settings that would be taken in silence, databases that are not there, and
//! words that cannot be meant.

use std::fs;

use keyturn_testkit::postgres::TestDatabase;

use crate::cli::fails;
use crate::deployment::{Deployment, text};

#[test]
fn a_log_level_that_is_none_is_refused_wherever_it_is_said() {
    let deployment = Deployment::init();
    for (logs, said) in [
        ("level = \"loud\"", "logs.level: «loud» is no level"),
        ("level = \"info,keyturn_rotatr=debug\"", "there is no part «keyturn_rotatr» of Keyturn"),
        ("format = \"xml\"", "logs.format: \"xml\" is neither \"json\" nor \"text\""),
    ] {
        deployment.configure(&format!("[logs]\n{logs}\n"));
        for arguments in [&["config", "check"][..], &["up"], &["queues"]] {
            fails(&deployment, arguments, 1, &["keyturn.toml", said]);
        }
    }
    deployment.configure("[logs]\nlevel = \"info,hyper=debug\"\n");
    deployment.ok(&["config", "check"]);
    fails(
        &deployment,
        &["up", "--log-level", "lud"],
        2,
        &["--log-level", "«lud» is no level", "debug or trace"],
    );
    fails(&deployment, &["log-level", "nonsense"], 2, &["«nonsense» is no level"]);
}

#[test]
fn a_database_that_is_not_there_is_told_of_and_not_made() {
    let deployment = Deployment::init();
    deployment.configure("[data]\nfile = \"keytrun.db\"\n");
    let elsewhere = deployment.path("data/keytrun.db");
    for arguments in [&["queues"][..], &["device", "list"], &["audit", "verify"], &["keys", "list"]] {
        fails(
            &deployment,
            arguments,
            3,
            &["keytrun.db: there is no database", "data.file", "keyturn restore"],
        );
    }
    let doctor = deployment.keyturn(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(text(&doctor.stdout).contains("keytrun.db: there is no database"), "{}", text(&doctor.stdout));
    assert!(!elsewhere.exists(), "looking makes nothing");

    deployment.configure("");
    let backup = deployment.path("backup");
    deployment.ok(&["backup", "create", backup.to_str().unwrap()]);
    let database = deployment.path("data/keyturn.db");
    for name in ["data/keyturn.db", "data/keyturn.db-wal", "data/keyturn.db-shm"] {
        let _ = fs::remove_file(deployment.path(name));
    }
    let shown = &["keyturn.db: there is no database", "keyturn.db.epoch shows that there was one"];
    fails(&deployment, &["up"], 1, shown);
    assert!(!database.exists(), "a lost database is not replaced by an empty one");
    deployment.ok(&["restore", backup.to_str().unwrap(), "--reason", "it was lost"]);
    deployment.ok(&["queues"]);
}

/// A name that was mistyped, on a server: neither an empty database nor somebody else's becomes ours in passing.
#[test]
fn a_database_on_a_server_without_tables_is_told_of_and_not_made() {
    let (database, deployment) = (TestDatabase::fresh(), Deployment::init());
    fails(&deployment, &["init", "--tables"], 2, &["--tables", "state.engine"]);
    let url = database.address();
    deployment.configure(&format!(
        "[health]\nall = \"off\"\n[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"{url}\"\n"
    ));
    database.sql("CREATE TABLE public.orders (id int)");
    let said =
        &["KT-0325", "somebody else's", "state.postgres.url", "keyturn init --tables", "keyturn migrate"];
    for arguments in [&["queues"][..], &["device", "list"], &["audit", "verify"]] {
        fails(&deployment, arguments, 3, said);
    }
    fails(&deployment, &["up", "--listen", "127.0.0.1:0"], 3, said);
    // Nor does a move make any beside somebody else's, and its plan does not either.
    let to = deployment.path("data/postgres.toml");
    fs::rename(deployment.config(), &to).unwrap();
    deployment.configure("");
    for last in [&["--dry-run"][..], &["--reason", "several machines"]] {
        let words = [&["migrate", "--to", to.to_str().unwrap()], last].concat();
        let moved = deployment.keyturn(&words);
        assert!(
            !moved.status.success() && text(&moved.stderr).contains("KT-0325"),
            "{}",
            text(&moved.stderr)
        );
    }
    fs::rename(&to, deployment.config()).unwrap();
    let doctor = text(&deployment.keyturn(&["doctor"]).stdout);
    assert!(doctor.contains("KT-0325") && doctor.starts_with("failed"), "{doctor}");
    let schemas = || database.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'keyturn'");
    assert_eq!(schemas(), "0", "looking makes nothing");

    let made = text(&deployment.keyturn(&["init", "--tables"]).stderr);
    assert!(made.contains("The tables are made") && made.contains("somebody else's"), "{made}");
    deployment.ok(&["queues"]);
    let again = text(&deployment.keyturn(&["init", "--tables"]).stderr);
    assert!(again.contains("nothing was made"), "{again}");
    fails(&deployment, &["init"], 2, &["--name"]);
}

#[test]
fn what_is_in_effect_is_printed_as_a_file_of_it_could_be_without_secrets() {
    let deployment = Deployment::init();
    deployment.configure("[rotation]\nupdate_frequency = \"36h\"\n[[policy]]\nname = \"a\"\nhost = [\"SRV-*\"]\nwords = 8\ncomplexity = 6\n");
    let printed = deployment.ok(&["config", "print"]);
    assert!(
        printed.contains("update_frequency = \"36h\"") && printed.contains("nonce_ttl = \"5m\""),
        "{printed}"
    );
    fs::write(deployment.config(), &printed).unwrap();
    assert_eq!(deployment.ok(&["config", "print"]), printed, "it is a configuration, and the same one");
    let json: serde_json::Value =
        serde_json::from_str(&deployment.ok(&["--output", "json", "config", "print"])).unwrap();
    assert_eq!(
        (json["rotation"]["update_frequency"].as_str(), json["workers"]["batch"].as_u64()),
        (Some("36h"), Some(64))
    );

    let secret = deployment.path("data/keys/desk.secret");
    deployment.configure(&format!(
        "[alarms]\nproxy = \"http://proxy.example.org:3128\"\n[[alarms.webhook]]\nname = \"desk\"\n\
         url = \"https://hooks.example.org/T0KEN\"\nsecret_file = {secret:?}\n"
    ));
    for output in ["text", "json"] {
        let printed = deployment.ok(&["--output", output, "config", "print"]);
        assert!(printed.contains("desk") && printed.contains("proxy.example.org"), "{printed}");
        assert!(!printed.contains("T0KEN"), "{printed}");
    }
    let checked = deployment.keyturn(&["--output", "json", "config", "check"]);
    let told: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let failed: Vec<_> = told.as_array().unwrap().iter().filter(|one| one["state"] == "failed").collect();
    assert!(
        checked.status.code() == Some(1) && failed.len() == 1 && failed[0]["check"] == "webhook",
        "{told}"
    );
    deployment.configure("[logs]\nformat = \"xml\"\n");
    let told: serde_json::Value =
        serde_json::from_slice(&deployment.keyturn(&["--output", "json", "config", "check"]).stdout).unwrap();
    assert!(
        told[0]["state"] == "failed" && told[0]["found"].as_str().unwrap().contains("logs.format"),
        "{told}"
    );
}

#[test]
fn a_key_set_of_another_deployment_is_refused_at_the_start() {
    let deployment = Deployment::init();
    fs::write(deployment.config(), "[deployment]\nname = \"renamed\"\n").unwrap();
    let said = &["key-set.jws", "of deployment «test»", "name = \"test\" back", "sign a new key set"];
    fails(&deployment, &["up"], 1, said);
    for check in ["config check", "doctor"] {
        let output = deployment.keyturn(&check.split(' ').collect::<Vec<_>>());
        let told = text(&output.stdout);
        assert!(output.status.code() == Some(1) && told.contains("of deployment «test»"), "{told}");
    }
}

#[test]
fn what_is_said_wrongly_is_code_2() {
    let deployment = Deployment::init();
    let device = crate::deployment::register();
    deployment.add(&device, "LAB-07");
    let certificate = deployment.path("LAB-07.cer");
    for (arguments, said) in [
        (&["dead-letters", "list", "--where", "colour:red"][..], "--where: "),
        (&["dead-letters", "list", "--queue", "foo"], "--queue: foo: the queues are"),
        (&["audit", "export", "--since", "yesterday"], "--since: «yesterday»: expected an instant"),
        (&["events", "export", "--since", "yesterday"], "--since: «yesterday»: expected an instant"),
        (&["dead-letters", "replay", "7", "--reason", ""], "--reason must say why"),
        (&["device", "hold", "LAB-07", "--reason", ""], "--reason must say why"),
        (
            &["device", "add", "--cert", certificate.to_str().unwrap(), "--name", "x", "--join", "Foo"],
            "--join: ",
        ),
        (&["device", "close-lane", "LAB-07", "--lane", "?", "--reason", "x"], "--lane: "),
        (&["queues", "--watch=0s"], "--watch: looks are at least"),
    ] {
        fails(&deployment, arguments, 2, &[said]);
    }
}

#[test]
fn a_configuration_that_cannot_be_looked_at_is_not_taken_for_none() {
    let deployment = Deployment::init();
    // Even root cannot follow it.
    fs::remove_file(deployment.config()).unwrap();
    std::os::unix::fs::symlink("keyturn.toml", deployment.config()).unwrap();
    let output = deployment.keyturn(&["queues"]);
    let error = text(&output.stderr);
    assert!(error.contains("cannot be read: Too many levels") && error.contains("--config"), "{error}");
    assert!(!error.contains("keyturn init") && error.matches("Too many levels").count() == 1, "{error}");
    if !rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = deployment.path("data");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
        let error = text(&deployment.keyturn(&["queues"]).stderr);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(error.contains("Permission denied") && !error.contains("keyturn init"), "{error}");
    }
}

#[test]
fn a_port_in_use_and_a_file_in_the_way_are_told_once_with_the_mend() {
    let deployment = Deployment::init();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    deployment.configure(&format!("[health]\nall = \"{address}\"\n"));
    let output = deployment.keyturn(&["up", "--listen", "127.0.0.1:0"]);
    let error = text(&output.stderr);
    assert_eq!(error.matches("Address already in use").count(), 1, "{error}");
    let there = deployment.config();
    fails(
        &deployment,
        &["support", there.to_str().unwrap()],
        1,
        &["keyturn.toml: there is such a file already"],
    );
}
