//! A vault in the database whose keys a key of Key Vault wraps, as real processes; the service is a fake.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};

use crate::deployment::{Deployment, text};
use crate::key_vault::Up;
use crate::processes::{Device, free_address, install};

fn configure(deployment: &Deployment, fake: &FakeKeyVault, listen: SocketAddr, health: SocketAddr) {
    fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"{health}\"\n\
         [workers]\nfirst_delay = \"50ms\"\n\
         [vault]\nengine = \"envelope\"\nwrapping_key = \"{}/keys/keyturn\"\nunwrap_every = \"1s\"\n\
         danger_unverified_challenge = true\n\
         [azure]\nca = \"azure.pem\"\ntimeout = \"2s\"\nattempts = 1\n",
        fake.server.url()
    ));
}

fn refused(deployment: &Deployment, arguments: &[&str], part: &str) {
    let output = deployment.keyturn(arguments);
    let told = text(&output.stderr);
    assert!(!output.status.success() && told.contains(part), "{told}");
}

/// What `/readyz` says, once it answers.
async fn ready(health: SocketAddr) -> String {
    loop {
        if let Ok(mut stream) = TcpStream::connect(health) {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ready_with(health: SocketAddr, part: &str) -> String {
    loop {
        let answer = ready(health).await;
        if answer.contains(part) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_unwrapped_at_the_start_and_never_lie_on_disk() {
    let (fake, identity) = (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
    let mut deployment = Deployment::init();
    deployment.variables = identity.variables().to_vec();
    let (address, health) = (free_address(), free_address());
    configure(&deployment, &fake, address, health);
    let device = install(&deployment, 0, address);
    let file = deployment.path("data/keys/vault.key");
    let plain: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let secret = plain["keys"][0]["secret"].as_str().unwrap().to_owned();

    // Plain keys are not taken, and nothing is lost where the wrapping fails.
    refused(&deployment, &["vault", "verify"], "keyturn vault wrap");
    refused(&deployment, &["vault", "wrap"], "no such key");
    assert!(fs::read_to_string(&file).unwrap().contains(&secret));
    fake.make_key("keyturn");
    fake.faults(Call::Unwrap, [Fault::DoneThenHtml]);
    refused(&deployment, &["vault", "wrap"], "cannot be read");
    assert!(fs::read_to_string(&file).unwrap().contains(&secret));
    deployment.ok(&["vault", "wrap"]);
    assert!(!fs::read_to_string(&file).unwrap().contains(&secret));

    // Key Vault is away at the start: the process waits, says so, and goes on when it is back.
    fake.faults(Call::Unwrap, [const { Fault::Unavailable }; 2]);
    let _up = Up::start(&deployment);
    let waiting = ready_with(health, "keys/keyturn").await;
    assert!(
        waiting.contains("503") && waiting.contains("waiting: ") && waiting.contains("keys/keyturn"),
        "{waiting}"
    );
    ready_with(health, "200 OK").await;
    assert!(fake.all_happened());

    // A rotation asks nobody.
    let asked = || fake.count(Call::Unwrap) + fake.count(Call::Wrap) + fake.count(Call::Other);
    let before = asked();
    rotated_by_agent(&device).await;
    assert_eq!(asked(), before);
    device.invariant_settled(&deployment);
    assert_eq!(asked(), before + 1, "the command that shows a password unwraps for itself");

    // A new version of the wrapping key: the keys stay, what they sealed stays, only the wrapping is new.
    let second = fake.make_key("keyturn");
    deployment.ok(&["vault", "wrap"]);
    assert!(fs::read_to_string(&file).unwrap().contains(&second));
    device.invariant_settled(&deployment);
    let again = deployment.keyturn(&["vault", "wrap"]);
    assert!(text(&again.stderr).contains("already"), "{}", text(&again.stderr));

    // A new master key: made wrapped, put to use, and what there is sealed anew under it.
    deployment.ok(&["keys", "rotate", "vault"]);
    let wrapped = fs::read_to_string(&file).unwrap();
    let mut keys: serde_json::Value = serde_json::from_str(&wrapped).unwrap();
    assert_eq!((keys["kind"].as_str(), keys["keys"].as_array().unwrap().len()), (Some("vault-wrapped"), 2));
    refused(&deployment, &["keys", "rotate", "vault", "--activate"], "before every process has read it");
    keys["keys"][1]["added_ms"] = serde_json::json!(1);
    fs::write(&file, keys.to_string()).unwrap();
    let wraps = fake.count(Call::Wrap);
    deployment.ok(&["keys", "rotate", "vault", "--activate"]);
    assert_eq!(fake.count(Call::Wrap), wraps, "what is wrapped stays as it is");
    deployment.ok(&["vault", "rekey"]);
    let counted = deployment.ok(&["--output", "json", "vault", "verify"]);
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    assert_eq!((counted[0]["key"].as_str(), counted[0]["versions"].as_u64()), (Some("2"), Some(1)));
    device.invariant_settled(&deployment);

    // Whoever wraps a key of their own does not get it used: the file names the key.
    let mut keys: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    keys["keys"][0]["name"] = serde_json::json!("0000000000000000");
    fs::write(&file, keys.to_string()).unwrap();
    refused(&deployment, &["vault", "verify"], "not the key that the file names");
}

async fn rotated_by_agent(device: &Device) {
    let once = device.agent().once().await.unwrap();
    assert!(once.is_success(), "{once}");
}
