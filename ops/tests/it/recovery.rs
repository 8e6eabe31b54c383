//! The database is lost after rotations, an old copy is restored, and the recovery log brings every password back.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use keyturn_ops::Roles;
use keyturn_service::config::Config;
use keyturn_service::shell;
use serde_json::Value;

use crate::deployment::{Deployment, text};
use crate::processes::{Device, free_address, install};

pub(crate) fn configure(deployment: &Deployment, address: SocketAddr, log: &str) {
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{address}\"\n[workers]\nfirst_delay = \"20ms\"\nmax_delay = \"50ms\"\n\
         [rotation]\nversions_per_day = 1000\n\
         [vault]\nrecovery_log = \"{log}\"\nrecovery_key = \"../recovery.key.pub\"\n"
    ));
}

/// Rotates each device `rounds` times under a server that is there for that alone.
pub(crate) async fn rotate(deployment: &Deployment, devices: &[Device], rounds: usize) {
    let host = shell::host(Config::load(&deployment.config()).unwrap()).unwrap();
    let roles = Roles::new(host.clone());
    let workers = roles.work().unwrap();
    let (_, serving) = roles.serve().await.unwrap();
    for _ in 0..rounds {
        for device in devices {
            deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
            let outcome = device.agent().once().await.unwrap();
            assert!(outcome.is_success(), "{outcome}");
        }
    }
    for device in devices {
        device.invariant_settled(deployment);
    }
    host.stop.cancel();
    serving.await.unwrap().unwrap();
    for worker in workers {
        worker.await.unwrap();
    }
}

fn copy_database(from: &Path, to: &Path) {
    for end in ["", "-wal", "-shm"] {
        let (from, to) = (format!("{}{end}", from.display()), format!("{}{end}", to.display()));
        let _ = fs::remove_file(&to);
        if Path::new(&from).exists() {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Every password the vault has of a device, each looked at by itself.
fn older(deployment: &Deployment, device: &str) -> Vec<String> {
    let history = deployment.ok(&["--output", "json", "device", "history", device]);
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
    let reveal = |entry: &Value| {
        let version = entry["version"].as_str().unwrap();
        let shown =
            deployment.ok(&["--output", "json", "reveal", device, "--version", version, "--reason", "test"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown[0]["password"].as_str().unwrap().to_owned()
    };
    history.iter().map(reveal).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_backup_lacks_comes_back_from_the_recovery_log() {
    let deployment = Deployment::init();
    let address = free_address();
    let (key, log) = (deployment.path("recovery.key"), deployment.path("elsewhere/vault.log"));
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    deployment.ok(&["vault", "recovery-key", key.to_str().unwrap()]);
    configure(&deployment, address, "../elsewhere/vault.log");
    assert!(deployment.ok(&["config", "check"]).contains("recovery log"));
    let devices: Vec<Device> = (0..3).map(|number| install(&deployment, number, address)).collect();
    let (database, backup) = (deployment.path("data/keyturn.db"), deployment.path("backup.db"));
    rotate(&deployment, &devices[..2], 1).await;
    copy_database(&database, &backup);
    rotate(&deployment, &devices, 2).await;
    copy_database(&backup, &database);

    let current = |device: &Device| older(&deployment, &device.name).iter().any(|one| device.accepts(one));
    assert!(!devices.iter().any(current), "the backup should be older than every password");
    // A crash left half a line behind.
    let whole = fs::read_to_string(&log).unwrap();
    assert_eq!(whole.lines().count(), 8);
    fs::write(&log, format!("{whole}{}", &whole[..100])).unwrap();
    let recover = ["vault", "recover", "--key", key.to_str().unwrap(), "--log", log.to_str().unwrap()];
    let output = deployment.keyturn(&recover);
    assert_eq!(
        text(&output.stdout),
        "6 put back, 2 there already, 0 refused for another lane, 1 unreadable\n"
    );
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert!(devices.iter().all(current));
    let again = text(&deployment.keyturn(&recover).stdout);
    assert!(again.starts_with("0 put back, 8 there already"), "{again}");
    // The half line does not swallow the next one, and the fleet goes on.
    rotate(&deployment, &devices, 1).await;
    let again = text(&deployment.keyturn(&recover).stdout);
    // Two new versions: the ledger did not know the third device, so no wish for it could be noted, and what the vault
    // had of it was confirmed.
    assert!(again.contains("10 there already") && again.contains("1 unreadable"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_given_out_that_the_log_does_not_have() {
    let deployment = Deployment::init();
    let address = free_address();
    let key = deployment.path("recovery.key");
    deployment.ok(&["vault", "recovery-key", key.to_str().unwrap()]);
    configure(&deployment, address, "../not-mounted/vault.log");
    let device = install(&deployment, 0, address);
    let host = shell::host(Config::load(&deployment.config()).unwrap()).unwrap();
    let roles = Roles::new(host.clone());
    roles.work().unwrap();
    roles.serve().await.unwrap();
    let agent = device.agent();
    let asking = tokio::spawn(async move { agent.once().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(deployment.ok(&["device", "history", &device.name]).lines().count() <= 1, "nothing is stored");
    fs::create_dir(deployment.path("not-mounted")).unwrap();
    assert!(asking.await.unwrap().unwrap().is_success(), "the message waited for the log");
    assert_eq!(fs::read_to_string(deployment.path("not-mounted/vault.log")).unwrap().lines().count(), 1);
    host.stop.cancel();
}
