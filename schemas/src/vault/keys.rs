//! Master keys.

use std::fmt;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// A master key: 256 bits from a cryptographically secure source, wiped when dropped. It is never written to the
/// database; whoever opens the vault brings it.
pub struct MasterKey {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
}

/// A key's name in front of what it seals: the first eight bytes of SHA-256 over `keyturn vault master v1` and
/// the key. Deriving it leaves nothing to mix up between a key and its name, and tells nothing about the key.
pub type KeyId = [u8; 8];

impl MasterKey {
    /// Takes a key over.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let digest: [u8; 32] = Sha256::new_with_prefix(b"keyturn vault master v1")
            .chain_update(bytes.as_slice())
            .finalize()
            .into();
        let mut id = KeyId::default();
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self { id, bytes }
    }

    /// Its name.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

/// The master keys of a deployment. More than one live while one replaces another.
#[derive(Debug)]
pub struct MasterKeys {
    first: MasterKey,
    others: Vec<MasterKey>,
}

/// A vault cannot do without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vault needs at least one master key")]
pub struct NoMasterKey;

impl MasterKeys {
    /// The keys, the one that seals first; every one of them opens.
    pub fn new(keys: impl IntoIterator<Item = MasterKey>) -> Result<Self, NoMasterKey> {
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or(NoMasterKey)?;
        Ok(Self { first, others: keys.collect() })
    }

    /// The key that seals.
    pub fn first(&self) -> &MasterKey {
        &self.first
    }

    /// The names of all keys, the one that seals first.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        std::iter::once(&self.first).chain(&self.others).map(MasterKey::id)
    }

    /// The key of this name, if it is among them.
    pub fn find(&self, id: KeyId) -> Option<&MasterKey> {
        std::iter::once(&self.first).chain(&self.others).find(|key| *key.id() == id)
    }
}
