//! Every command, what it says when it works, and what it says when it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::deployment::{Deployment, register, text};

/// Runs a command that must fail with this code and say all of this.
pub(crate) fn fails(deployment: &Deployment, arguments: &[&str], code: i32, said: &[&str]) {
    let output = deployment.keyturn(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(said.iter().all(|part| error.contains(part)), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
}

#[test]
fn a_device_is_added_listed_shown_disabled_and_asked_to_rotate() {
    let deployment = Deployment::init();
    let device = register();
    deployment.add(&device, "LAB-07");
    let id = device.id.to_string();
    assert!(deployment.ok(&["device", "list"]).contains(&id));
    assert!(deployment.ok(&["device", "show", "lab-07"]).contains("enabled, joined as AzureAd"));
    deployment.ok(&["device", "disable", &id, "--reason", "reported stolen"]);
    assert!(deployment.ok(&["device", "show", &id.to_uppercase()]).contains("disabled: it may not rotate"));
    deployment.ok(&["device", "enable", "LAB-07", "--reason", "found again"]);
    deployment.ok(&["device", "rotate-now", "LAB-07", "--reason", "lost laptop"]);
    let audit = deployment.ok(&["audit", "list"]);
    for part in [
        "lost laptop",
        "rotation asked for",
        "added LAB-07",
        "disabled",
        "reported stolen",
        "found again",
        "uid ",
    ] {
        assert!(audit.contains(part), "{audit}");
    }
    assert_eq!(deployment.ok(&["audit", "verify"]), "4 rows, the chain is whole\n");
    assert!(deployment.ok(&["queues"]).contains("requests"));
    assert!(deployment.ok(&["dead-letters", "list"]).contains("LAST ERROR"));
}

/// A slip of the hand neither enables a device that was disabled nor gives two one name unseen.
#[test]
fn adding_a_device_that_is_there_changes_nothing_unless_asked() {
    let deployment = Deployment::init();
    let (one, two) = (register(), register());
    deployment.add(&one, "LAB-01");
    deployment.add(&two, "LAB-02");
    deployment.ok(&["device", "disable", "LAB-02", "--reason", "stolen"]);
    let certificate = deployment.path("LAB-02.cer").display().to_string();
    let add = |name: &str, more: &[&str]| {
        deployment.keyturn(&[&["device", "add", "--cert", &certificate, "--name", name], more].concat())
    };
    let rows = || deployment.ok(&["audit", "export"]).lines().count();
    let before = rows();
    let same = add("LAB-02", &[]);
    let said = text(&same.stderr);
    assert!(
        same.status.success() && said.contains("nothing was changed") && said.contains("disabled"),
        "{said}"
    );
    for more in [&[][..], &["--join", "Workplace"]] {
        let renamed = add("LAB-01", more);
        let said = text(&renamed.stderr);
        assert_eq!(renamed.status.code(), Some(5), "{said}");
        assert!(said.contains("its name is «LAB-02», not «LAB-01»") && said.contains("--replace"), "{said}");
        assert_eq!(said.contains("it is joined as «AzureAd», not «Workplace»"), !more.is_empty(), "{said}");
    }
    assert_eq!(rows(), before, "nothing was done, so nothing is recorded");
    assert!(deployment.ok(&["device", "show", "LAB-01"]).contains(&one.id.to_string()));
    assert!(deployment.ok(&["device", "show", "LAB-02"]).contains("disabled"));

    let replaced = add("LAB-01", &["--replace"]);
    let said = text(&replaced.stderr);
    assert!(replaced.status.success() && said.contains("and is disabled"), "{said}");
    assert!(said.contains(&format!("Warning: {} has the name LAB-01 too", one.id)), "{said}");
    assert!(deployment.ok(&["device", "show", &two.id.to_string()]).contains("disabled: it may not rotate"));
    assert!(deployment.ok(&["audit", "list"]).contains("replaced LAB-01: its name is «LAB-02»"));
}

#[test]
fn an_export_of_graph_is_imported_whole_or_not_at_all() {
    let deployment = Deployment::init();
    let file = deployment.path("export.json");
    let device = |id: &str| {
        format!(
            r#"{{"id":"x","deviceId":"{id}","displayName":"LAB","accountEnabled":true,"trustType":"AzureAd",
            "alternativeSecurityIds":[{{"type":2,"identityProvider":null,"key":"WAA1AA=="}}]}}"#
        )
    };
    let (one, two) = ("3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11", "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e12");
    let import = ["device", "import", file.to_str().unwrap()];
    for (content, said) in [
        ("{", "neither"),
        (r#"{"value":[]}"#, "no device in it"),
        (&format!("[{},{}]", device(one), device("LAB-07")), "device 2 of the list; nothing was imported"),
    ] {
        fs::write(&file, content).unwrap();
        fails(&deployment, &import, 1, &[said]);
    }
    assert!(!deployment.ok(&["device", "list"]).contains(one));
    fs::write(&file, format!(r#"{{"@odata.context":"x","value":[{},{}]}}"#, device(one), device(two)))
        .unwrap();
    deployment.ok(&import);
    fails(&deployment, &["device", "show", "LAB"], 5, &["several devices", one, two]);
}

#[test]
fn what_cannot_be_done_is_said_with_the_mend() {
    let deployment = Deployment::init();
    let missing = "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11";
    let not_a_certificate = deployment.path("data/keyturn.toml");
    for (arguments, code, said) in [
        (&["device", "show", "LAB-99"][..], 3, &["LAB-99", "keyturn device list"][..]),
        (&["device", "show", missing], 3, &[missing]),
        (&["restore", "/nonexistent/backup", "--reason", "x"], 1, &["see that the name is right"]),
        (&["reveal", "LAB-99", "--reason", "x"], 3, &["LAB-99"]),
        (&["dead-letters", "show", "7"], 3, &["7", "no such dead letter"]),
        (&["dead-letters", "replay", "7", "--reason", "x"], 3, &["7"]),
        (&["dead-letters", "list", "--queue", "nowhere"], 2, &["requests, findings, outcomes and alarms"]),
        (
            &["device", "add", "--cert", not_a_certificate.to_str().unwrap(), "--name", "x"],
            1,
            &["keyturn.toml", "not an X.509 certificate"],
        ),
        (&["device", "add", "--cert", "/nonexistent", "--name", "x"], 1, &["/nonexistent", "cannot be read"]),
        (&["reveal", "LAB-99"], 2, &["--reason"]),
        (&["frobnicate"], 2, &["unrecognized"]),
    ] {
        fails(&deployment, arguments, code, said);
    }
    let device = register();
    deployment.add(&device, "LAB-07");
    fails(&deployment, &["reveal", "LAB-07", "--reason", "x"], 3, &["no password is known"]);
    // Ids are base64url, and one in sixty-four begins with a hyphen.
    let hyphen = "-fYdNFODTjvWU7o_KfPKDA";
    fails(
        &deployment,
        &["reveal", "LAB-07", "--reason", "x", "--version", hyphen],
        3,
        &[hyphen, "no such version"],
    );
    let close = ["device", "close-lane", "LAB-07", "--lane", hyphen, "--reason", "x"];
    fails(&deployment, &close, 3, &[hyphen, "no such lane"]);
    fails(&deployment, &["reveal", "LAB-07", "--reason", " "], 2, &["--reason must say why"]);
    fails(&deployment, &["device", "rotate-now", "LAB-07", "--reason", ""], 2, &["--reason must say why"]);
}

#[test]
fn a_deployment_is_made_once_and_its_files_are_private() {
    let deployment = Deployment::init();
    let data = deployment.path("data");
    let again = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .args(["init", "--name", "x"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(!again.status.success() && text(&again.stderr).contains("not empty"));
    let bad = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .args(["init", "--name", "Not A Name"])
        .arg(deployment.path("other"))
        .output()
        .unwrap();
    assert!(!bad.status.success() && text(&bad.stderr).contains("a-z 0-9"));
    for file in [
        "keyturn.toml",
        "keyturn.db",
        "keys/vault.key",
        "keys/signing.key",
        "offline/root.key",
        "root.pub.json",
    ] {
        let mode = fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    let checked = deployment.ok(&["config", "check"]);
    let expected =
        "ok      policy         default: 16 characters out of 77, at least 4 classes, 100.0 bits, every 3d";
    assert!(checked.lines().any(|line| line == expected), "{checked}");
    assert!(deployment.ok(&["config", "template"]).contains("UpdateFrequencyDays"));
    assert!(deployment.ok(&["config", "print"]).contains("update_frequency = \"3d\""));
}

#[test]
fn policies_are_told_with_their_entropy_and_weak_ones_warned_of() {
    let deployment = Deployment::init();
    let (config, list) = (deployment.path("data/keyturn.toml"), deployment.path("data/kiosks.txt"));
    fs::write(&list, "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11 # hall\n").unwrap();
    let policies = "[[policy]]\nname = \"kiosks\"\ndevices_file = \"kiosks.txt\"\ncomplexity = 7\nupdate_frequency = \"1d\"\n\
        [[policy]]\nname = \"servers\"\nhost = [\"SRV-*\"]\ncomplexity = 6\nwords = 8\n";
    fs::write(&config, fs::read_to_string(&config).unwrap() + policies).unwrap();
    let checked = deployment.ok(&["config", "check"]);
    for line in [
        "warning policy         kiosks: 6 words out of 1296, 62.0 bits, every 1d; devices listed: 1; fewer than 80 bits are few, a longer password is better",
        "ok      policy         servers: 8 words out of 7776, 103.4 bits, every 3d; by what a device says of itself",
    ] {
        assert!(checked.lines().any(|told| told == line), "{checked}");
    }
    fs::write(&list, "kiosk-7\n").unwrap();
    fails(&deployment, &["config", "check"], 1, &["policy.kiosks.devices_file", "kiosks.txt:1", "«kiosk-7»"]);
}

#[test]
fn keys_that_others_can_read_and_files_that_are_damaged_are_refused() {
    let deployment = Deployment::init();
    let vault = deployment.path("data/keys/vault.key");
    fs::set_permissions(&vault, fs::Permissions::from_mode(0o644)).unwrap();
    let check = deployment.keyturn(&["config", "check"]);
    assert!(!check.status.success() && text(&check.stdout).contains("chmod 600"), "{}", text(&check.stdout));
    fs::set_permissions(&vault, fs::Permissions::from_mode(0o600)).unwrap();
    let good = fs::read_to_string(&vault).unwrap();
    fs::write(&vault, good.replace("\"vault\"", "\"nonce\"")).unwrap();
    let check = deployment.keyturn(&["config", "check"]);
    assert!(text(&check.stdout).contains("keys for nonce, not for vault"), "{}", text(&check.stdout));
    let secret = good.split('"').find(|part| part.len() == 43).unwrap();
    fs::write(&vault, good.replace("\"id\"", "\"no\"")).unwrap();
    let check = deployment.keyturn(&["config", "check"]);
    assert!(!text(&check.stdout).contains(secret), "a key file's error must not quote the key");

    deployment.configure("[rotation]\nupdate_frequncy = \"3d\"\n");
    fails(&deployment, &["queues"], 1, &["keyturn.toml", "line 4", "update_frequncy"]);
    deployment.configure("[ingress]\nlisten = \"0.0.0.0:8080\"\n");
    fails(&deployment, &["up"], 1, &["ingress.listen", "ingress.tls"]);
    deployment.configure("");
    fails(&deployment, &["up", "--listen", "0.0.0.0:0"], 1, &["ingress.listen", "ingress.tls"]);
    deployment
        .configure("[ingress]\nlisten = \"0.0.0.0:0\"\ntls.certificate = \"c.pem\"\ntls.key = \"k.pem\"\n");
    fails(&deployment, &["up"], 1, &["loopback", "--danger-serve-beyond-loopback"]);
    deployment.configure("");
    for wal in ["data/keyturn.db-wal", "data/keyturn.db-shm"] {
        let _ = fs::remove_file(deployment.path(wal));
    }
    fs::write(deployment.path("data/keyturn.db"), "this is not a database, and long enough to be looked at")
        .unwrap();
    fails(&deployment, &["queues"], 1, &["keyturn.db"]);
    let nowhere = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .args(["--config", "/nonexistent/keyturn.toml", "queues"])
        .output()
        .unwrap();
    assert!(text(&nowhere.stderr).contains("keyturn init"), "{}", text(&nowhere.stderr));
}
