//! A key of Azure Key Vault that signs: ECDSA on P-256, by `sign` (learn.microsoft.com/rest/api/keyvault/keys/sign/sign).
//!
//! The key never leaves Key Vault; what it signs is a digest, and what comes back is r and s as they stand in a JWS. A
//! signature changes nothing and costs nobody anything but the call, so one that was made and never answered is asked for
//! again.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::http::RequestContent;
use azure_security_keyvault_keys::ResourceExt as _;
use azure_security_keyvault_keys::models::{
    CurveName, Key, KeyClientGetKeyOptions, KeyClientSignOptions, SignParameters, SignatureAlgorithm,
};
use keyturn_domain::entropy::Entropy;
use keyturn_ports::signing::Signer;
use keyturn_ports::{Error, Kind};

use crate::each;
use crate::failure::SetupError;
use crate::key_vault::is_version;
use crate::retry::{Attempts, again};
use crate::transport::Reach;
use crate::vault_key::{Handle, KeyUrl, Purpose};

const SIGNING: &str = "signing with Key Vault";
const ASKING: &str = "asking Key Vault for the public half of a key";
const PURPOSE: Purpose = Purpose {
    setting: "signing.key",
    danger: "signing.danger_unverified_challenge",
    disabled: ": that version of the key is disabled; enable it, nothing is signed without it",
    wanted: ": the key does not take this; it must be an EC or EC-HSM key on P-256, with sign",
};

/// What a signing key is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key.
    pub key: KeyUrl,
    /// Take the challenge of a host that is not Key Vault's; see `key_vault::Settings`.
    pub danger_unverified_challenge: bool,
    /// How often a call is made.
    pub attempts: Attempts,
    /// Calls made at once for one batch.
    pub parallel: usize,
}

/// A key that signs, in all its versions.
#[derive(Clone)]
pub struct SigningKeys(Arc<Inner>);

struct Inner {
    handle: Handle,
    attempts: Attempts,
    parallel: usize,
    entropy: Arc<dyn Entropy>,
}

/// The public half of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicHalf {
    /// `https://<vault>/keys/<name>/<version>`.
    pub address: String,
    /// The uncompressed point.
    pub point: [u8; 65],
}

/// One version, which signs.
#[derive(Clone, Debug)]
pub struct SigningVersion {
    keys: SigningKeys,
    version: String,
}

impl SigningKeys {
    /// The key of these settings. Nobody is asked anything yet.
    pub fn open(
        settings: &Settings,
        reach: &Reach,
        credential: &Arc<dyn TokenCredential>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, SetupError> {
        let danger = settings.danger_unverified_challenge;
        Ok(Self(Arc::new(Inner {
            handle: Handle::open(&settings.key, PURPOSE, danger, reach, credential)?,
            attempts: settings.attempts,
            parallel: settings.parallel,
            entropy: Arc::clone(entropy),
        })))
    }

    /// The address of the key, without a version.
    pub fn url(&self) -> &KeyUrl {
        &self.0.handle.url
    }

    /// The version of this address, if it is one of this key's. Nobody is asked, and never anybody else.
    pub fn version(&self, address: &str) -> Option<SigningVersion> {
        let version = self.0.handle.version_of(address)?.to_owned();
        Some(SigningVersion { keys: self.clone(), version })
    }

    /// The public half of the newest version.
    ///
    /// # Errors
    /// As [`SigningVersion::public`].
    pub async fn newest(&self) -> Result<PublicHalf, Error> {
        self.public(None).await
    }

    async fn public(&self, version: Option<&str>) -> Result<PublicHalf, Error> {
        let Inner { handle, attempts, entropy, .. } = &*self.0;
        let call = async || {
            let key_version = version.map(str::to_owned);
            let options = KeyClientGetKeyOptions { key_version, ..KeyClientGetKeyOptions::default() };
            handle.client.get_key(&handle.url.name, Some(options)).await?.into_model()
        };
        let key = again("key_vault", *attempts, &**entropy, call).await;
        let key = key.map_err(|failure| handle.told(&failure, PURPOSE, ASKING))?;
        let found = key.resource_id().ok().and_then(|id| id.version).filter(|id| is_version(id));
        let found = found.filter(|found| version.is_none_or(|version| version == found));
        let found = found.ok_or_else(|| handle.strange(ASKING))?;
        let address = format!("{}/{found}", handle.url);
        let wrong = || {
            let detail = format!("{address} is not a key on P-256; make it with `--kty EC --curve P-256`");
            Error::new(Kind::Corrupt, ASKING, detail)
        };
        Ok(PublicHalf { point: point(&key).ok_or_else(wrong)?, address })
    }
}

/// The uncompressed point of a key on P-256.
fn point(key: &Key) -> Option<[u8; 65]> {
    let key = key.key.as_ref().filter(|key| key.crv == Some(CurveName::P256))?;
    let (x, y): ([u8; 32], [u8; 32]) =
        (key.x.as_deref()?.try_into().ok()?, key.y.as_deref()?.try_into().ok()?);
    [[4].as_slice(), &x, &y].concat().try_into().ok()
}

impl SigningVersion {
    /// Its public half, as Key Vault tells it.
    ///
    /// # Errors
    /// Denied without the right `keys/get`, corrupt if it is no key on P-256.
    pub async fn public(&self) -> Result<PublicHalf, Error> {
        self.keys.public(Some(&self.version)).await
    }

    async fn one(&self, digest: [u8; 32]) -> Result<[u8; 64], Error> {
        let Inner { handle, attempts, entropy, .. } = &*self.keys.0;
        let call = async || {
            let content: RequestContent<SignParameters> =
                SignParameters { algorithm: Some(SignatureAlgorithm::Es256), value: Some(digest.to_vec()) }
                    .try_into()?;
            let key_version = Some(self.version.clone());
            let options = KeyClientSignOptions { key_version, ..KeyClientSignOptions::default() };
            handle.client.sign(&handle.url.name, content, Some(options)).await?.into_model()
        };
        let done = again("key_vault", *attempts, &**entropy, call).await;
        let done = done.map_err(|failure| handle.told(&failure, PURPOSE, SIGNING))?;
        let by = done.kid.as_deref().and_then(|kid| handle.version_of(kid));
        let signature = done.result.filter(|_| by == Some(self.version.as_str()));
        signature.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| handle.strange(SIGNING))
    }
}

#[async_trait]
impl Signer for SigningVersion {
    async fn sign(&self, digests: Vec<[u8; 32]>) -> Vec<Result<[u8; 64], Error>> {
        each(self.keys.0.parallel, digests, |digest| self.one(digest)).await
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKeys({})", self.url())
    }
}
