//! A key of Azure Key Vault that wraps other keys: RSA-OAEP-256, by `wrapKey` and `unwrapKey`.
//!
//! The key never leaves Key Vault. What it wrapped is only good as long as the version that wrapped it is there, so that
//! version is noted with it (learn.microsoft.com/rest/api/keyvault/keys/wrap-key).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::http::RequestContent;
use azure_security_keyvault_keys::models::{EncryptionAlgorithm, KeyOperationParameters};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions, ResourceExt as _};
use keyturn_domain::entropy::Entropy;
use keyturn_ports::{Error, Kind};
use zeroize::Zeroizing;

use crate::failure::{Failure, Refused, SetupError};
use crate::key_vault::{is_of_key_vault, is_version};
use crate::retry::{Attempts, again};
use crate::transport::{HttpsUrl, Reach};

const WRAPPING: &str = "wrapping a key with Key Vault";
const UNWRAPPING: &str = "unwrapping a key with Key Vault";
const ASKING: &str = "asking Key Vault for a key's version";

/// What holds keys and no secrets.
const MANAGED_HSM: [&str; 3] =
    [".managedhsm.azure.net", ".managedhsm.azure.cn", ".managedhsm.usgovcloudapi.net"];

/// A key by its address, `https://<vault>/keys/<name>`; which of its versions is not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUrl {
    vault: HttpsUrl,
    name: String,
}

/// A text that is not such an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an address like https://example.vault.azure.net/keys/keyturn, without a version")]
pub struct NotAKey(String);

impl FromStr for KeyUrl {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let wrong = || NotAKey(text.chars().take(128).collect());
        let (vault, name) = text.split_once("/keys/").ok_or_else(wrong)?;
        let named = (1..=127).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let vault = vault.parse().map_err(|_| wrong())?;
        named.then(|| Self { vault, name: name.to_owned() }).ok_or_else(wrong)
    }
}

impl fmt::Display for KeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/keys/{}", self.vault, self.name)
    }
}

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

struct Handle {
    url: KeyUrl,
    client: KeyClient,
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
        let handle = |url: &KeyUrl| handle(url, settings, reach, credential);
        Ok(Self {
            key: handle(&settings.key)?,
            former: settings.former.iter().map(handle).collect::<Result<_, _>>()?,
            attempts: settings.attempts,
            entropy: Arc::clone(entropy),
        })
    }

    /// Wraps a key under the newest version. Key Vault is asked; whoever may ask can wrap anything.
    pub async fn wrap(&self, secret: &[u8; 32]) -> Result<Wrapped, Error> {
        let Handle { url, client } = &self.key;
        let call = async || {
            let content = parameters(secret)?;
            client.wrap_key(&url.name, content, None).await?.into_model()
        };
        let done = again("key_vault", self.attempts, &*self.entropy, call).await;
        let done = done.map_err(|failure| told(&failure, url, WRAPPING))?;
        let by = done.kid.filter(|kid| self.key.version_of(kid).is_some());
        match (by, done.result.filter(|bytes| !bytes.is_empty())) {
            (Some(by), Some(bytes)) => Ok(Wrapped { by, bytes }),
            _ => Err(strange(url, WRAPPING)),
        }
    }

    /// Unwraps a key. Denied if what wrapped it is not a version of this key or of a former one.
    pub async fn unwrap(&self, wrapped: &Wrapped) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut all = std::iter::once(&self.key).chain(&self.former);
        let found = all.find_map(|key| Some((key, key.version_of(&wrapped.by)?)));
        let Some((Handle { url, client }, version)) = found else {
            let detail =
                "what wrapped it is a version of neither vault.wrapping_key nor vault.former_wrapping_keys";
            return Err(Error::new(Kind::Denied, UNWRAPPING, detail));
        };
        let call = async || {
            let content = parameters(&wrapped.bytes)?;
            client.unwrap_key(&url.name, version, content, None).await?.into_model()
        };
        let done = again("key_vault", self.attempts, &*self.entropy, call).await;
        let done = done.map_err(|failure| told(&failure, url, UNWRAPPING))?;
        let bytes = Zeroizing::new(done.result.unwrap_or_default());
        let secret = bytes.as_slice().try_into().map(Zeroizing::new);
        secret.map_err(|_| strange(url, UNWRAPPING))
    }

    /// The newest version, as it would wrap: `https://<vault>/keys/<name>/<version>`.
    pub async fn newest(&self) -> Result<String, Error> {
        let Handle { url, client } = &self.key;
        let call = async || client.get_key(&url.name, None).await?.into_model();
        let key = again("key_vault", self.attempts, &*self.entropy, call).await;
        let key = key.map_err(|failure| told(&failure, url, ASKING))?;
        let version = key.resource_id().ok().and_then(|id| id.version).filter(|id| is_version(id));
        version.map(|version| format!("{url}/{version}")).ok_or_else(|| strange(url, ASKING))
    }
}

