//! A key of Azure Key Vault that wraps other keys: RSA-OAEP-256, by `wrapKey` and `unwrapKey`.
//!
//! The key never leaves Key Vault. What it wrapped is only good as long as the version that wrapped it is there, so that
//! version is noted with it (learn.microsoft.com/rest/api/keyvault/keys/wrap-key).

use std::fmt;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::RequestContent;
use azure_security_keyvault_keys::ResourceExt as _;
use azure_security_keyvault_keys::models::{EncryptionAlgorithm, KeyOperationParameters};
use keyturn_domain::entropy::Entropy;
use keyturn_ports::{Error, Kind};
use zeroize::Zeroizing;

use crate::failure::SetupError;
use crate::key_vault::is_version;
use crate::retry::{Attempts, again};
use crate::transport::Reach;
use crate::vault_key::{Handle, KeyUrl, Purpose};

const WRAPPING: &str = "wrapping a key with Key Vault";
const UNWRAPPING: &str = "unwrapping a key with Key Vault";
const PURPOSE: Purpose = Purpose {
    setting: "vault.wrapping_key",
    danger: "vault.danger_unverified_challenge",
    disabled: ": that version of the key is disabled; enable it, nothing opens without it",
    wanted: ": the key does not take this; it must be an RSA key of 2048 bits or more, with wrapKey and unwrapKey",
};
const ASKING: &str = "asking Key Vault for a key's version";

/// What a wrapping key is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key that wraps.
    pub key: KeyUrl,
    /// Keys that wrapped earlier, and only unwrap.
    pub former: Vec<KeyUrl>,
    /// Take the challenge of a host that is not Key Vault's; see `key_vault::Settings`.
    pub danger_unverified_challenge: bool,
    /// How often a call is made.
    pub attempts: Attempts,
}

/// A key that was wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// What wrapped it: `https://<vault>/keys/<name>/<version>`.
    pub by: String,
    /// The bytes, as many as the wrapping key has.
    pub bytes: Vec<u8>,
}

/// The key.
pub struct WrappingKey {
    key: Handle,
    former: Vec<Handle>,
    attempts: Attempts,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappingKey({})", self.key.url)
    }
}

impl WrappingKey {
    /// The key at this address. Nobody is asked anything yet.
    pub fn open(
        settings: &Settings,
        reach: &Reach,
        credential: &Arc<dyn TokenCredential>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, SetupError> {
        let danger = settings.danger_unverified_challenge;
        let handle = |url: &KeyUrl| Handle::open(url, PURPOSE, danger, reach, credential);
        Ok(Self {
            key: handle(&settings.key)?,
            former: settings.former.iter().map(handle).collect::<Result<_, _>>()?,
            attempts: settings.attempts,
            entropy: Arc::clone(entropy),
        })
    }

    /// Wraps a key under the newest version. Key Vault is asked; whoever may ask can wrap anything.
    pub async fn wrap(&self, secret: &[u8; 32]) -> Result<Wrapped, Error> {
        let handle @ Handle { url, client } = &self.key;
        let call = async || {
            let content = parameters(secret)?;
            client.wrap_key(&url.name, content, None).await?.into_model()
        };
        let done = again("key_vault", self.attempts, &*self.entropy, call).await;
        let done = done.map_err(|failure| handle.told(&failure, PURPOSE, WRAPPING))?;
        let by = done.kid.filter(|kid| self.key.version_of(kid).is_some());
        match (by, done.result.filter(|bytes| !bytes.is_empty())) {
            (Some(by), Some(bytes)) => Ok(Wrapped { by, bytes }),
            _ => Err(handle.strange(WRAPPING)),
        }
    }

    /// Unwraps a key. Denied if what wrapped it is not a version of this key or of a former one.
    pub async fn unwrap(&self, wrapped: &Wrapped) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut all = std::iter::once(&self.key).chain(&self.former);
        let found = all.find_map(|key| Some((key, key.version_of(&wrapped.by)?)));
        let Some((handle @ Handle { url, client }, version)) = found else {
            let detail =
                "what wrapped it is a version of neither vault.wrapping_key nor vault.former_wrapping_keys";
            return Err(Error::new(Kind::Denied, UNWRAPPING, detail));
        };
        let call = async || {
            let content = parameters(&wrapped.bytes)?;
            client.unwrap_key(&url.name, version, content, None).await?.into_model()
        };
        let done = again("key_vault", self.attempts, &*self.entropy, call).await;
        let done = done.map_err(|failure| handle.told(&failure, PURPOSE, UNWRAPPING))?;
        let bytes = Zeroizing::new(done.result.unwrap_or_default());
        let secret = bytes.as_slice().try_into().map(Zeroizing::new);
        secret.map_err(|_| handle.strange(UNWRAPPING))
    }

    /// The newest version, as it would wrap: `https://<vault>/keys/<name>/<version>`.
    pub async fn newest(&self) -> Result<String, Error> {
        let handle @ Handle { url, client } = &self.key;
        let call = async || client.get_key(&url.name, None).await?.into_model();
        let key = again("key_vault", self.attempts, &*self.entropy, call).await;
        let key = key.map_err(|failure| handle.told(&failure, PURPOSE, ASKING))?;
        let version = key.resource_id().ok().and_then(|id| id.version).filter(|id| is_version(id));
        version.map(|version| format!("{url}/{version}")).ok_or_else(|| handle.strange(ASKING))
    }
}

fn parameters(value: &[u8]) -> azure_core::Result<RequestContent<KeyOperationParameters>> {
    KeyOperationParameters {
        algorithm: Some(EncryptionAlgorithm::RsaOaep256),
        value: Some(value.to_vec()),
        ..KeyOperationParameters::default()
    }
    .try_into()
}
