//! The runbook of restores, its commands run as they are written, on a deployment whose devices went on meanwhile.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use keyturn_service::config::Config;
use keyturn_service::shell;

use crate::deployment::{Deployment, text};
use crate::processes::{Device, free_address, install};
use crate::recovery::{configure, rotate};

/// The commands of the runbook, in their order.
fn commands() -> Vec<String> {
    let runbook = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks/restore.md");
    let runbook = fs::read_to_string(runbook).unwrap();
    let blocks = runbook.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(str::to_owned).collect()
}

/// Runs a block of the runbook in a shell.
fn shell_out(deployment: &Deployment, block: &str) -> Output {
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_keyturn")).parent().unwrap().to_owned();
    let block = format!("PATH=\"$PROGRAMS:$PATH\"\n{block}");
    Command::new("sh")
        .args(["-eu", "-c", &block])
        .env("PROGRAMS", programs)
        .env("KEYTURN_CONFIG", deployment.config())
        .env("BACKUP", deployment.path("backup.db"))
        .env("KEY", deployment.path("recovery.key"))
        .env("LOG", deployment.path("elsewhere/vault.log"))
        .output()
        .unwrap()
}

fn follow(deployment: &Deployment, block: &str) -> String {
    let output = shell_out(deployment, block);
    assert!(output.status.success(), "{block}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// How many candidates a device has; one of them is right.
fn shown(deployment: &Deployment, device: &Device) -> usize {
    let shown = device.shown(deployment);
    assert!(shown.iter().any(|(_, password)| device.accepts(password)), "{}: {}", device.name, shown.len());
    shown.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_by_the_runbook_is_all_true_again() {
    let [create, verify, restore, recover, declare] = commands().try_into().unwrap();
    let (deployment, address) = (Deployment::init(), free_address());
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    deployment.ok(&["vault", "recovery-key", deployment.path("recovery.key").to_str().unwrap()]);
    configure(&deployment, address, "../elsewhere/vault.log");
    let devices: Vec<Device> = (0..3).map(|number| install(&deployment, number, address)).collect();

    // The backup is made while the roles run; the third device has not rotated yet.
    rotate(&deployment, &devices[..2], 1).await;
    let host = shell::host(Config::load(&deployment.config()).unwrap()).unwrap();
    assert!(follow(&deployment, &create).contains("2 lanes, 2 versions issued, 2 in the vault"));
    assert!(follow(&deployment, &verify).contains("unbroken chain"));
    let refused = shell_out(&deployment, &restore);
    assert!(text(&refused.stderr).contains("is in use"), "{}", text(&refused.stderr));
    drop(host);

    // The fleet goes on, and confirms what is younger than the backup.
    rotate(&deployment, &devices, 2).await;
    follow(&deployment, &restore);
    let accepted = |device: &Device| device.shown(&deployment).iter().any(|(_, one)| device.accepts(one));
    assert!(!accepted(&devices[0]), "the backup should be older than the passwords");
    assert!(follow(&deployment, &recover).starts_with("6 put back, 2 there already"));

    // Nobody has heard of any device. Of the third the ledger knows nothing at all.
    assert_eq!(devices.iter().map(|device| shown(&deployment, device)).collect::<Vec<_>>(), [3, 3, 2]);
    let audit = deployment.ok(&["audit", "list"]);
    assert!(audit.contains("store restored") && audit.contains("the disk was lost"), "{audit}");
    assert!(deployment.ok(&["device", "show", &devices[0].name]).contains("the ledger was restored at"));
    deployment.ok(&["audit", "verify"]);

    // Each device speaks once; what it says is all there is. `rotate` looks that it settles.
    rotate(&deployment, &devices, 1).await;
    for device in &devices {
        assert_eq!(shown(&deployment, device), 1);
        let show = deployment.ok(&["device", "show", &device.name]);
        assert!(!show.contains("the ledger was restored at"), "{show}");
        assert!(show.contains("known again after the ledger was restored"), "{show}");
        assert!(!show.contains("alarm"), "{show}");
    }
    // And a machine that was put back as a whole.
    follow(&deployment, &declare);
    assert!(devices.iter().all(|device| shown(&deployment, device) == 1));
    rotate(&deployment, &devices, 1).await;
    follow(&deployment, "test \"$(ls \"$(dirname \"$KEYTURN_CONFIG\")\" | grep -c replaced-)\" -ge 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_device_speaks_before_its_passwords_are_recovered() {
    let [create, _, restore, recover, _] = commands().try_into().unwrap();
    let (deployment, address) = (Deployment::init(), free_address());
    fs::create_dir(deployment.path("elsewhere")).unwrap();
    deployment.ok(&["vault", "recovery-key", deployment.path("recovery.key").to_str().unwrap()]);
    configure(&deployment, address, "../elsewhere/vault.log");
    let devices = [install(&deployment, 0, address)];
    rotate(&deployment, &devices, 1).await;
    follow(&deployment, &create);
    rotate(&deployment, &devices, 1).await;
    follow(&deployment, &restore);
    // The device names a version that nobody knows: it is an alarm, and gets a new one at once.
    rotate(&deployment, &devices, 1).await;
    assert!(deployment.ok(&["device", "show", &devices[0].name]).contains("unknown_current"));
    follow(&deployment, &recover);
    assert_eq!(shown(&deployment, &devices[0]), 2);
    rotate(&deployment, &devices, 1).await;
    assert_eq!(shown(&deployment, &devices[0]), 1);
}
