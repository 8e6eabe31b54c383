//! Codes of errors, as the real programs say them: code, exit code, the mend and the page, for people and for programs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::deployment::{Deployment, register, text};
use crate::processes::{ROLES, build};

/// A database's server where nobody listens.
const AWAY: &str =
    "[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"postgres://keyturn@127.0.0.1:1/keyturn\"\n";

/// What the command says: with this code and exit code, the mend in a line of its own, and where the page is; and the same
/// as JSON, as the last line.
fn says(deployment: &Deployment, arguments: &[&str], code: &str, exit: i32, said: &str) {
    let output = deployment.keyturn(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {error}");
    let lines: Vec<&str> = error.lines().collect();
    let told = lines.iter().any(|line| line.starts_with(&format!("keyturn: {code} ")));
    assert!(told && error.contains(said), "{arguments:?}: {error}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("  ") && last.ends_with(&format!("(`keyturn explain {code}`)")), "{error}");

    let output = deployment.keyturn(&[arguments, &["--output", "json"]].concat());
    let value: Value = serde_json::from_str(text(&output.stderr).lines().last().unwrap()).unwrap();
    assert_eq!((&value["code"], &value["exit"]), (&code.into(), &exit.into()), "{value}");
    assert!(last.contains(value["mend"].as_str().unwrap()), "{value}");
    let page = deployment.ok(&["explain", code]);
    assert!(page.starts_with(&format!("# {code} {}\n", value["title"].as_str().unwrap())), "{page}");
}

fn file(deployment: &Deployment, name: &str, content: &str) -> String {
    let path = deployment.path(name);
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn what_is_said_of_a_deployment_that_is_well() {
    let deployment = Deployment::init();
    for _ in 0..2 {
        deployment.add(&register(), "TWIN");
    }
    let device = register();
    deployment.add(&device, "LAB-07");
    let certificate = deployment.path("LAB-07.cer").display().to_string();
    let garbage = file(&deployment, "garbage", "this is nothing of Keyturn's\n");
    let there = file(&deployment, "there", "");
    let other = Deployment::init();
    let root = other.path("data/offline/root.key").display().to_string();
    deployment.ok(&["keys", "rotate", "stamp"]);
    for (arguments, code, exit, said) in [
        (&["dead-letters", "list", "--where", "reason:none"][..], "KT-0401", 2, "the reasons are"),
        (&["reveal", "LAB-07", "--reason", " "], "KT-0402", 2, "--reason must say why"),
        (&["device", "show", "LAB-99"], "KT-0404", 3, "«LAB-99»: no device has this name"),
        (&["dead-letters", "show", "7"], "KT-0405", 3, "no such dead letter"),
        (&["explain", "KT-9999"], "KT-0405", 3, "«KT-9999»: there is no such code"),
        (&["reveal", "LAB-07", "--reason", "x"], "KT-0406", 3, "no password is known"),
        (&["device", "show", "TWIN"], "KT-0407", 5, "names several devices"),
        (
            &["dead-letters", "replay", "--where", "age:<1d", "--plan", "0123", "--reason", "x"],
            "KT-0408",
            5,
            "not those of plan «0123» any more",
        ),
        (&["vault", "history", "LAB-07"], "KT-0409", 5, "in its database"),
        (&["keys", "rotate", "stamp"], "KT-0410", 5, "there are two keys already"),
        (&["device", "add", "--cert", &certificate, "--name", "LAB-08"], "KT-0412", 5, "--replace"),
        (&["backup", "create", &there], "KT-0413", 1, "exists: name another file"),
        (&["support", &there], "KT-0413", 1, "there is such a file already"),
        (&["device", "import", "/nonexistent"], "KT-0414", 1, "/nonexistent: cannot be read"),
        (&["backup", "create", "/nonexistent/backup"], "KT-0415", 1, "see that its folder exists"),
        (
            &["device", "add", "--cert", &garbage, "--name", "LAB-08"],
            "KT-0416",
            1,
            "not an X.509 certificate, neither in PEM nor in DER",
        ),
        (&["root", "sign-keys", "--root", &root], "KT-0417", 1, "not the root that signed the key set"),
        (
            &["audit", "verify", "--anchor", &file(&deployment, "anchors", "{}\n")],
            "KT-0422",
            1,
            "anchors:1: not an anchor",
        ),
        (&["backup", "verify", &garbage], "KT-0423", 1, "no usable backup"),
    ] {
        says(&deployment, arguments, code, exit, said);
    }
}

#[test]
fn what_is_said_of_what_does_not_agree_or_was_changed() {
    let deployment = Deployment::init();
    deployment.add(&register(), "LAB-07");
    deployment.add(&register(), "LAB-08");
    let database = rusqlite::Connection::open(deployment.path("data/keyturn.db")).unwrap();
    database.execute("UPDATE queue_counters SET dead = 5 WHERE name = 'alarms'", []).unwrap();
    says(&deployment, &["dead-letters", "reconcile"], "KT-0419", 6, "nothing was changed");
    let change = "DROP TRIGGER audit_is_never_changed; UPDATE audit SET reason = 'another' WHERE seq = 2";
    database.execute_batch(change).unwrap();
    says(&deployment, &["audit", "verify"], "KT-0421", 1, "breaks at row 2");
    says(&deployment, &["doctor"], "KT-0424", 1, "checks failed");
}

#[test]
fn what_is_said_of_a_configuration_or_a_key_that_is_not_well() {
    let deployment = Deployment::init();
    let says = |arguments: &[&str], code: &str, exit: i32, said: &str| {
        says(&deployment, arguments, code, exit, said);
    };
    let good = fs::read_to_string(deployment.config()).unwrap();
    fs::remove_file(deployment.config()).unwrap();
    says(&["fleet"], "KT-0303", 1, "there is no such file");
    for (text, said) in [
        ("[workers]\nbatch = \"some\"\n", "at line 4, column 9"),
        ("[workers]\nbatch = \"some\"\n", "a text stands there, and a whole number belongs there"),
        ("[workers\n", "keyturn.toml: at line 3"),
        ("[logs]\nformat = \"xml\"\n", "logs.format"),
    ] {
        deployment.configure(text);
        says(&["fleet"], "KT-0305", 1, said);
        let error = crate::deployment::text(&deployment.keyturn(&["fleet"]).stderr);
        assert!(!error.contains("deserialize") && !error.contains("expected u"), "{error}");
    }
    deployment.configure("[ingress.tls]\ncertificate = \"no.pem\"\nkey = \"no.key\"\n");
    says(&["up", "--listen", "127.0.0.1:0"], "KT-0323", 1, "no.pem: it cannot be read");
    fs::copy(deployment.config(), deployment.path("data/no.pem")).unwrap();
    says(&["up", "--listen", "127.0.0.1:0"], "KT-0323", 1, "no.pem: there is no certificate in it");
    deployment.configure("[state]\nengine = \"postgres\"\n[state.postgres]\nurl = \"postgres://me@db/k\"\nroots = \"keyturn.toml\"\n");
    says(&["fleet"], "KT-0321", 1, "roots");
    deployment.configure(AWAY);
    for command in [&["fleet"][..], &["up"]] {
        says(command, "KT-0318", 7, "nobody listens there");
    }
    fs::write(deployment.config(), "[deployment]\nname = \"renamed\"\n").unwrap();
    says(&["up"], "KT-0309", 1, "of deployment «test»");
    fs::write(deployment.config(), good).unwrap();

    let stamp = deployment.path("data/keys/stamp.key");
    let key = fs::read_to_string(&stamp).unwrap();
    for (content, said) in [
        ("", "it is not a key ring: the file is empty"),
        (&key[..20], "it ends too early"),
        ("stamp\n", "it is no JSON from there on (line 1, column 1)"),
    ] {
        fs::write(&stamp, content).unwrap();
        says(&["keys", "list"], "KT-0308", 1, said);
    }
    fs::write(&stamp, key).unwrap();
    fs::set_permissions(&stamp, fs::Permissions::from_mode(0o644)).unwrap();
    says(&["keys", "list"], "KT-0307", 1, "chmod 600");
    fs::remove_file(&stamp).unwrap();
    says(&["keys", "list"], "KT-0306", 1, "there is no stamp key");
}

#[test]
fn what_is_said_of_a_database_that_is_not_well() {
    let deployment = Deployment::init();
    let database = deployment.path("data/keyturn.db");
    fs::remove_file(&database).unwrap();
    says(&deployment, &["fleet"], "KT-0310", 3, "there is no database");
    says(&deployment, &["up", "--listen", "127.0.0.1:0"], "KT-0311", 1, "shows that there was one");
    for part in ["data/keyturn.db-wal", "data/keyturn.db-shm"] {
        let _ = fs::remove_file(deployment.path(part));
    }
    fs::write(&database, "this is not a database, and long enough to be looked at").unwrap();
    says(&deployment, &["fleet"], "KT-0313", 1, "is not a Keyturn database");
}

/// Roles and all of them in one process say the same as commands do, and end with the same.
#[test]
fn a_port_that_is_taken_is_told_with_its_code() {
    let deployment = Deployment::init();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    deployment.configure("[health]\nall = \"off\"\n");
    says(&deployment, &["up", "--listen", &address], "KT-0322", 1, "stop what uses it");
}

/// The roles on their own, too: what keeps one from starting has its code, and its exit code.
#[test]
fn roles_that_do_not_start_say_the_same() {
    build();
    let deployment = Deployment::init();
    let says = |code: &str, exit: i32| {
        for role in ROLES {
            let program =
                PathBuf::from(env!("CARGO_BIN_EXE_keyturn")).with_file_name(format!("keyturn-{role}"));
            let mut command = Command::new(program);
            let command = command.arg("--config").arg(deployment.config()).args(["--health", "off"]);
            let output = command.output().unwrap();
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(exit), "{role}: {error}");
            assert!(error.contains(&format!("keyturn-{role}: {code} ")), "{error}");
            assert!(error.trim_end().ends_with(&format!("(`keyturn explain {code}`)")), "{error}");
        }
    };
    deployment.configure(AWAY);
    says("KT-0318", 7);
    deployment.configure("[data]\nfile = \"keyturn.toml\"\n");
    says("KT-0313", 1);
    fs::remove_file(deployment.config()).unwrap();
    says("KT-0303", 1);
    for role in ROLES {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_keyturn")).with_file_name(format!("keyturn-{role}"));
        let output = Command::new(program).arg("--unheard-of").output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{role}: {error}");
        assert!(error.contains("--unheard-of") && error.contains("keyturn explain KT-0401"), "{error}");
    }
}

#[test]
fn output_that_cannot_be_written_is_told_with_its_code() {
    let deployment = Deployment::init();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config()).args(["audit", "list"]);
    let output = command.stdout(Stdio::from(full)).output().unwrap();
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(1) && error.starts_with("keyturn: KT-0428 "), "{error}");
}

