//! A key in this process's memory, from a file.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use keyturn_domain::ids::KeyHash;
use sha2::{Digest as _, Sha256};

use super::{Error, Signer};

/// An RSA key of 2048 bits or more. It never leaves this type.
pub struct SoftKey {
    key: KeyPair,
    place: String,
}

/// Not a usable RSA key. The library's own words could quote the key, so they are not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key is not a usable RSA key of at least 2048 bits")]
pub struct NotAKey;

impl SoftKey {
    /// The PKCS#8 or PKCS#1 key in `der`; `place` says where it comes from.
    pub fn from_der(der: &[u8], place: impl Into<String>) -> Result<Self, NotAKey> {
        let key = KeyPair::from_pkcs8(der).or_else(|_| KeyPair::from_der(der)).map_err(|_| NotAKey)?;
        Ok(Self { key, place: place.into() })
    }

    /// SHA-256 of the `RSAPublicKey` DER.
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.key.public_key().as_ref()).into())
    }
}

impl Signer for SoftKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature);
        let failed = |_| Error::Failed { place: self.place(), reason: "it could not sign".to_owned() };
        signed.map(|()| signature).map_err(failed)
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}
