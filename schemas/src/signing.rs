//! The server's signatures: Ed25519 (RFC 8032) from a file, ES256 where a key in a vault signs.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// How the server signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ServerAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDSA,
    /// ECDSA on P-256 with SHA-256 (RFC 7518 section 3.4).
    ES256,
}

/// A public key of the server as its key set lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PublicKey {
    /// Its name.
    pub kid: String,
    /// How it signs.
    pub alg: ServerAlgorithm,
    /// Base64url of the 32 bytes of an Ed25519 key, or of the 65 bytes of an uncompressed P-256 point.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::ServerKey"))]
    pub x: String,
}

impl PublicKey {
    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(key) = URL_SAFE_NO_PAD.decode(&self.x) else { return false };
        match self.alg {
            ServerAlgorithm::EdDSA => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            ServerAlgorithm::ES256 => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
            }
        }
    }
}

/// An Ed25519 key that signs.
pub struct SigningKey {
    kid: String,
    pair: Ed25519KeyPair,
}

/// A signing key's file that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("it is not a signing key: expected the {kind} key file that `keyturn init` writes")]
pub struct KeyFileError {
    kind: &'static str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "SigningKeyFile"))]
pub(crate) struct KeyFile {
    kind: String,
    kid: String,
    alg: ServerAlgorithm,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Secret"))]
    seed: Zeroizing<String>,
}

impl SigningKey {
    /// The key with this seed.
    pub fn from_seed(kid: &str, seed: &[u8; 32]) -> Option<Self> {
        Some(Self { kid: kid.to_owned(), pair: Ed25519KeyPair::from_seed_unchecked(seed).ok()? })
    }

    /// Reads a key of this kind (`signing` or `root`) from its file's text.
    pub fn parse(kind: &'static str, text: &str) -> Result<Self, KeyFileError> {
        let error = KeyFileError { kind };
        let file: KeyFile = serde_json::from_str(text).map_err(|_| error)?;
        let seed = Zeroizing::new(URL_SAFE_NO_PAD.decode(file.seed.as_bytes()).map_err(|_| error)?);
        let seed: &[u8; 32] = seed.as_slice().try_into().map_err(|_| error)?;
        if file.kind != kind || file.alg != ServerAlgorithm::EdDSA {
            return Err(error);
        }
        Self::from_seed(&file.kid, seed).ok_or(error)
    }

    /// A key file.
    pub fn format(kind: &str, name: &str, seed: &[u8; 32]) -> Zeroizing<String> {
        let seed = Zeroizing::new(URL_SAFE_NO_PAD.encode(seed));
        let file = KeyFile { kind: kind.to_owned(), kid: name.to_owned(), alg: ServerAlgorithm::EdDSA, seed };
        Zeroizing::new(serde_json::to_string_pretty(&file).unwrap_or_default() + "\n")
    }

    /// Its name.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        PublicKey { kid: self.kid.clone(), alg: ServerAlgorithm::EdDSA, x }
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}
