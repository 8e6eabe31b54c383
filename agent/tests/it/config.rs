//! The settings file: what a good one says, and what a bad one is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_agent::config::{AccountConfig, Config};
use keyturn_agent::platform::linux::Options;
use keyturn_schemas::signing::SigningKey;

use crate::server::{device, device_id, label};

/// A settings file with everything it names, in a folder of its own. `server` stands on line 1.
pub(crate) fn write(folder: &Path, server: &str) -> std::path::PathBuf {
    let (certificate, key) = device();
    pem(&folder.join("device.crt"), "CERTIFICATE", certificate);
    pem(&folder.join("device.key"), "PRIVATE KEY", key);
    let root = SigningKey::from_seed("root-1", &[1; 32]).unwrap().public();
    fs::write(folder.join("root.json"), serde_json::to_vec(&root).unwrap()).unwrap();
    let at = folder.display();
    let text = format!(
        r#"server = "{server}"
deployment = "contoso"
root_key = "{at}/root.json"
device_id = "{}"
certificate = "{at}/device.crt"
private_key = "{at}/device.key"
state = "{at}/state"
wait = "10m"
check_in = "2h"

[account]
kind = "file"
path = "{at}/account.json"
name = "lapsadmin"

[timing]
gap = "4ms"
"#,
        device_id()
    );
    let path = folder.join("agent.toml");
    fs::write(&path, text).unwrap();
    path
}

fn pem(path: &Path, kind: &str, der: &[u8]) {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    fs::write(path, format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What the file is told once `from` in it has become `to`, with the folder written as `DIR`.
fn told(from: &str, to: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "https://keyturn.example.org");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(&path, text.replace(from, to)).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    error.replace(&folder.path().display().to_string(), "DIR")
}

#[test]
fn a_good_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "https://keyturn.example.org");
    let Config { settings, account } = Config::load(&path).unwrap();
    assert_eq!(settings.wait, Duration::from_mins(10));
    assert_eq!(settings.check_in, Duration::from_hours(2));
    assert_eq!(settings.timing.gap, Duration::from_millis(4));
    assert_eq!(settings.timing.unknown_post, Duration::from_secs(30), "the protocol's default");
    assert_eq!((settings.device, settings.create_account), (device_id(), true));
    let expected = AccountConfig::File { path: folder.path().join("account.json"), name: label("lapsadmin") };
    assert_eq!(account, expected);
}

#[test]
fn a_missing_file_is_said_so() {
    assert_eq!(
        Config::load(Path::new("/nowhere/agent.toml")).unwrap_err().to_string(),
        "/nowhere/agent.toml: the settings file cannot be read: No such file or directory (os error 2); \
         give another with --config FILE"
    );
}

#[test]
fn errors_name_file_line_and_key() {
    let cases = [
        (
            ("https://keyturn.example.org", "http://keyturn.example.org"),
            "DIR/agent.toml:1: server: expected an https address, like https://keyturn.example.org; \
             plain http only to this machine (127.0.0.1, ::1)",
        ),
        (
            ("\"contoso\"", "\"Contoso Ltd\""),
            "DIR/agent.toml:2: deployment: a deployment's name is 1 to 64 characters of a-z 0-9 - .",
        ),
        (
            ("wait = \"10m\"", "wait = \"10 minutes\""),
            "DIR/agent.toml:8: wait: expected a whole number and a unit, like 250ms, 30s, 15m, 1h or 3d",
        ),
        (("wait = \"10m\"", "wait = \"3h\""), "DIR/agent.toml:8: wait: must be from 1s to 1h"),
        (
            ("name = \"lapsadmin\"", "name = 5"),
            "DIR/agent.toml:14: account.name: invalid type: integer `5`, expected a string",
        ),
        (
            ("gap =", "gpa ="),
            "DIR/agent.toml:17: timing.gpa: unknown field `gpa`, expected one of `unknown_post`, `gap`, `long_poll`, `report_wait`, `connect`",
        ),
        (
            ("kind = \"file\"", "kind = \"sam\""),
            "DIR/agent.toml:12: account.kind: unknown variant `sam`, expected `file` or `linux`",
        ),
        (("path =", "# path ="), "DIR/agent.toml:11: [account]: missing field `path`"),
        (("[account]", "[account"), "DIR/agent.toml:11: [account]: unclosed table, expected `]`"),
        (
            ("gap = \"4ms\"", "long_poll = \"60s\""),
            "DIR/agent.toml:17: timing.long_poll: must be from 0ms to 30s",
        ),
    ];
    for ((from, to), expected) in cases {
        assert_eq!(told(from, to), expected);
    }
}

#[test]
fn errors_about_the_files_it_names_say_which() {
    assert_eq!(
        told("root.json", "absent.json"),
        "DIR/agent.toml:3: root_key: DIR/absent.json cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        told("root.json", "device.crt"),
        "DIR/agent.toml:3: root_key: it is not the root's public key: expected JSON with kid, alg and x"
    );
    assert_eq!(
        told("device.crt", "device.key"),
        "DIR/agent.toml:5: certificate: there is no certificate in PEM in it"
    );
    assert_eq!(
        told("/device.key", "/device.crt"),
        "DIR/agent.toml:6: private_key: there is no RSA private key in PEM in it (PKCS#8 or PKCS#1, not encrypted)"
    );
    assert_eq!(
        told("3f6a1c2e-", "00000000-"),
        format!("DIR/agent.toml:4: device_id: the certificate was issued to {}", device_id())
    );
}