/// In the words of clap, with the code below them.
#[test]
fn an_option_that_does_not_exist_has_a_code() {
    let deployment = Deployment::init();
    let output = deployment.keyturn(&["fleet", "--no-such-option"]);
    let error = text(&output.stderr);
    assert!(
        output.status.code() == Some(2) && error.contains("KT-0401: `keyturn explain KT-0401`"),
        "{error}"
    );
}

#[test]
fn raw_words_of_numbers_and_addresses_are_not_shown() {
    let deployment = Deployment::init();
    for (arguments, said) in [
        (&["audit", "list", "--limit", "some"][..], "it is no whole number"),
        (&["dead-letters", "replay", "", "--reason", "x"], "write a whole number"),
        (&["dead-letters", "show", "99999999999999999999"], "the number is too large"),
        (&["device", "rotate-now", "--all", "--max-rate", "x", "--reason", "x"], "it is no whole number"),
        (&["up", "--listen", "here"], "write one like 127.0.0.1:8443"),
    ] {
        let Output { status, stderr, .. } = deployment.keyturn(arguments);
        let error = text(&stderr);
        assert!(status.code() == Some(2) && error.contains(said), "{arguments:?}: {error}");
        let Output { stderr, .. } = deployment.keyturn(&[arguments, &["--output", "json"]].concat());
        let value: Value = serde_json::from_str(&text(&stderr)).unwrap();
        assert!(value["code"] == "KT-0401" && value["message"].as_str().unwrap().contains(said), "{value}");
    }
}

#[test]
fn codes_are_listed_and_completed() {
    let deployment = Deployment::init();
    let listed = deployment.ok(&["explain"]);
    for code in ["KT-0101  The message is malformed", "KT-0301", "KT-0404  There is no such device"] {
        assert!(listed.contains(code), "{listed}");
    }
    assert_eq!(deployment.ok(&["explain", "404"]), deployment.ok(&["explain", "kt-0404"]));
    let all: Value = serde_json::from_str(&deployment.ok(&["explain", "--output", "json"])).unwrap();
    assert_eq!(all.as_array().unwrap().len(), listed.lines().count() - 1);
    assert!(deployment.ok(&["completions", "bash"]).contains("KT-0404"));
}
