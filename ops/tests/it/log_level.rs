//! `keyturn log-level`: running processes take it, one after another and all roles alike, and are as configured after a
//! reset. What is no level is refused; what somebody else put into the file changes nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::deployment::{Deployment, text};
use crate::metrics::get;
use crate::processes::{ROLES, build, free_address};

const CHANGED: &str = "an operator changed the log level";

/// A process and its log. Ended when it is dropped.
struct Logged {
    child: Child,
    log: PathBuf,
}

impl Logged {
    fn start(program: &Path, deployment: &Deployment, arguments: &[&str], log: &str) -> Self {
        let log = deployment.path(log);
        let mut command = Command::new(program);
        let command = command.arg("--config").arg(deployment.config()).args(arguments);
        Self { child: command.stderr(File::create(&log).unwrap()).spawn().unwrap(), log }
    }

    /// The lines with this text, once there are so many.
    fn lines(&self, said: &str, enough: usize) -> Vec<String> {
        for _ in 0..400 {
            let log = fs::read_to_string(&self.log).unwrap();
            let lines: Vec<String> =
                log.lines().filter(|line| line.contains(said)).map(str::to_owned).collect();
            if lines.len() >= enough {
                return lines;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("{said} is not there {enough} times: {}", fs::read_to_string(&self.log).unwrap());
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A log that cannot be written, as on a full disk, costs its lines and nothing else.
#[test]
fn a_process_whose_log_cannot_be_written_lives_on() {
    let deployment = Deployment::init();
    let health = free_address();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{}\"\n[health]\nall = \"{health}\"\n[logs]\nlevel = \"debug\"\n",
        free_address()
    ));
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    command.arg("--config").arg(deployment.config()).arg("up").stdout(full()).stderr(full());
    let mut server = Logged { child: command.spawn().unwrap(), log: deployment.path("none") };
    let ready = || get(health, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"));
    while !ready() {
        assert!(server.child.try_wait().unwrap().is_none(), "it ended");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    server.signal(rustix::process::Signal::TERM);
    assert!(server.child.wait().unwrap().success());
}

fn configure(deployment: &Deployment, look_every: &str) {
    let listen = free_address();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\ningress = \"off\"\nvalidator = \"off\"\n\
         notifier = \"off\"\n[logs]\nlevel = \"warn,keyturn_service=info\"\nlook_every = \"{look_every}\"\n"
    ));
}

#[test]
fn a_level_is_shown_set_refused_and_reset() {
    let deployment = Deployment::init();
    configure(&deployment, "100ms");
    assert_eq!(deployment.ok(&["log-level"]), "warn,keyturn_service=info, as configured\n");
    let server = Logged::start(Path::new(env!("CARGO_BIN_EXE_keyturn")), &deployment, &["up"], "up.log");
    let refused = deployment.keyturn(&["log-level", "debgu"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("«debgu» is no level"), "{}", text(&refused.stderr));
    assert_eq!(deployment.keyturn(&["log-level", "debug", "--reset"]).status.code(), Some(2));

    let shown = deployment.ok(&["log-level", "info,keyturn_service=debug"]);
    assert!(shown.starts_with("info,keyturn_service=debug, set in "), "{shown}");
    assert!(server.lines(CHANGED, 1)[0].contains("\"level\":\"info,keyturn_service=debug\""));
    let json: serde_json::Value =
        serde_json::from_str(&deployment.ok(&["--output", "json", "log-level"])).unwrap();
    assert_eq!((&json["level"], &json["configured"]), (&json["set"], &"warn,keyturn_service=info".into()));
    let doctor = text(&deployment.keyturn(&["doctor"]).stdout);
    assert!(doctor.contains("warning log level"), "{doctor}");

    // A level that hides what is said about it: the change is told under the one before.
    deployment.ok(&["log-level", "error"]);
    assert!(server.lines(CHANGED, 2)[1].contains("\"level\":\"error\""));
    // What somebody else wrote is told once, above all levels but that, and changes nothing.
    deployment.ok(&["log-level", "warn"]);
    std::thread::park_timeout(Duration::from_millis(500));
    fs::write(deployment.path("data/keyturn.db.log-level"), "loud\n").unwrap();
    server.lines("what was said about the log level cannot be read", 1);
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(server.lines("what was said about the log level cannot be read", 1).len(), 1, "told once");
    let refused = deployment.keyturn(&["log-level"]);
    assert!(refused.status.code() == Some(1) && text(&refused.stderr).contains("«loud»"));

    assert_eq!(deployment.ok(&["log-level", "--reset"]), "warn,keyturn_service=info, as configured\n");
    let last = server.lines(CHANGED, 3).pop().unwrap();
    assert!(last.contains("\"level\":\"warn,keyturn_service=info\""), "{last}");
    assert_eq!(deployment.ok(&["log-level", "--reset"]), "warn,keyturn_service=info, as configured\n");
}

/// Four roles that look once an hour: they take it at SIGHUP, and one that starts later takes it from the start.
#[test]
fn every_role_takes_it_at_sighup_and_at_its_start() {
    build();
    let deployment = Deployment::init();
    configure(&deployment, "1h");
    let program =
        |name: &str| PathBuf::from(env!("CARGO_BIN_EXE_keyturn")).with_file_name(format!("keyturn-{name}"));
    let role = |name: &str, log: String| {
        let role = Logged::start(&program(name), &deployment, &["--health", "off"], &log);
        role.lines("\"started\"", 1);
        role
    };
    let roles = ROLES.map(|name| role(name, format!("{name}.log")));
    deployment.ok(&["log-level", "info,keyturn_pipeline=debug"]);
    for role in &roles {
        role.signal(rustix::process::Signal::HUP);
        let changed = role.lines(CHANGED, 1);
        assert!(changed[0].contains("\"level\":\"info,keyturn_pipeline=debug\""), "{changed:?}");
    }
    let late = role("rotator", "late.log".to_owned());
    assert!(late.lines(CHANGED, 1)[0].contains("keyturn_pipeline=debug"));
    // The configuration changes meanwhile: what the operator said stays in force, and is left for what it is now.
    let config = fs::read_to_string(deployment.config()).unwrap();
    fs::write(deployment.config(), config.replace("warn,keyturn_service=info", "info")).unwrap();
    roles[0].signal(rustix::process::Signal::HUP);
    assert!(roles[0].lines("the log level was read again", 1)[0].contains("keyturn_pipeline=debug"));
    deployment.ok(&["log-level", "--reset"]);
    roles[0].signal(rustix::process::Signal::HUP);
    assert!(roles[0].lines(CHANGED, 2)[1].contains("\"level\":\"info\""));
}
