//! O-01 to O-14 and C-11, C-12 of docs/HOSTILE.md: what may be typed, piped and filed at the command line.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::deployment::{Deployment, register, text};

/// Everything the commands could have changed.
fn state(deployment: &Deployment) -> Vec<i64> {
    let file = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    let count =
        |table: &str| file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
    ["dead_letters", "queue_requests", "lanes", "audit", "directory"].into_iter().map(count).collect()
}

/// A dead letter whose every word wants to be printed by a terminal.
fn bury(deployment: &Deployment) -> i64 {
    let file = Connection::open(deployment.path("data/keyturn.db")).unwrap();
    let body = "\u{1b}]0;owned\u{7}\u{1b}[2J{\"jws\":\"x\"}\r\n\u{9b}31m";
    let attempts = r#"[{"at":1,"error":"\u001b[31mred\u0007\r\n\u009b2J\u202e"}]"#;
    file.execute(
        "INSERT INTO dead_letters \
         (queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at) \
         VALUES (1, zeroblob(32), zeroblob(16), ?1, 'undecodable', ?2, 1, 1, 1)",
        (body, attempts),
    )
    .unwrap();
    file.execute("UPDATE queue_counters SET dead = dead + 1 WHERE queue = 1", []).unwrap();
    file.last_insert_rowid()
}

#[test]
fn o_01_what_is_not_there_changes_nothing() {
    let deployment = Deployment::init();
    let before = state(&deployment);
    let long = "a".repeat(20_000);
    for (arguments, code) in [
        (&["dead-letters", "replay", "1", "--reason", "x"][..], 3),
        (&["dead-letters", "replay", "1", "2", "9223372036854775807", "--reason", "x"], 3),
        (&["dead-letters", "replay", "99999999999999999999", "--reason", "x"], 2),
        (&["dead-letters", "replay", "one", "--reason", "x"], 2),
        (&["dead-letters", "replay", "1"], 2),
        (&["device", "show", ""], 3),
        (&["device", "show", "*"], 3),
        (&["device", "show", "%"], 3),
        (&["device", "show", "' OR 1=1 --"], 3),
        (&["device", "show", "\u{1b}[2J\u{7}"], 3),
        (&["device", "show", &long], 3),
        (&["device", "show", "00000000-0000-0000-0000-00000000000"], 3),
        (&["device", "disable", "LAB-99", "--reason", "x"], 3),
        (&["device", "close-lane", "LAB-99", "--lane", "AAAA", "--reason", "x"], 3),
        (&["reveal", "LAB-99", "--reason", "x"], 3),
    ] {
        let output = deployment.keyturn(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "O-01: {arguments:?}: {error}");
        assert!(!error.replace(['\n', '\t'], "").chars().any(char::is_control), "O-04: {error:?}");
        assert!(error.len() < 1000, "O-01: {} bytes about {} typed", error.len(), arguments[2].len());
    }
    assert_eq!(state(&deployment), before);
}

#[test]
fn o_04_a_dead_letter_is_shown_without_what_a_terminal_would_obey() {
    let deployment = Deployment::init();
    let id = bury(&deployment).to_string();
    for arguments in [
        &["dead-letters", "list"][..],
        &["dead-letters", "show", &id],
        &["--output", "json", "dead-letters", "list"],
        &["--output", "json", "dead-letters", "show", &id],
    ] {
        let shown = deployment.ok(arguments);
        let obeyed: Vec<char> =
            shown.chars().filter(|c| (c.is_control() || *c == '\u{202e}') && *c != '\n').collect();
        assert!(obeyed.is_empty(), "O-04: {arguments:?}: {obeyed:?} in {shown:?}");
        assert!(shown.contains("undecodable"), "{shown}");
    }
    let output = deployment.keyturn(&["dead-letters", "replay", &id, "--reason", "x"]);
    assert_ne!(output.status.code(), Some(0), "O-05: what nobody can read is not sent again");
    assert_eq!(state(&deployment)[0], 1, "and it is kept");
}

