//! The server's signatures: Ed25519 (RFC 8032) from a file, ES256 where a key in a vault signs.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
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

/// The SHA-256 of a message: what a key that is elsewhere is asked to sign under ES256.
pub fn es256_digest(message: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    // A SHA-256 has 32 bytes.
    bytes.copy_from_slice(digest(&SHA256, message).as_ref());
    bytes
}

/// The file of a signing key whose private half is in Azure Key Vault: which version of which key, and its public half. It
/// is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "SigningKeyReference"))]
pub struct KeyReference {
    /// `signing`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "signing")))]
    kind: String,
    /// Its name in the key set.
    kid: String,
    /// ES256.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "ES256")))]
    alg: ServerAlgorithm,
    /// Base64url of the 65 bytes of the uncompressed point.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::ServerKey"))]
    x: String,
    /// The version that signs: `https://<vault>/keys/<name>/<version>`.
    key: String,
}

impl KeyReference {
    const KIND: &str = "signing";

    /// A key by the address of its version and its uncompressed point.
    pub fn new(kid: &str, key: String, point: &[u8; 65]) -> Self {
        let x = URL_SAFE_NO_PAD.encode(point);
        Self { kind: Self::KIND.to_owned(), kid: kid.to_owned(), alg: ServerAlgorithm::ES256, x, key }
    }

    fn parse(text: &str) -> Option<Self> {
        let file: Self = serde_json::from_str(text).ok()?;
        let point = URL_SAFE_NO_PAD.decode(&file.x).ok()?;
        let whole = point.len() == 65 && point.first() == Some(&4);
        let named = file.kind == Self::KIND && file.alg == ServerAlgorithm::ES256;
        (whole && named).then_some(file)
    }

    /// The file's text.
    pub fn format(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The address of the version that signs, as the file has it.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey { kid: self.kid.clone(), alg: self.alg, x: self.x.clone() }
    }
}

/// A file of the key that signs results: the key itself, or where it is.
#[derive(Debug)]
pub enum FiledSigningKey {
    /// The key.
    Here(SigningKey),
    /// Where it is.
    Elsewhere(KeyReference),
}

impl FiledSigningKey {
    /// Reads a file of the key that signs results.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        if let Some(reference) = KeyReference::parse(text) {
            return Ok(Self::Elsewhere(reference));
        }
        SigningKey::parse(KeyReference::KIND, text).map(Self::Here)
    }

    /// Its name.
    pub fn kid(&self) -> &str {
        match self {
            Self::Here(key) => key.kid(),
            Self::Elsewhere(reference) => &reference.kid,
        }
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Here(key) => key.public(),
            Self::Elsewhere(reference) => reference.public(),
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "https://one.vault.azure.net/keys/a/0123456789abcdef0123456789abcdef";

    #[test]
    fn a_file_is_a_key_or_says_where_it_is() {
        let mut point = [7; 65];
        point[0] = 4;
        let reference = KeyReference::new("signing-2", KEY.to_owned(), &point);
        let text = reference.format();
        let FiledSigningKey::Elsewhere(read) = FiledSigningKey::parse(&text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!((&read, read.key(), read.public().kid.as_str()), (&reference, KEY, "signing-2"));
        let here = FiledSigningKey::parse(&SigningKey::format("signing", "signing-1", &[1; 32])).unwrap();
        assert!(matches!(&here, FiledSigningKey::Here(key) if key.kid() == "signing-1"));
        for (what, wrong) in [
            ("a root key", text.replace("\"signing\"", "\"root\"")),
            ("another algorithm", text.replace("ES256", "EdDSA")),
            ("more than there is", text.replacen('{', r#"{"d":"AA","#, 1)),
            ("no point", text.replace(&reference.x, &URL_SAFE_NO_PAD.encode([7; 65]))),
            ("half a point", text.replace(&reference.x, &URL_SAFE_NO_PAD.encode(&point[..64]))),
        ] {
            assert!(FiledSigningKey::parse(&wrong).is_err(), "{what}");
        }
    }
}
