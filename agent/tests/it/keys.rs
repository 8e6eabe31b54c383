//! Keys that are not in a file in PEM, where they really are: a token of SoftHSM, a TPM of swtpm, and a PKCS#12 file
//! of OpenSSL's. The program runs as it would on a device; what the makers' own tools made is what it finds.
//!
//! They need the Debian packages softhsm2, opensc, swtpm, tpm2-tools and openssl; `./test keys` runs them.

mod pkcs12;
mod softhsm;
mod swtpm;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, PublicKeyData, SignatureAlgorithm,
};

use crate::config::write;
use crate::server::{Server, device_id};

/// What stands before the key in the SubjectPublicKeyInfo of an RSA key of 2048 bits.
const SPKI_HEADER: usize = 24;

/// A public key from elsewhere.
struct Foreign(Vec<u8>);

impl PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// A device whose key is elsewhere.
struct Device {
    server: Server,
    config: PathBuf,
    /// What its programs find in their environment.
    environment: Vec<(&'static str, String)>,
}

impl Device {
    /// A server, and settings for it with this section about the key, a file `pin`, and no certificate yet.
    async fn new(section: &str) -> Self {
        let server = Server::start().await;
        let config = write(server.folder(), &format!("http://{}", server.address));
        let text = fs::read_to_string(&config).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("private_key"));
        let text: Vec<&str> = lines.collect();
        fs::write(&config, format!("{}\n\n[key]\n{section}\n", text.join("\n"))).unwrap();
        Self { server, config, environment: Vec::new() }
    }

    fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// Writes a certificate of this public key (SubjectPublicKeyInfo, DER) where the settings look for it. Anybody
    /// may have issued it.
    fn certify(&self, public: &Path) {
        let public = Foreign(fs::read(public).unwrap().split_off(SPKI_HEADER));
        let authority = KeyPair::generate().unwrap();
        let issuer = Issuer::new(CertificateParams::default(), authority);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device_id().to_string());
        let certificate = params.signed_by(&public, &issuer).unwrap();
        fs::write(self.folder().join("device.crt"), certificate.pem()).unwrap();
    }

    fn pin(&self, pin: &str) {
        let path = self.folder().join("pin");
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Changes the settings.
    fn change(&self, from: &str, to: &str) {
        let text = fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// Runs the agent and returns what it says.
    async fn says(&self, command: &str, code: i32) -> String {
        let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyturn-agent"));
        agent.arg(command).arg("--config").arg(&self.config).stdin(Stdio::null());
        agent
            .env_remove("KEYTURN_AGENT_LOG")
            .env("TSS2_LOG", "all+NONE")
            .envs(self.environment.iter().cloned());
        let output = agent.output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// What the doctor has to say about the key.
    async fn examined(&self) -> Result<String, String> {
        let said = self.says_anyway("doctor").await;
        let about = |word: &str| said.lines().find(|line| line.contains(&format!(" {word} ")));
        let line = about("identity").or_else(|| about("settings")).unwrap().to_owned();
        if line.starts_with("ok ") { Ok(line) } else { Err(line) }
    }

    async fn says_anyway(&self, command: &str) -> String {
        let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyturn-agent"));
        agent.arg(command).arg("--config").arg(&self.config).stdin(Stdio::null());
        agent.env("TSS2_LOG", "all+NONE").envs(self.environment.iter().cloned());
        String::from_utf8(agent.output().await.unwrap().stdout).unwrap()
    }

    /// The doctor is content, a rotation goes through with this key, and another one after it.
    async fn rotates(&self, place: &str) {
        let found = self.examined().await.unwrap();
        assert!(found.contains(place) && found.contains("signs for device"), "{found}");
        let line = self.says("once", 0).await;
        let first = self.server.real().unwrap();
        assert_eq!(line, format!("Rotated and confirmed version {first}. code=rotated\n"));
        self.server.check_settled();
        self.server.world().force();
        assert!(self.says("once", 0).await.starts_with("Rotated and confirmed"));
        assert_ne!(self.server.real(), Some(first));
        self.server.check_settled();
        let state = self.folder().join("state/key-tries.json");
        assert!(!state.exists(), "a good try leaves nothing behind");
    }

    /// Nothing comes of a run, and nothing is touched.
    async fn fails(&self, expected: &str) {
        let line = self.says("once", 1).await;
        assert!(line.contains(expected) && line.ends_with(" code=key\n"), "{line}");
        assert!(self.server.world().posts.is_empty() && self.server.real().is_none());
    }
}

/// Runs a maker's tool, which must succeed.
fn tool(name: &str, arguments: &[&str], folder: &Path, environment: &[(&'static str, String)]) -> String {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(folder).envs(environment.iter().cloned()).stdin(Stdio::null());
    let output =
        command.output().unwrap_or_else(|error| panic!("{name}: {error}; ./test keys names the packages"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{name} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}
