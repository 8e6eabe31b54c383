//! How a version is sealed: the key's id (8 bytes), a random nonce (12), then AES-256-GCM over the password with
//! `keyturn vault v1`, the lane (16) and the version (16) as associated data, so that a sealed value copied to
//! another lane or version does not open there.
//!
//! A random nonce of 96 bits is safe for 2^32 versions under one key (NIST SP 800-38D, section 8.3).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{LaneId, VersionId};
use keyturn_domain::password::Password;
use zeroize::Zeroizing;

use super::keys::{KeyId, MasterKey, MasterKeys};
const LABEL: &[u8; 16] = b"keyturn vault v1";

/// Why a version is not sealed or not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The bytes are not what was sealed for this lane and version.
    #[error("the sealed version is damaged, or is not the one it stands for")]
    Damaged,
    /// The key that sealed it is not there.
    #[error("the version is sealed under a master key that is not among those given")]
    UnknownKey,
    /// The key does not work.
    #[error("the master key cannot be used")]
    Unusable,
}

/// What a sealed value belongs to.
pub type Bound = [u8; 48];

/// The associated data of a version.
pub fn bound_to(lane: LaneId, version: VersionId) -> Bound {
    let mut bound = [0; 48];
    let parts = LABEL.iter().chain(lane.as_bytes()).chain(version.as_bytes());
    bound.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    bound
}

/// Seals a password.
pub fn seal(
    key: &MasterKey,
    entropy: &dyn Entropy,
    bound: &Bound,
    password: &str,
) -> Result<Vec<u8>, SealError> {
    let nonce: [u8; NONCE_LEN] = entropy.bytes();
    // With room for the tag, so that the plain text is encrypted where it stands and never moved.
    let mut text = Zeroizing::new(Vec::with_capacity(password.len() + AES_256_GCM.tag_len()));
    text.extend_from_slice(password.as_bytes());
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut *text)
        .map_err(|_| SealError::Unusable)?;
    Ok([key.id().as_slice(), &nonce, &text].concat())
}

/// Opens a sealed password.
pub fn open(keys: &MasterKeys, bound: &Bound, sealed: &[u8]) -> Result<Password, SealError> {
    let damaged = || SealError::Damaged;
    let (id, rest) = sealed.split_first_chunk::<{ size_of::<KeyId>() }>().ok_or_else(damaged)?;
    let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
    let key = keys.find(*id).ok_or(SealError::UnknownKey)?;
    let mut text = Zeroizing::new(text.to_vec());
    let plain = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound), &mut text)
        .map_err(|_| damaged())?;
    let password = std::str::from_utf8(plain).map_err(|_| damaged())?;
    Ok(Password::new(password.to_owned()))
}

fn cipher(key: &MasterKey) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key.bytes()).map(LessSafeKey::new).map_err(|_| SealError::Unusable)
}
