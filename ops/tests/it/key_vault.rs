//! A whole deployment on Azure Key Vault, as real processes: a fake of the vault and of the managed identity's endpoint
//! stand for Azure, all else is real.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemClock;
use keyturn_testkit::azure::identity::ManagedIdentity;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};
use serde_json::Value;

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

/// Without the second name: what these tests count is versions, each one write.
fn configure(deployment: &Deployment, fake: &FakeKeyVault, listen: std::net::SocketAddr) {
    configure_as(deployment, fake, listen, "confirmed_copy = false\n");
}

fn configure_as(deployment: &Deployment, fake: &FakeKeyVault, listen: std::net::SocketAddr, vault: &str) {
    fs::write(deployment.path("data/azure.pem"), &fake.server.ca).unwrap();
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"off\"\n\
         [workers]\nlease = \"1s\"\nfirst_delay = \"50ms\"\nmax_delay = \"200ms\"\n\
         [vault]\nengine = \"key-vault\"\nurls = [\"{}\"]\ndanger_unverified_challenge = true\n{vault}\
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
        tokio::time::sleep(Duration::from_millis(5)).await;
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
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
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

    let held = deployment.keyturn(&["vault", "history", &device.name]);
    let (listed, advice) = (text(&held.stdout), text(&held.stderr));
    assert_eq!((listed.matches("confirmed").count(), listed.matches("older").count()), (1, 1), "{listed}");
    assert!(advice.contains("2 of 500 versions"), "{advice}");
    assert!(!listed.contains(&device.shown(&deployment)[0].1), "no value");

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

/// `keyturn doctor` tells whether Key Vault may be read, and with `--write` whether it may be written; and it leaves nothing
/// but what it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_tries_what_this_identity_may_do() {
    let (fake, identity) = (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
    let mut deployment = Deployment::init();
    deployment.variables = identity.variables().to_vec();
    configure(&deployment, &fake, free_address());
    let doctor = |arguments: &[&str], line: &str| {
        let told = deployment.keyturn(&[&["doctor"], arguments].concat());
        let (said, failed) = (text(&told.stdout), line.starts_with("failed"));
        assert!(said.lines().any(|said| said.contains(line)), "{line}: {said}");
        assert_eq!(told.status.success(), !failed, "{said}");
        said
    };
    let url = fake.server.url();
    let said = doctor(&[], &format!("ok      vault readable {url}"));
    assert!(
        said.contains(&format!("ok      service clock  {url}: its clock and this machine's are 0 s apart")),
        "{said}"
    );
    assert!(!said.contains("vault writable") && fake.count(Call::Set) == 0, "{said}");
    fake.faults(Call::Get, [Fault::Forbidden(Some("ForbiddenByRbac"))]);
    let said = doctor(&[], "failed  vault readable");
    assert!(said.contains("this identity may not read") && said.contains("docs/AZURE.md"), "{said}");
    assert!(fake.names().is_empty(), "looking makes nothing");

    doctor(&["--write"], &format!("ok      vault writable {url}"));
    assert_eq!((fake.names(), fake.count(Call::Set)), (vec!["keyturn-doctor".to_owned()], 1));
    assert!(fake.current("keyturn-doctor").is_none(), "it is disabled");
    for (fault, part) in [
        (Fault::Forbidden(Some("ForbiddenByRbac")), "this identity may not write"),
        (Fault::Forbidden(None), "the vault takes no writes now"),
        (Fault::DoneThen500, "status 500"),
    ] {
        fake.faults(Call::Set, [fault]);
        let said = doctor(&["--write"], "failed  vault writable");
        assert!(said.contains(part) && said.contains("vault-writes-fail.md"), "{said}");
    }
    assert_eq!(fake.versions("keyturn-doctor").len(), 2, "what fails is not written again");
}

/// The second name, as it is unless it is turned off, sooner than by default.
const COPIED: &str = "copy_every = \"1s\"\ncopy_sweep_every = \"1s\"\n";

/// Waits until the copy is what is asked for.
async fn copied(fake: &FakeKeyVault, name: &str, is: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..400 {
        if let Some(copy) = fake.current(name).filter(&is) {
            return copy;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the copy is {:?}", fake.current(name));
}

/// The second name of a device: written after the confirmation and once, whoever dies between the two writes or after the
/// second, and written anew when the ledger or somebody else changed what it should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_password_is_copied_once_whoever_dies() {
    let (fake, identity) = (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
    let mut deployment = Deployment::init();
    deployment.variables = identity.variables().to_vec();
    let address = free_address();
    configure(&deployment, &fake, address);
    let device = install(&deployment, 0, address);
    let (versions, copy) = (format!("lap-{}-next", device.id()), format!("lap-{}", device.id()));
    let shown = || device.shown(&deployment)[0].1.clone();

    // Killed between the two writes: the first is there and confirmed, the second was not begun.
    let up = Up::start(&deployment);
    run(device.agent()).await;
    device.invariant_settled(&deployment);
    drop(up);
    assert_eq!((fake.names(), fake.versions(&versions).len()), (vec![versions.clone()], 1));

    // Killed after the second write, which is never answered.
    configure_as(&deployment, &fake, address, COPIED);
    fake.faults(Call::Set, [Fault::DoneInSilence]);
    let up = Up::start(&deployment);
    copied(&fake, &copy, |_| true).await;
    drop(up);
    assert!(fake.all_happened());

    // Others find it there, whatever the sweep looks at and however often, and write nothing.
    let _up = Up::start(&deployment);
    let looked = fake.count(Call::Get);
    while fake.count(Call::Get) < looked + 6 {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(fake.versions(&copy).len(), 1);
    let first = fake.current(&copy).unwrap();
    assert_eq!(
        (first["value"].as_str().unwrap(), &first["contentType"]),
        (&*shown(), &"Local Administrator".into())
    );
    let tags = &first["tags"];
    assert_eq!(
        (&tags["AzureADDeviceID"], &tags["state"]),
        (&device.id().to_string().into(), &"confirmed".into())
    );
    assert_eq!(tags["UserName"], "localadmin");

    // The next password.
    deployment.ok(&["device", "rotate-now", &device.name, "--reason", "next round"]);
    assert!(device.agent().once().await.unwrap().is_success());
    device.invariant_settled(&deployment);
    let password = shown();
    copied(&fake, &copy, |copy| copy["value"] == password.as_str()).await;
    assert_eq!((fake.versions(&copy).len(), fake.versions(&versions).len()), (2, 2));

    // Whoever may set secrets changes what it says: the sweep writes it anew, and a reveal never looked at it.
    fake.retag(&copy, "version", "another");
    copied(&fake, &copy, |copy| copy["tags"]["version"] != "another").await;
    assert_eq!((fake.versions(&copy).len(), shown()), (3, password));
}

/// A copy that cannot be written holds up no rotation, no confirmation and no other copy; it is written as soon as it can
/// be, by whoever is there then, and only as the password is by then. No sweep is due in this test.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_holds_up_nothing_and_heals() {
    let (fake, identity) = (FakeKeyVault::start(Arc::new(SystemClock)).await, ManagedIdentity::start().await);
    let mut deployment = Deployment::init();
    deployment.variables = identity.variables().to_vec();
    let address = free_address();
    configure_as(&deployment, &fake, address, "copy_every = \"1s\"\ncopy_sweep_every = \"1d\"\n");
    let [stuck, other] = [0, 1].map(|number| install(&deployment, number, address));
    let [copy, others] = [&stuck, &other].map(|device| format!("lap-{}", device.id()));
    fake.always_setting(&copy, Some(Fault::Throttled(Some(1))));

    let up = Up::start(&deployment);
    for device in [&stuck, &other] {
        run(device.agent()).await;
        device.invariant_settled(&deployment);
    }
    copied(&fake, &others, |_| true).await;
    assert!(fake.current(&copy).is_none());

    // Nor when it is forbidden, before and after a kill: what failed is remembered by the state and not by the process.
    fake.always_setting(&copy, Some(Fault::Forbidden(Some("ForbiddenByRbac"))));
    let rotate = async || {
        deployment.ok(&["device", "rotate-now", &stuck.name, "--reason", "next round"]);
        assert!(stuck.agent().once().await.unwrap().is_success());
        stuck.invariant_settled(&deployment);
    };
    rotate().await;
    drop(up);
    let _up = Up::start(&deployment);
    rotate().await;
    let tried = fake.count(Call::Set);
    while fake.count(Call::Set) == tried {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(fake.current(&copy).is_none(), "it was tried, and is not there");

    fake.always_setting(&copy, None);
    let now = stuck.shown(&deployment)[0].1.clone();
    copied(&fake, &copy, |copy| copy["value"] == now.as_str()).await;
    let versions = |name: &str| fake.versions(name).len();
    assert_eq!((versions(&copy), versions(&format!("{copy}-next")), versions(&others)), (1, 3, 1));
}

fn configure_two(
    deployment: &Deployment,
    (home, former): (&FakeKeyVault, Option<&FakeKeyVault>),
    listen: std::net::SocketAddr,
) {
    configure(deployment, home, listen);
    let Some(former) = former else { return };
    fs::write(deployment.path("data/azure.pem"), format!("{}{}", home.server.ca, former.server.ca)).unwrap();
    let config = fs::read_to_string(deployment.config()).unwrap();
    let read = format!("[vault]\nread_urls = [\"{}\"]", former.server.url());
    fs::write(deployment.config(), config.replace("[vault]", &read)).unwrap();
}

/// `keyturn vault rebalance`, killed when the vault has so many versions, or at its end.
async fn rebalance_until(deployment: &Deployment, vault: &FakeKeyVault, versions: usize) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    command.envs(deployment.variables.iter().cloned()).stdout(Stdio::null()).stderr(Stdio::null());
    command.arg("--config").arg(deployment.config());
    let mut child = command.args(["vault", "rebalance", "--reason", "a new vault"]).spawn().unwrap();
    let there = || vault.names().iter().map(|name| vault.versions(name).len()).sum::<usize>();
    while there() < versions && child.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A vault is replaced by another. The command is killed after a write that was never answered, and again later; in the
/// end every version is in the new vault once, and the old one is not needed any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_killed_anywhere_ends_with_every_version_at_home() {
    let clock = Arc::new(SystemClock);
    let (old, new) = (FakeKeyVault::start(clock.clone()).await, FakeKeyVault::start(clock).await);
    let identity = ManagedIdentity::start().await;
    let mut deployment = Deployment::init();
    deployment.variables = identity.variables().to_vec();
    let address = free_address();
    configure(&deployment, &old, address);
    let devices = [0, 1, 2].map(|number| install(&deployment, number, address));
    let up = Up::start(&deployment);
    for round in 0..2 {
        for device in &devices {
            run(device.agent()).await;
            device.invariant_settled(&deployment);
            if round == 0 {
                deployment.ok(&["device", "rotate-now", &device.name, "--reason", "a second one"]);
            }
        }
    }
    drop(up);
    let count =
        |fake: &FakeKeyVault| fake.names().iter().map(|name| fake.versions(name).len()).collect::<Vec<_>>();
    assert_eq!(count(&old), [2, 2, 2]);

    configure_two(&deployment, (&new, Some(&old)), address);
    let dry = deployment.ok(&["vault", "rebalance", "--dry-run"]);
    assert!(dry.contains("6 versions of 3 devices would be moved") && new.names().is_empty(), "{dry}");
    new.faults(Call::Set, [Fault::DoneInSilence]);
    for versions in [1, 3, 4] {
        rebalance_until(&deployment, &new, versions).await;
    }
    assert!(new.all_happened());
    deployment.ok(&["vault", "rebalance", "--reason", "a new vault", "--max-rate", "6000"]);
    assert_eq!(
        (count(&new), count(&old)),
        (vec![2, 2, 2], vec![2, 2, 2]),
        "each once, and the old ones stay"
    );
    assert!(deployment.ok(&["vault", "rebalance", "--dry-run"]).contains("0 versions of 0 devices"));
    let audit = deployment.ok(&["audit", "export", "--since", "2026-01-01T00:00:00Z"]);
    assert!(audit.contains("VaultRebalanced") && audit.contains("a new vault"), "{audit}");

    // The old ones are disabled, and then their vault is gone.
    deployment.ok(&["vault", "rebalance", "--reason", "a new vault", "--disable-old"]);
    assert!(old.names().iter().all(|name| old.current(name).is_none()), "nobody reads them there");
    configure(&deployment, &new, address);
    drop(old);
    let _up = Up::start(&deployment);
    for device in &devices {
        device.invariant_settled(&deployment);
        let history = deployment.ok(&["--output", "json", "device", "history", &device.name]);
        assert_eq!(serde_json::from_str::<Vec<Value>>(&history).unwrap().len(), 2);
        deployment.ok(&["device", "rotate-now", &device.name, "--reason", "goes on"]);
        run(device.agent()).await;
        device.invariant_settled(&deployment);
    }
    assert_eq!(count(&new), [3, 3, 3]);
}
