//! Key files: each kind in a file of its own, readable by the roles that need it and nobody else.
//!
//! A key is looked for in this order: the environment variable `KEYTURN_KEY_<KIND>` with the file's content, the
//! systemd credential `<kind>.key`, the file `<kind>.key` in the key folder. The key set is looked for as a credential
//! and in the folder. On one shared database the key files
//! are the boundary between roles, so a file that others can read is refused.
//!
//! The vault's keys may be wrapped by a key of Azure Key Vault (`keys/envelope.rs`), and the key that signs results may be
//! one (`keys/signing.rs`).
//!
//! [`KeyStore::live`] keeps what was made of the keys up to date while they are changed.

mod envelope;
mod reload;
mod replace;
mod signing;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyturn_azure::SetupError;
use keyturn_azure::signing_key::SigningKeys;
use keyturn_azure::wrapping_key::WrappingKey;
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use keyturn_embedded::MasterKeys;
use keyturn_ports::Kind;
use keyturn_schemas::alarm::{SecretError, WebhookSecrets};
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::finding::FindingKeys;
use keyturn_schemas::key_set::{self, KeySet, KeySetError};
use keyturn_schemas::mac::{self, FiledKey, RingError};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::signing::{KeyFileError, SigningKey};
use keyturn_schemas::stamp::StampKeys;
use keyturn_schemas::ticket::TicketKeys;
use keyturn_schemas::vault::parse_wrapped;
use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::expiry;

use crate::config::{Config, VaultEngine};

use self::envelope::Envelope;
pub use self::envelope::Rewrapped;
pub use self::reload::LOOK;
pub use self::replace::replace;

/// The word for the vault's master keys in key files.
pub const VAULT: &str = "vault";
/// The word for the key that signs results.
pub const SIGNING: &str = "signing";
/// The word for the root key that signs key sets. It is needed for that alone and belongs offline.
pub const ROOT: &str = "root";
/// The key set, signed by the root: not a secret.
pub const KEY_SET_FILE: &str = "key-set.jws";

/// Every file of a key folder that a running process may hold.
const FILES: [&str; 7] =
    ["nonce.key", "stamp.key", "ticket.key", "finding.key", "signing.key", "vault.key", KEY_SET_FILE];

