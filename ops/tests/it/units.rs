//! The units of infra/systemd, as systemd itself judges them, and a process as systemd sees it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::deployment::{Deployment, text};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../infra/systemd")
}

/// Every unit, by its file's name.
fn units() -> Vec<(String, String)> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let units = files.filter(|path| path.extension().is_some_and(|end| end == "service"));
    units
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect()
}

/// Exposure in tenths, from 0 to 100, above which `systemd-analyze security` refuses. The agent sets passwords, as root.
fn threshold(unit: &str) -> u32 {
    if unit == "keyturn-agent.service" { 31 } else { 15 }
}

fn exposed(unit: &Path, threshold: u32) -> std::process::Output {
    let mut command = Command::new("systemd-analyze");
    let command = command.args(["security", "--offline=yes", "--no-pager"]);
    command.arg(format!("--threshold={threshold}")).arg(unit).output().unwrap()
}

#[test]
fn units_are_sound_and_leave_little_open() {
    let (elsewhere, all) = (tempfile::tempdir().unwrap(), units());
    assert_eq!(all.len(), 6, "four roles, all in one, and the agent");
    for (name, unit) in &all {
        // What is not installed here is put in place of by what is: the rest of the unit is as it stands.
        let installed: Vec<String> = unit
            .lines()
            .map(|line| match line.strip_prefix("ExecStart=/usr/bin/keyturn") {
                Some(_) => "ExecStart=/bin/true".to_owned(),
                None => line.to_owned(),
            })
            .collect();
        assert!(installed.iter().any(|line| line == "ExecStart=/bin/true"), "{name}");
        let path = elsewhere.path().join(name);
        fs::write(&path, installed.join("\n")).unwrap();
        let verified =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = text(&verified.stderr);
        let about: Vec<&str> = said.lines().filter(|line| line.contains(name.as_str())).collect();
        assert!(verified.status.success() && about.is_empty(), "{name}: {said}");
        let judged = exposed(&path, threshold(name));
        assert!(judged.status.success(), "{name}: {}{}", text(&judged.stdout), text(&judged.stderr));
    }
    // What is put beside the rotator's is sound as well.
    let beside = elsewhere.path().join("keyturn-rotator.service.d");
    fs::create_dir(&beside).unwrap();
    fs::copy(folder().join("keyturn-rotator-key-vault-signing.conf"), beside.join("it.conf")).unwrap();
    let unit = elsewhere.path().join("keyturn-rotator.service");
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = text(&verified.stderr);
    assert!(verified.status.success() && !said.contains("it.conf"), "{said}");
    // Neither check can pass by saying nothing.
    let open = elsewhere.path().join("open.service");
    fs::write(&open, "[Service]\nExecStart=/bin/true\nNoSuchSetting=yes\n").unwrap();
    assert!(!exposed(&open, 31).status.success());
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&open).output().unwrap();
    assert!(text(&verified.stderr).contains("open.service"), "{}", text(&verified.stderr));
}

/// Each role is given the keys that the README's table says it needs, and no other; each is a user of its own.
#[test]
fn each_role_has_its_own_keys_and_its_own_user() {
    let readme = fs::read_to_string(folder().join("../../README.md")).unwrap();
    let mut users = BTreeSet::new();
    let sysusers = fs::read_to_string(folder().join("keyturn.sysusers")).unwrap();
    for role in ["keyturn-ingress", "keyturn-validator", "keyturn-rotator", "keyturn-notifier"] {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{role}`"))).unwrap();
        let cell = row.split('|').nth(3).unwrap();
        let needed: BTreeSet<&str> = cell.split('`').filter(|word| word.contains('.')).collect();
        let unit = fs::read_to_string(folder().join(format!("{role}.service"))).unwrap();
        let given = unit.lines().filter_map(|line| line.strip_prefix("LoadCredential="));
        let given: BTreeSet<&str> = given.map(|line| line.split_once(':').unwrap().0).collect();
        assert_eq!(given, needed, "{role}");
        let user = unit.lines().find_map(|line| line.strip_prefix("User=")).unwrap();
        assert!(sysusers.contains(&format!("u {user} ")), "{user} is made");
        users.insert(user.to_owned());
    }
    assert_eq!(users.len(), 4);
}

/// A process says that it is ready when it serves, pings as long as it lives, and tells its end.
#[test]
fn a_process_tells_systemd_how_it_is() {
    let deployment = Deployment::init();
    // As a unit runs it: every key is a credential, and the key folder is root's.
    deployment.configure("[data]\nkeys = \"nowhere\"\n[health]\nall = \"off\"\n");
    let path = deployment.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config()).args(["up", "--listen", "127.0.0.1:0"]);
    let command = command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let command = command.env("CREDENTIALS_DIRECTORY", deployment.path("data/keys"));
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let next = || {
        let mut text = [0; 64];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).trim().to_owned()
    };
    let mut said = Vec::new();
    while said.iter().filter(|word| *word == "WATCHDOG=1").count() < 4
        || !said.contains(&"READY=1".to_owned())
    {
        said.push(next());
    }
    assert_eq!(said.iter().filter(|word| *word == "READY=1").count(), 1, "{said:?}");
    let pid = rustix::process::Pid::from_child(&child);
    // Key files are read again, and it lives on.
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!((next(), next()), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
    // A process that is stopped sends no ping: systemd would end it.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let mut left = [0; 64];
    while socket.recv(&mut left).is_ok() {}
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(next(), "WATCHDOG=1");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    while next() != "STOPPING=1" {}
    assert!(child.wait().unwrap().success(), "it drains and ends well");
}