#[test]
fn a_private_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "https://keyturn.example.org");
    let key = folder.path().join("device.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.contains("agent.toml:6: private_key: ") && error.contains("mode 640"), "{error}");
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "https://keyturn.example.org");
    let other = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    pem(&folder.path().join("device.key"), "PRIVATE KEY", &other.serialize_der());
    let error = Config::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("private_key: the private key does not belong to the certificate"), "{error}");
}

/// The sample in `infra`, with everything it names beside it: relative paths are relative to the file.
#[test]
fn the_sample_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "https://keyturn.example.org");
    for (from, to) in [("device.crt", "device.pem"), ("root.json", "root.pub.json")] {
        fs::rename(folder.path().join(from), folder.path().join(to)).unwrap();
    }
    let sample = include_str!("../../../infra/samples/agent.toml");
    let sample_id = "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11";
    let path = folder.path().join("sample.toml");
    fs::write(&path, sample.replace(sample_id, &device_id().to_string())).unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.settings.deployment.as_str(), "example");
    let name = "localadmin".parse().unwrap();
    let expected = AccountConfig::Linux { name, random_suffix: 0, options: Options::default() };
    assert_eq!(config.account, expected);
    // Every setting that is commented out is one that there is.
    let spoken = sample.replace(sample_id, &device_id().to_string()).replace("\n#", "\n");
    let spoken: Vec<&str> =
        spoken.lines().filter(|line| line.contains(" = ") || line.starts_with('[')).collect();
    fs::write(&path, spoken.join("\n").replace("ca = \"ca.pem\"", "ca = \"device.pem\"")).unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(config.settings.splay, keyturn_agent::settings::SPLAY);
    let AccountConfig::Linux { random_suffix, options, .. } = config.account else { panic!() };
    let shown = Options {
        groups: Some(vec!["sudo".to_owned()]),
        shell: Some("/bin/bash".into()),
        ..Options::default()
    };
    assert_eq!(
        (random_suffix, options),
        (4, shown),
        "the values that are commented out are the defaults, or say so"
    );
}

#[test]
fn settings_of_the_two_kinds_of_accounts_are_not_mixed() {
    let path = "path = \"DIR/account.json\"";
    assert_eq!(
        told("kind = \"file\"", "kind = \"linux\""),
        "DIR/agent.toml:13: account.path: an account of kind `linux` has no such setting"
    );
    assert_eq!(
        told("name = \"lapsadmin\"", "name = \"lapsadmin\"\nunlock = true"),
        "DIR/agent.toml:15: account.unlock: an account of kind `file` has no such setting"
    );
    let linux = |to: &str| {
        let folder = tempfile::tempdir().unwrap();
        let at = write(folder.path(), "https://keyturn.example.org");
        let here = folder.path().display().to_string();
        let text = fs::read_to_string(&at).unwrap().replace(&path.replace("DIR", &here), "");
        let text = text.replace("kind = \"file\"", "kind = \"linux\"").replace("name = \"lapsadmin\"", to);
        fs::write(&at, text).unwrap();
        let told = Config::load(&at).err().map(|error| error.to_string());
        told.unwrap_or_default().replace(&here, "DIR")
    };
    assert_eq!(linux("name = \"lapsadmin\""), "");
    for (to, expected) in [
        ("name = \"Laps Admin\"", "name: an account's name is a small letter"),
        ("name = \"a\"\ngroups = [\"sudo,root\"]", "groups: «sudo,root» is no name of a group"),
        ("name = \"a\"\nshell = \"bash\"", "shell: must be an absolute path"),
        ("name = \"a\"\nrandom_suffix = 10", "random_suffix: must be from 0 to 9"),
        ("name = \"abcdefghijklmnopqrstuvwxyzabcdef\"\nrandom_suffix = 1", "random_suffix: abc"),
        ("name = \"a\"\ntime_limit = \"1h\"", "time_limit: must be from 1s to 2m"),
    ] {
        let told = linux(to);
        assert!(told.contains(&format!(": account.{expected}")), "{told}");
    }
}

/// What the manual shows of [key] is taken as far as to the files it names, or to what this agent was built without.
#[test]
fn the_manuals_keys_are_settings() {
    let manual = include_str!("../../../docs/AGENT.md");
    let sections: Vec<&str> =
        manual.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(sections.len(), 3);
    for section in sections {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "https://keyturn.example.org");
        let text = fs::read_to_string(&path).unwrap();
        let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("private_key")).collect();
        let module = section.replace("/usr/lib/softhsm/libsofthsm2.so", "/nowhere/module.so");
        fs::write(&path, format!("{}\n{}", text.join("\n"), module.replace("\n#", "\n"))).unwrap();
        let told = Config::load(&path).unwrap_err().to_string();
        let there =
            told.contains("cannot be read: No such file") || told.contains("built without the feature");
        assert!(there, "{section}{told}");
    }
}

#[test]
fn there_is_one_key() {
    let cases = [
        (
            "private_key =",
            "#private_key =",
            "DIR/agent.toml: name the device's `private_key`, or say in a [key] where it is",
        ),
        (
            "certificate =",
            "#certificate =",
            "DIR/agent.toml:6: private_key: name the file of the device's `certificate` as well",
        ),
        (
            "[timing]",
            "[key]\nkind = \"pkcs12\"\n[timing]",
            "DIR/agent.toml:6: private_key: there is a [key] as well; take one of them out",
        ),
        (
            "[timing]",
            "[key]\nkind = \"paper\"\n[timing]",
            "DIR/agent.toml:17: key.kind: unknown variant `paper`, expected one of `pkcs12`, `pkcs11`, `tpm2`",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(told(from, to), expected);
    }
}