#[test]
fn o_07_a_reader_that_leaves_is_no_error_and_a_full_disk_is_one() {
    let deployment = Deployment::init();
    deployment.add(&register(), "LAB-07");
    for arguments in [
        &["audit", "export"][..],
        &["audit", "list"],
        &["device", "list"],
        &["queues"],
        &["config", "check"],
        &["--output", "json", "device", "show", "LAB-07"],
    ] {
        let command = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
            command.arg("--config").arg(deployment.config()).args(arguments);
            command
        };
        let mut left = command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(left.stdout.take());
        let left = left.wait_with_output().unwrap();
        assert_eq!(left.status.code(), Some(0), "O-07: {arguments:?}: {}", text(&left.stderr));
        assert!(left.stderr.is_empty(), "O-07: {arguments:?}: {}", text(&left.stderr));

        let full = File::options().write(true).open("/dev/full").unwrap();
        let full = command().stdout(full).stderr(Stdio::piped()).output().unwrap();
        let error = text(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "O-09: {arguments:?} on a full disk: {error}");
        assert!(error.contains("could not be written"), "O-09: {arguments:?}: {error}");
    }
}

#[test]
fn o_08_nothing_is_done_to_a_device_without_a_reason() {
    let deployment = Deployment::init();
    deployment.add(&register(), "LAB-07");
    let before = state(&deployment);
    for (arguments, code) in [
        (&["reveal", "LAB-07"][..], 2),
        (&["reveal", "LAB-07", "--reason", ""], 2),
        (&["reveal", "LAB-07", "--reason", " \t"], 2),
        (&["device", "rotate-now", "LAB-07"], 2),
        (&["device", "rotate-now", "LAB-07", "--reason", "\u{a0}"], 2),
        (&["device", "close-lane", "LAB-07", "--lane", "AAAA"], 2),
        (&["device", "release", "LAB-07"], 2),
        (&["dead-letters", "replay", "1", "--reason", ""], 2),
    ] {
        let output = deployment.keyturn(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "O-08: {arguments:?}: {error}");
        assert!(error.contains("--reason"), "O-08: {arguments:?}: {error}");
    }
    assert_eq!(state(&deployment), before);
}

#[test]
fn c_11_files_that_others_can_read_are_refused() {
    let deployment = Deployment::init();
    let keys = fs::read_dir(deployment.path("data/keys")).unwrap();
    let keys = keys.map(|entry| entry.unwrap().path());
    for key in keys.filter(|path| path.extension().is_some_and(|kind| kind == "key")) {
        let was = fs::metadata(&key).unwrap().permissions();
        for mode in [0o604, 0o660] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let output = deployment.keyturn(&["config", "check"]);
            let (told, error) = (text(&output.stdout), text(&output.stderr));
            let name = key.file_name().unwrap().to_str().unwrap();
            assert!(
                !output.status.success() && (error + &told).contains(name),
                "C-11: {name} at {mode:o}: {told}"
            );
        }
        fs::set_permissions(&key, was).unwrap();
    }
    deployment.ok(&["config", "check"]);
}

#[test]
fn c_12_an_empty_variable_is_a_mistake_and_not_a_default() {
    let deployment = Deployment::init();
    let run = |value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        command.current_dir(deployment.path(".")).env("KEYTURN_CONFIG", value).args(["device", "list"]);
        command.output().unwrap()
    };
    assert_eq!(run(deployment.config().to_str().unwrap()).status.code(), Some(0));
    for value in ["", " ", "nowhere.toml", "data"] {
        let output = run(value);
        let error = text(&output.stderr);
        assert!(!output.status.success(), "C-12: {value:?}");
        assert!(error.contains("--config") || error.contains("no such file"), "C-12: {value:?}: {error}");
    }
}
