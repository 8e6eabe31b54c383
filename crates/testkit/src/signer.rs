//! A key on P-256 that signs digests, as a service that has it would.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "what a test stands on fails by panicking"
)]

use async_trait::async_trait;
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use keyturn_ports::Error;
use keyturn_ports::signing::Signer;
use keyturn_schemas::signing::{KeyReference, PublicKey};

/// The key.
#[derive(Debug)]
pub struct P256(EcdsaKeyPair);

impl P256 {
    /// A new key.
    pub fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key is made"))
    }

    /// Its public half under this name.
    pub fn public(&self, kid: &str) -> PublicKey {
        let point = self.0.public_key().as_ref().try_into().expect("a point has 65 bytes");
        KeyReference::new(kid, String::new(), point).public()
    }

    /// Signs a digest.
    pub fn sign(&self, digest: &[u8; 32]) -> [u8; 64] {
        let digest = Digest::import_less_safe(digest, &SHA256).expect("a SHA-256 has 32 bytes");
        let signature = self.0.sign_digest(&digest).expect("it signs");
        signature.as_ref().try_into().expect("a signature has 64 bytes")
    }
}

#[async_trait]
impl Signer for P256 {
    async fn sign(&self, digests: Vec<[u8; 32]>) -> Vec<Result<[u8; 64], Error>> {
        digests.iter().map(|digest| Ok(Self::sign(self, digest))).collect()
    }
}
