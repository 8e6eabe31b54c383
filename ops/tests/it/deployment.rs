//! A deployment in a temporary folder, and devices with real keys for it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::DeviceId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use tempfile::TempDir;

/// A deployment made by `keyturn init`.
pub(crate) struct Deployment {
    pub(crate) folder: TempDir,
    /// What its processes have in their environment.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// A device's registration.
pub(crate) struct Registration {
    pub(crate) id: DeviceId,
    pub(crate) key: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
}

impl Deployment {
    /// Makes a deployment.
    pub(crate) fn init() -> Self {
        let deployment = Self { folder: tempfile::tempdir().unwrap(), variables: Vec::new() };
        let made = Command::new(env!("CARGO_BIN_EXE_keyturn"))
            .args(["init", "--name", "test"])
            .arg(deployment.path("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        deployment
    }

    /// A path in the deployment's folder.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("data/keyturn.toml")
    }

    /// Replaces the configuration.
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.config(), format!("[deployment]\nname = \"test\"\n{text}")).unwrap();
    }

    /// Runs `keyturn` on the deployment.
    pub(crate) fn keyturn(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        command.envs(self.variables.iter().cloned());
        command.arg("--config").arg(self.config()).args(arguments).output().unwrap()
    }

    /// Runs `keyturn`, which must succeed, and returns what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.keyturn(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Makes the tables in the database that the configuration names, if that is on PostgreSQL.
    pub(crate) fn make_tables(&self) {
        if !fs::read_to_string(self.config()).unwrap().contains("[state.postgres]") {
            return;
        }
        let made = self.keyturn(&["init", "--tables"]);
        assert!(made.status.success(), "{}", text(&made.stderr));
    }

    /// Adds a device to the directory.
    pub(crate) fn add(&self, registration: &Registration, name: &str) {
        let file = self.path(&format!("{name}.cer"));
        fs::write(&file, &registration.certificate).unwrap();
        self.ok(&["device", "add", "--cert", file.to_str().unwrap(), "--name", name]);
    }
}

/// Registers a device.
pub(crate) fn register() -> Registration {
    let entropy: &dyn Entropy = &SystemEntropy;
    let id = DeviceId::from_bytes(entropy.bytes());
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    Registration { id, key: key.serialize_der(), certificate }
}

/// What a program printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