/// Where a process finds its keys.
#[derive(Clone, Debug)]
pub struct KeyStore {
    folder: PathBuf,
    credentials: Option<PathBuf>,
    others: Arc<[PathBuf]>,
    /// Whose the key set has to be, if that is known.
    deployment: Option<Deployment>,
    /// What unwraps the vault's keys, if they are wrapped.
    envelope: Option<Arc<Envelope>>,
    /// What signs results, if that is in Key Vault.
    signers: signing::Signers,
    built: reload::Built,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("{}: there is no {kind} key; `keyturn init` makes the keys of a new deployment", path.display())]
    Missing {
        /// Its kind.
        kind: &'static str,
        /// Where it was looked for last.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: the key file cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could have read it.
    #[error("{}: others may read this key file (mode {mode:03o}); `chmod 600` it, and replace the key if they did", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not a key ring of this kind.
    #[error("{source_name}: {error}")]
    Ring {
        /// Where it came from.
        source_name: String,
        /// What is wrong.
        error: RingError,
    },
    /// It is not a key set.
    #[error("{}: it is not a key set: {error}; `keyturn root sign-keys` writes one", path.display())]
    KeySet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeySetError,
    },
    /// It is a key set, of another deployment.
    #[error(
        "{}: the key set is of deployment «{theirs}», and deployment.name says «{ours}»; put deployment.name = \
         \"{theirs}\" back, because agents were installed with it; or sign a new key set for another deployment: \
         `keyturn init` makes one, and agents are installed anew",
        path.display()
    )]
    OtherDeployment {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        theirs: Deployment,
        /// What the configuration says.
        ours: Deployment,
    },
    /// The signing key is in Key Vault, and whether agents know it cannot be told.
    #[error(
        "{source_name}: the key is in Key Vault, so it is looked up in the key set, which cannot be read; put {} there; \
         where systemd passes keys, see infra/systemd/keyturn-rotator-key-vault-signing.conf",
        path.display()
    )]
    NoKeySet {
        /// Where the reference came from.
        source_name: String,
        /// Where the key set was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// There is no file of a webhook's secrets.
    #[error(
        "{0}: there is no such file; make one with: (umask 077; echo \"whsec_$(head -c 32 /dev/urandom | base64 -w 0)\" \
         >{0})",
        path.display()
    )]
    NoWebhookSecret {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It is not a file of a webhook's secrets.
    #[error("{}: {error}", path.display())]
    Webhook {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: SecretError,
    },
    /// The vault's keys are not wrapped, and should be.
    #[error(
        "{source_name}: the keys are not wrapped, as vault.engine = \"envelope\" has it; `keyturn vault wrap` wraps them"
    )]
    Plain {
        /// Where they came from.
        source_name: String,
    },
    /// The vault's keys are wrapped, and nothing is configured that unwraps them.
    #[error("{source_name}: the keys are wrapped by Key Vault; vault.engine = \"envelope\" opens them")]
    Wrapped {
        /// Where they came from.
        source_name: String,
    },
    /// The vault's keys are wrapped, and were not unwrapped.
    #[error("{source_name}: the keys are wrapped, and were not unwrapped: {why}")]
    Locked {
        /// Where they came from.
        source_name: String,
        /// Why not.
        why: String,
    },
    /// Key Vault did not wrap or unwrap a key.
    #[error("{source_name}: key {id}: {error}")]
    Wrapping {
        /// The file.
        source_name: String,
        /// The key's number.
        id: u8,
        /// What went wrong.
        error: keyturn_ports::Error,
    },
    /// A key was unwrapped, and is another one.
    #[error(
        "{source_name}: key {id}: what was unwrapped is not the key that the file names; put the file back from a backup"
    )]
    Exchanged {
        /// The file.
        source_name: String,
        /// The key's number.
        id: u8,
    },
    /// A signing key's file names a key that is not the configuration's.
    #[error(
        "{source_name}: the key is {key}, which is no version of signing.key; set signing.key to the key it is a version of"
    )]
    SignsElsewhere {
        /// The file.
        source_name: String,
        /// What it names.
        key: String,
    },
    /// A key of Key Vault that agents do not know.
    #[error(
        "{source_name}: {kid} is not in key set {serial}{as_another}, so no agent would take what it signs; put the file \
         back, or sign a key set that has it: `keyturn root sign-keys`"
    )]
    Unlisted {
        /// The file.
        source_name: String,
        /// The key.
        kid: String,
        /// The key set's serial.
        serial: u64,
        /// What is said if the name is there and its key is another.
        as_another: &'static str,
    },
    /// Key Vault has another public half.
    #[error(
        "{source_name}: Key Vault has another public half for {key} than the file; put the file back from a backup, or take \
         the key anew: `keyturn keys rotate signing`"
    )]
    OtherKey {
        /// The file.
        source_name: String,
        /// The version.
        key: String,
    },
    /// Key Vault was asked about the key that signs.
    #[error("{source_name}: {error}")]
    Signer {
        /// The file.
        source_name: String,
        /// What went wrong.
        error: keyturn_ports::Error,
    },
    /// It is not a signing key of this kind.
    #[error("{source_name}: {error}")]
    Signing {
        /// Where it came from.
        source_name: String,
        /// What is wrong.
        error: KeyFileError,
    },
}

impl KeyError {
    /// Whether the service that unwraps or signs may do so later. That it denies counts: a role that was just given takes minutes
    /// to be known.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Wrapping { error, .. } | Self::Signer { error, .. } if matches!(error.kind(), Kind::Unavailable | Kind::Denied))
    }
}

