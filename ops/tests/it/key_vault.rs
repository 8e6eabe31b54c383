//! A whole deployment on Azure Key Vault, as real processes: a fake of the vault and of the managed identity's endpoint
//! stand for Azure, all else is real.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use keyturn_domain::ambient::SystemClock;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};

use crate::deployment::{Deployment, text};
use crate::processes::{free_address, install, run};

/// `keyturn up`, killed when it goes.
pub(crate) struct Up(Child);

impl Up {
    pub(crate) fn start(deployment: &Deployment) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        command.envs(deployment.variables.iter().cloned()).stderr(Stdio::null());
        Self(command.arg("--config").arg(deployment.config()).arg("up").spawn().unwrap())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn configure(deployment: &Deployment, fake: &FakeKeyVault, listen: std::net::SocketAddr) {
    fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\n\
         [workers]\nlease = \"1s\"\nfirst_delay = \"50ms\"\nmax_delay = \"200ms\"\n\
         [vault]\nengine = \"key-vault\"\nurls = [\"{}\"]\ndanger_unverified_challenge = true\n\
         [azure]\nca = \"azure.pem\"\ntimeout = \"2s\"\n",
        fake.server.url()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotator_killed_after_its_put_makes_no_second_version() {
    let (fake, identity) = (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
    let mut deployment = Deployment::init();
    deployment.variables = identity.variables().to_vec();
    let address = free_address();
    configure(&deployment, &fake, address);
    // The master key of an embedded vault is not needed, and nobody asks for it.
    fs::remove_file(deployment.path("data/keys/vault.key")).unwrap();
    let device = install(&deployment, 0, address);

    fake.faults(Call::Set, [Fault::DoneInSilence]);
    let killed = Up::start(&deployment);
    let agent = tokio::spawn(run(device.agent()));
    while fake.names().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(killed);
    let secret = fake.names().remove(0);
    let _up = Up::start(&deployment);
    agent.await.unwrap();
    device.invariant_settled(&deployment);
    assert_eq!(fake.versions(&secret).len(), 1, "the version that was put before the kill is the one in use");

    deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
    assert!(device.agent().once().await.unwrap().is_success());
    device.invariant_settled(&deployment);
    assert_eq!(fake.versions(&secret).len(), 2);
    let history = deployment.ok(&["--output", "json", "device", "history", &device.name]);
    let history: Vec<serde_json::Value> = serde_json::from_str(&history).unwrap();
    assert_eq!(
        history.iter().map(|row| row["state"].as_str().unwrap()).filter(|state| *state == "older").count(),
        1
    );
    assert_eq!(history.len(), 2);

    let key = deployment.path("recovery.key");
    deployment.ok(&["vault", "recovery-key", key.to_str().unwrap()]);
    let (export, public) = (deployment.path("glass.export"), deployment.path("recovery.key.pub"));
    let (export, public) = (export.to_str().unwrap(), public.to_str().unwrap());
    deployment.ok(&["vault", "export", export, "--sealed-to", public, "--reason", "drill"]);
    let opened = deployment.ok(&["vault", "open-export", export, "--key", key.to_str().unwrap()]);
    let password = opened.split('\t').nth(3).unwrap();
    assert!(device.accepts(password) && opened.lines().count() == 1, "from Key Vault as well");

    let refused = deployment.keyturn(&["vault", "verify"]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("Key Vault"),
        "{}",
        text(&refused.stderr)
    );
}

/// Without a token nothing is stored, nothing is given out, and the reason is told without a secret.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_a_reveal_says_why() {
    let (fake, identity) = (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
    let mut deployment = Deployment::init();
    let address = free_address();
    configure(&deployment, &fake, address);
    let device = install(&deployment, 0, address);
    let [endpoint, (header, _)] = identity.variables();
    deployment.variables = vec![endpoint, (header, "canary-wrong".to_owned())];
    let refused = deployment.keyturn(&["device", "history", &device.name]);
    let told = text(&refused.stderr);
    assert!(!refused.status.success() && told.contains("azure.credential: status 401"), "{told}");
    assert!(!told.contains("canary"), "{told}");
}
