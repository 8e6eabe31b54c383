//! Signing with a private key that never leaves the service that has it.

use async_trait::async_trait;

use crate::Error;

/// One version of one key on P-256.
#[async_trait]
pub trait Signer: std::fmt::Debug + Send + Sync {
    /// Signs SHA-256 digests by ECDSA: r and s, 32 bytes each, one after the other (RFC 7518 section 3.4).
    ///
    /// The answers are in the order of the digests, one for each; what fails for one does not fail the others. A signature
    /// is not twice the same, and nobody is harmed by one that is made and never used. Whoever uses one verifies it first.
    async fn sign(&self, digests: Vec<[u8; 32]>) -> Vec<Result<[u8; 64], Error>>;
}