/// The text of a key file, and where it came from.
struct Found {
    text: Zeroizing<String>,
    name: String,
}

impl KeyStore {
    /// Keys in `folder`, and in systemd's credentials if it passed any.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            credentials: variable("CREDENTIALS_DIRECTORY").map(|path| PathBuf::from(path.as_str())),
            others: Arc::default(),
            deployment: None,
            envelope: None,
            signers: None,
            built: reload::Built::default(),
        }
    }

    /// The keys of a deployment. Nobody is asked anything yet.
    pub fn of(config: &Config) -> Result<Self, SetupError> {
        let deployment = Some(config.deployment.clone());
        let mut keys = Self { deployment, ..Self::new(config.sections.data.keys.clone()) };
        let Some(azure) = &config.azure else { return Ok(keys) };
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        if let VaultEngine::Envelope(settings) = &config.vault {
            let credential = azure.credential.open(&azure.reach)?;
            let key = WrappingKey::open(settings, &azure.reach, &credential, &entropy)?;
            keys.envelope = Some(Arc::new(Envelope::new(key)));
        }
        if let Some(settings) = &config.signing.key {
            let credential = azure.credential.open(&azure.reach)?;
            keys.signers = Some(SigningKeys::open(settings, &azure.reach, &credential, &entropy)?);
        }
        Ok(keys)
    }

    /// The same, which also notices when one of these files changes.
    pub fn watching(self, files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { others: files.into_iter().collect(), ..self }
    }

    /// The folder of the key files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The keys that seal nonces.
    pub fn nonces(&self) -> Result<NonceKeys, KeyError> {
        self.ring(NonceKeys::KIND, NonceKeys::parse)
    }

    /// The keys that seal stamps.
    pub fn stamps(&self) -> Result<StampKeys, KeyError> {
        self.ring(StampKeys::KIND, StampKeys::parse)
    }

    /// The keys that seal tickets.
    pub fn tickets(&self) -> Result<TicketKeys, KeyError> {
        self.ring(TicketKeys::KIND, TicketKeys::parse)
    }

    /// The keys that seal findings.
    pub fn findings(&self) -> Result<FindingKeys, KeyError> {
        self.ring(FindingKeys::KIND, FindingKeys::parse)
    }

    /// The vault's master keys; if they are wrapped, after [`Self::unlock`].
    pub fn vault(&self) -> Result<MasterKeys, KeyError> {
        let keys = self.vault_keys(&self.find(VAULT)?)?;
        envelope::master_keys(keys).ok_or_else(|| KeyError::Missing { kind: VAULT, path: self.path(VAULT) })
    }

    fn vault_keys(&self, found: &Found) -> Result<Vec<FiledKey>, KeyError> {
        match &self.envelope {
            Some(envelope) => envelope.unwrapped(found),
            None => parse_plain(found).map_err(|error| match parse_wrapped(&found.text) {
                Ok(_) => KeyError::Wrapped { source_name: found.name.clone() },
                Err(_) => error,
            }),
        }
    }

    /// The root key.
    pub fn root(&self) -> Result<SigningKey, KeyError> {
        let found = self.find(ROOT)?;
        SigningKey::parse(ROOT, &found.text)
            .map_err(|error| KeyError::Signing { source_name: found.name, error })
    }

    /// The secrets of a webhook in this file, which others must not be able to read.
    pub fn webhook(&self, path: &Path) -> Result<WebhookSecrets, KeyError> {
        let found = match read(path, "webhook") {
            Err(KeyError::Missing { path, .. }) => return Err(KeyError::NoWebhookSecret { path }),
            found => found?,
        };
        WebhookSecrets::parse(&found.text).map_err(|error| KeyError::Webhook { path: path.to_owned(), error })
    }

    /// The signed key set, which is this deployment's. Its form is checked; its signature is for the agents to check,
    /// who hold the root.
    pub fn key_set(&self) -> Result<String, KeyError> {
        let (text, set) = self.read_key_set()?;
        expiry::note("key_set", set.not_after);
        Ok(text)
    }

    /// Whether what can be read of the key set is this deployment's. Most roles are not given it.
    ///
    /// # Errors
    /// [`KeyError::OtherDeployment`].
    pub(crate) fn not_of_another_deployment(&self) -> Result<(), KeyError> {
        match self.read_key_set() {
            Err(error @ KeyError::OtherDeployment { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    fn read_key_set(&self) -> Result<(String, KeySet), KeyError> {
        let credential = self.credentials.as_ref().map(|folder| folder.join(KEY_SET_FILE));
        let path = credential.filter(|path| path.is_file()).unwrap_or_else(|| self.folder.join(KEY_SET_FILE));
        let text = fs::read_to_string(&path)
            .map_err(|source| KeyError::Unreadable { path: path.clone(), source })?;
        let text = text.trim().to_owned();
        let set = key_set::read(&text).map_err(|error| KeyError::KeySet { path: path.clone(), error })?;
        match &self.deployment {
            Some(ours) if *ours != set.deployment => {
                Err(KeyError::OtherDeployment { path, theirs: set.deployment, ours: ours.clone() })
            }
            _ => Ok((text, set)),
        }
    }

    /// The keys of a ring file as they lie in the key folder, with what is noted about them.
    pub fn filed(&self, kind: &'static str) -> Result<Vec<FiledKey>, KeyError> {
        let path = self.path(kind);
        let found = read(&path, kind)?;
        if kind == VAULT {
            return self.vault_keys(&found);
        }
        mac::parse_keys(kind, &found.text).map_err(|error| KeyError::Ring { source_name: found.name, error })
    }

    fn ring<T>(
        &self,
        kind: &'static str,
        parse: impl Fn(&str) -> Result<T, RingError>,
    ) -> Result<T, KeyError> {
        let found = self.find(kind)?;
        parse(&found.text).map_err(|error| KeyError::Ring { source_name: found.name, error })
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{kind}.key"))
    }

    fn find(&self, kind: &'static str) -> Result<Found, KeyError> {
        let name = format!("KEYTURN_KEY_{}", kind.to_ascii_uppercase());
        if let Some(text) = variable(&name) {
            return Ok(Found { text, name });
        }
        let credential = self.credentials.as_ref().map(|folder| folder.join(format!("{kind}.key")));
        let path = credential.filter(|path| path.is_file()).unwrap_or_else(|| self.path(kind));
        read(&path, kind)
    }
}

/// The vault's keys in a file that holds them as they are.
fn parse_plain(found: &Found) -> Result<Vec<FiledKey>, KeyError> {
    mac::parse_keys(VAULT, &found.text)
        .map_err(|error| KeyError::Ring { source_name: found.name.clone(), error })
}

/// The secret by which a service knows us, in a file that others must not be able to read.
pub(crate) fn secret_of_service(path: &Path) -> Result<SecretString, KeyError> {
    let found = read(path, "service")?;
    Ok(SecretString::from(found.text.trim()))
}

/// The text of a secret file of several lines.
pub(crate) fn secret_text(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    Ok(read(path, "service")?.text)
}

fn read(path: &Path, kind: &'static str) -> Result<Found, KeyError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => KeyError::Missing { kind, path: path.to_owned() },
        _ => KeyError::Unreadable { path: path.to_owned(), source },
    };
    let mode = fs::metadata(path).map_err(failed)?.mode() & 0o777;
    // A group may be given read access on purpose (systemd passes credentials as 0440); the world never.
    if mode & 0o037 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    Ok(Found { text, name: path.display().to_string() })
}

#[expect(
    clippy::disallowed_methods,
    reason = "keys may come in the environment; this is the one place that reads it"
)]
fn variable(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new)
}
