//! What is printed on a terminal, what is printed in one, and how values are said.

use std::process::Command;

use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;

use crate::dead_letters::bury_alarms;
use crate::deployment::{Deployment, register, text};

/// What `queues --watch` prints on a terminal of this kind.
fn watched(deployment: &Deployment, term: &str) -> String {
    let watch = format!(
        "{} --config {} queues --watch 100ms --looks 2",
        env!("CARGO_BIN_EXE_keyturn"),
        deployment.config().display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &watch, "/dev/null"])
        .env("TERM", term)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_dumb_terminal_gets_no_escape_codes() {
    let deployment = Deployment::init();
    let (dumb, other) = (watched(&deployment, "dumb"), watched(&deployment, "xterm"));
    assert_eq!(dumb.matches("OUT/MIN").count(), 2, "{dumb}");
    assert!(!dumb.contains('\u{1b}'), "{dumb:?}");
    assert_eq!(other.matches("\u{1b}[H\u{1b}[2J").count(), 2, "{other:?}");
}

#[tokio::test]
async fn a_filter_may_begin_with_a_hyphen() {
    let (deployment, one, other) = (Deployment::init(), register(), register());
    deployment.add(&one, "LAB-01");
    deployment.add(&other, "LAB-02");
    bury_alarms(&deployment, &one, 1).await;
    bury_alarms(&deployment, &other, 2).await;
    let without = format!("-device:{}", one.id);
    let listed = deployment.ok(&["dead-letters", "list", "--each", "--where", &without]);
    assert!(!listed.contains(&one.id.to_string()), "{listed}");
    assert_eq!(listed.matches(&other.id.to_string()).count(), 2, "{listed}");
    assert_eq!(deployment.ok(&["dead-letters", "export", "--where", &without]).lines().count(), 2);
    let replayed =
        deployment.keyturn(&["dead-letters", "replay", "--where", "-device:LAB-02", "--reason", "drill"]);
    assert!(
        text(&replayed.stderr).contains("1 dead letter: 1 on the way again."),
        "{}",
        text(&replayed.stderr)
    );
}

/// What a device is held back by stands in the server's log by the setting's name.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_setting_that_caps_a_device() {
    let deployment = Deployment::init();
    let listen = crate::processes::free_address();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\n[rotation]\nversions_per_day = 1\n"
    ));
    let device = crate::processes::install(&deployment, 1, listen);
    let log = deployment.path("up.log");
    let mut up = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let up =
        up.arg("--config").arg(deployment.config()).arg("up").stderr(std::fs::File::create(&log).unwrap());
    let mut up = up.spawn().unwrap();
    let started = SystemClock.monotonic();
    let until = async |said: &str| loop {
        let text = std::fs::read_to_string(&log).unwrap();
        if let Some(line) = text.lines().find(|line| line.contains(said)) {
            break line.to_owned();
        }
        let waited = SystemClock.monotonic().saturating_sub(started);
        assert!(waited < std::time::Duration::from_mins(2), "{said}: {text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    until("all roles are up").await;
    assert!(device.agent().once().await.unwrap().is_success());
    device.invariant_settled(&deployment);
    deployment.ok(&["device", "rotate-now", &device.name, "--reason", "drill"]);
    let held = device.agent().once().await.unwrap();
    assert_eq!(held.code(), "held");
    let line = until("no new version for now").await;
    let (id, text) = (device.id().to_string(), "has had as many as rotation.versions_per_day allows");
    assert!(line.contains(text) && line.contains(&id) && line.contains("\"versions\":1"), "{line}");
    // One that was refused from the start was heard all the same.
    let refused = crate::processes::install(&deployment, 2, listen);
    let page = || deployment.ok(&["device", "show", &refused.name]);
    assert!(page().contains("never heard of"));
    deployment.ok(&["device", "disable", &refused.name, "--reason", "stolen"]);
    assert_eq!(refused.agent().once().await.unwrap().code(), "refused");
    assert!(page().contains("nothing of what it said was ever taken") && !page().contains("never heard of"));
    // Once more on the same data: told plainly, and no harm with addresses of its own.
    let second = deployment.keyturn(&["up"]);
    let error = crate::deployment::text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{error}");
    assert!(
        error.contains("another process listens where ingress.listen") && error.contains("does no harm"),
        "{error}"
    );
    assert!(error.contains(&listen.to_string()), "{error}");
    up.kill().unwrap();
    up.wait().unwrap();
}