impl Handle {
    /// The version in such an address, if it is one of this key's.
    fn version_of<'a>(&self, by: &'a str) -> Option<&'a str> {
        let version = by.strip_prefix(&self.url.to_string())?.strip_prefix('/')?;
        is_version(version).then_some(version)
    }
}

fn handle(
    url: &KeyUrl,
    settings: &Settings,
    reach: &Reach,
    credential: &Arc<dyn TokenCredential>,
) -> Result<Handle, SetupError> {
    let wrong = |problem| SetupError::Service { setting: "vault.wrapping_key", problem };
    let verified =
        is_of_key_vault(&url.vault) || MANAGED_HSM.iter().any(|end| url.vault.host().ends_with(end));
    if !verified && !settings.danger_unverified_challenge {
        return Err(wrong(format!(
            "{} is not a host of Azure Key Vault; vault.danger_unverified_challenge = true trusts it to say what \
             tokens are made for",
            url.vault
        )));
    }
    let options = KeyClientOptions {
        client_options: reach.options(&url.vault)?,
        verify_challenge_resource: Some(verified),
        ..KeyClientOptions::default()
    };
    let client = KeyClient::new(&url.vault.to_string(), Arc::clone(credential), Some(options))
        .map_err(|_| wrong(format!("{url} is no address of a key")))?;
    Ok(Handle { url: url.clone(), client })
}

fn parameters(value: &[u8]) -> azure_core::Result<RequestContent<KeyOperationParameters>> {
    KeyOperationParameters {
        algorithm: Some(EncryptionAlgorithm::RsaOaep256),
        value: Some(value.to_vec()),
        ..KeyOperationParameters::default()
    }
    .try_into()
}

fn strange(url: &KeyUrl, action: &'static str) -> Error {
    Error::new(Kind::Corrupt, action, format!("{url}: the answer is not one of this key"))
}

/// A failure in words that an operator can act on.
fn told(failure: &Failure, url: &KeyUrl, action: &'static str) -> Error {
    let mend = match failure {
        Failure::Refused(Refused { status: 403, code, .. }) => match code.as_deref() {
            Some("ForbiddenByFirewall" | "ForbiddenByConnection") => {
                ": the vault's firewall does not let this machine in"
            }
            Some("KeyDisabled") => {
                ": that version of the key is disabled; enable it, nothing opens without it"
            }
            _ => ": this identity may not do that; see docs/AZURE.md for the roles that it needs",
        },
        Failure::Refused(Refused { status: 404, .. }) => {
            ": there is no such key or version; if it was deleted, `az keyvault key recover` brings it back"
        }
        Failure::Refused(Refused { status: 400, .. }) => {
            ": the key does not take this; it must be an RSA key of 2048 bits or more, with wrapKey and unwrapKey"
        }
        _ => "",
    };
    Error::new(failure.during(action).kind(), action, format!("{url}: {failure}{mend}"))
}

#[cfg(test)]
mod tests {
    use super::KeyUrl;

    #[test]
    fn a_key_is_named_without_a_version() {
        let text = "https://one.vault.azure.net/keys/keyturn-1";
        assert_eq!(text.parse::<KeyUrl>().unwrap().to_string(), text);
        for wrong in [
            "https://one.vault.azure.net/keys/keyturn/0123456789abcdef0123456789abcdef",
            "https://one.vault.azure.net/keys/",
            "https://one.vault.azure.net/keys/a_b",
            "https://one.vault.azure.net/secrets/a",
            "http://one.vault.azure.net/keys/a",
            "https://one.vault.azure.net/x/keys/a",
            "https://one.vault.azure.net/keys/a?x=1",
        ] {
            assert!(wrong.parse::<KeyUrl>().is_err(), "{wrong}");
        }
    }
}
