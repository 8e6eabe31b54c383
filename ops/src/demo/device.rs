//! One simulated device: a real key and certificate, a real agent, an account in a file.

use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use keyturn_agent::accounts::file::FileAccounts;
use keyturn_agent::identity::Identity;
use keyturn_agent::observer::Observer;
use keyturn_agent::settings::{Settings, Timing};
use keyturn_agent::{Agent, Deps};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::label::Label;
use keyturn_ports::directory::DeviceRecord;
use keyturn_schemas::certificate::DeviceCertificate;
use keyturn_schemas::claims::Labels;
use keyturn_schemas::signing::PublicKey;
use keyturn_service::host::Host;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

use crate::commands::device::record;
use crate::commands::init::{ROOT_PUBLIC_FILE, private_file};

/// The account that the fleet manages.
const ACCOUNT: &str = "localadmin";
/// Hashing is cheap here, because a whole fleet hashes on one machine.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(5_000).unwrap();

/// A simulated device.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) id: DeviceId,
    pub(super) record: DeviceRecord,
    pub(super) accounts: Arc<FileAccounts>,
    settings: Settings,
}

/// A device's key and certificate.
pub(super) struct Registered {
    id: DeviceId,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Registers a device: makes its key and the certificate that a join to the directory would give it.
pub(super) fn register(entropy: &dyn Entropy) -> Result<Registered> {
    let id = DeviceId::from_bytes(entropy.bytes());
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    let certificate = params.self_signed(&key)?;
    Ok(Registered { id, certificate: certificate.der().to_vec(), key: key.serialize_der() })
}

impl Device {
    /// Installs an agent on a registered device. Its files are in a folder of its own below `home`.
    pub(super) fn install(
        number: usize,
        registered: &Registered,
        home: &Path,
        server: SocketAddr,
        host: &Host,
    ) -> Result<Self> {
        let name = format!("DEMO-{number:02}");
        let folder = home.join("devices").join(&name);
        fs::create_dir_all(&folder)?;
        let certificate = DeviceCertificate::from_der(&registered.certificate)?;
        let record = record(&certificate, &name, "AzureAd").context("a fresh certificate names no device")?;
        let label = |text: &str| Label::parse(text).unwrap_or_default();
        let (clock, entropy) = (host.engines.clock(), host.engines.entropy());
        let accounts = FileAccounts::new(folder.join("account.json"), label(ACCOUNT), clock, entropy);
        let root = fs::read_to_string(home.join(ROOT_PUBLIC_FILE))?;
        let settings = Settings {
            server: format!("http://{server}").parse()?,
            ca: None,
            proxy: None,
            deployment: host.config.deployment.clone(),
            root: serde_json::from_str::<PublicKey>(&root)?,
            device: registered.id,
            identity: Arc::new(Identity::from_der(&registered.certificate, &registered.key)?),
            state: folder.join("state"),
            labels: Labels {
                serial: label(&format!("SN{number:06}")),
                host: label(&name),
                os: label("Demo 1"),
                vm: true,
            },
            machine: None,
            create_account: true,
            wait: Duration::from_mins(2),
            check_in: Duration::from_secs(5),
            splay: Duration::ZERO,
            timing: Timing { gap: Duration::from_millis(20), ..Timing::default() },
        };
        keep(&folder, registered)?;
        let accounts = Arc::new(accounts.danger_iterations(ITERATIONS));
        Ok(Self { name, id: registered.id, record, accounts, settings })
    }

    /// The device's agent, freshly started.
    pub(super) fn agent(&self, observer: Arc<dyn Observer>) -> Result<Agent> {
        let accounts: Arc<FileAccounts> = Arc::clone(&self.accounts);
        Ok(Agent::new(self.settings.clone(), Deps::system(accounts).observed(observer))?)
    }
}

/// Leaves certificate and key beside the agent's files, for those who want to try another client.
fn keep(folder: &Path, registered: &Registered) -> Result<()> {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    fs::write(file("device.cer"), &registered.certificate)?;
    let key = KeyPair::try_from(registered.key.as_slice())?.serialize_pem();
    Ok(private_file(&file("device.key.pem"), &key)?)
}
