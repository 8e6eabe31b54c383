//! The vault's master keys where a key of Key Vault wraps them (`vault.engine = "envelope"`).
//!
//! The file holds them wrapped. They are unwrapped once, by [`KeyStore::unlock`], and then kept in memory by the bytes
//! that they came from: sealing and opening versions asks nobody. A process that never unlocks has none of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keyturn_azure::wrapping_key::{Wrapped, WrappingKey};
use keyturn_embedded::{MasterKey, MasterKeys};
use keyturn_schemas::mac::{self, FiledKey};
use keyturn_schemas::vault::{WrappedKey, format_wrapped, parse_wrapped};
use zeroize::Zeroizing;

use super::{Found, KeyError, KeyStore, VAULT};

/// What unwraps, and what it has unwrapped.
#[derive(Debug)]
pub(super) struct Envelope {
    key: WrappingKey,
    /// By the wrapped bytes.
    opened: Mutex<HashMap<Vec<u8>, Zeroizing<[u8; 32]>>>,
    /// Why the last try to unwrap failed.
    trouble: Mutex<Option<String>>,
}

/// What [`KeyStore::wrap_anew`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrapped {
    /// The file's new text.
    pub text: String,
    /// How many keys are wrapped that were not, or not by the newest version.
    pub wrapped: usize,
    /// Whether they were in the file without any wrapping.
    pub were_plain: bool,
    /// What wraps them.
    pub by: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Envelope {
    pub(super) fn new(key: WrappingKey) -> Self {
        Self { key, opened: Mutex::default(), trouble: Mutex::default() }
    }

    fn known(&self, key: &WrappedKey) -> Option<Zeroizing<[u8; 32]>> {
        lock(&self.opened).get(&key.wrapped).cloned()
    }

    fn keep(&self, key: &WrappedKey, secret: &Zeroizing<[u8; 32]>) {
        lock(&self.opened).insert(key.wrapped.clone(), secret.clone());
    }

    /// The keys of the file `found`, of those that were unwrapped before.
    pub(super) fn unwrapped(&self, found: &Found) -> Result<Vec<FiledKey>, KeyError> {
        let filed = |key: &WrappedKey| {
            let secret = self.known(key).ok_or_else(|| KeyError::Locked {
                source_name: found.name.clone(),
                why: lock(&self.trouble).clone().unwrap_or_else(|| "nobody asked Key Vault yet".to_owned()),
            })?;
            Ok(FiledKey { id: key.id, secret, added: key.added, sealed_until: key.sealed_until })
        };
        wrapped_in(found)?.iter().map(filed).collect()
    }

    /// Unwraps a key that is not known yet. What comes out has to be the one that the file names: anybody can wrap.
    async fn unwrap(&self, name: &str, key: &WrappedKey) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        if let Some(secret) = self.known(key) {
            return Ok(secret);
        }
        let wrapped = Wrapped { by: key.wrapped_by.clone(), bytes: key.wrapped.clone() };
        let (id, source_name) = (key.id.0, name.to_owned());
        let secret = match self.key.unwrap(&wrapped).await {
            Ok(secret) => secret,
            Err(error) => return Err(KeyError::Wrapping { source_name, id, error }),
        };
        if MasterKey::new(secret.clone()).id() != &key.name {
            return Err(KeyError::Exchanged { source_name, id });
        }
        self.keep(key, &secret);
        Ok(secret)
    }

    /// Wraps a key, and shows that it comes out again before anybody relies on it.
    async fn wrap(&self, name: &str, key: &FiledKey) -> Result<WrappedKey, KeyError> {
        let failed = |error| KeyError::Wrapping { source_name: name.to_owned(), id: key.id.0, error };
        let wrapped = self.key.wrap(&key.secret).await.map_err(failed)?;
        let made = WrappedKey {
            id: key.id,
            name: *MasterKey::new(key.secret.clone()).id(),
            wrapped_by: wrapped.by,
            wrapped: wrapped.bytes,
            added: key.added,
            sealed_until: key.sealed_until,
        };
        self.unwrap(name, &made).await?;
        Ok(made)
    }
}

impl KeyStore {
    /// Unwraps the vault's keys, if they are wrapped and were not unwrapped yet: the one call that asks Key Vault. What is
    /// no longer in the file is forgotten.
    pub async fn unlock(&self) -> Result<(), KeyError> {
        let Some(envelope) = &self.envelope else { return Ok(()) };
        let done = self.unlock_with(envelope).await;
        *lock(&envelope.trouble) = done.as_ref().err().map(ToString::to_string);
        done
    }

    async fn unlock_with(&self, envelope: &Envelope) -> Result<(), KeyError> {
        let found = self.find(VAULT)?;
        let keys = wrapped_in(&found)?;
        for key in &keys {
            envelope.unwrap(&found.name, key).await?;
        }
        lock(&envelope.opened).retain(|bytes, _| keys.iter().any(|key| key.wrapped == *bytes));
        Ok(())
    }

    /// Whether this process has unwrapped keys, and so follows changes of their file.
    pub(super) fn is_unlocked(&self) -> bool {
        self.envelope.as_ref().is_some_and(|envelope| !lock(&envelope.opened).is_empty())
    }

    /// The text of a file with these keys: wrapped where the deployment has a key for that, as it is otherwise. A key that
    /// is in the file already stays wrapped as it is; another one is wrapped now.
    pub async fn ring_text(
        &self,
        kind: &'static str,
        keys: &[FiledKey],
    ) -> Result<Zeroizing<String>, KeyError> {
        let Some(envelope) = self.envelope.as_ref().filter(|_| kind == VAULT) else {
            return Ok(mac::format_keys(kind, keys));
        };
        let found = super::read(&self.path(VAULT), VAULT)?;
        let known = wrapped_in(&found)?;
        let mut wrapped = Vec::new();
        for key in keys {
            let name = *MasterKey::new(key.secret.clone()).id();
            wrapped.push(match known.iter().find(|one| one.name == name) {
                Some(one) => {
                    WrappedKey { id: key.id, added: key.added, sealed_until: key.sealed_until, ..one.clone() }
                }
                None => envelope.wrap(&found.name, key).await?,
            });
        }
        Ok(Zeroizing::new(format_wrapped(&wrapped)))
    }

    /// The vault's keys of the key folder, wrapped by the newest version of the wrapping key, whether they were plain or
    /// under an older one. The keys themselves stay what they are. None if this deployment wraps no keys.
    pub async fn wrap_anew(&self) -> Result<Option<Rewrapped>, KeyError> {
        let Some(envelope) = &self.envelope else { return Ok(None) };
        let found = super::read(&self.path(VAULT), VAULT)?;
        let asked = envelope.key.newest().await;
        let by =
            asked.map_err(|error| KeyError::Wrapping { source_name: found.name.clone(), id: 0, error })?;
        let plain = super::parse_plain(&found);
        let were_plain = plain.is_ok();
        let (keys, known) = if let Ok(keys) = plain {
            (keys, Vec::new())
        } else {
            self.unlock_with(envelope).await?;
            (envelope.unwrapped(&found)?, wrapped_in(&found)?)
        };
        let (mut all, mut wrapped) = (Vec::new(), 0);
        for (place, key) in keys.iter().enumerate() {
            if let Some(one) = known.get(place).filter(|one| one.wrapped_by == by) {
                all.push(one.clone());
            } else {
                all.push(envelope.wrap(&found.name, key).await?);
                wrapped += 1;
            }
        }
        Ok(Some(Rewrapped { text: format_wrapped(&all), wrapped, were_plain, by }))
    }
}

fn wrapped_in(found: &Found) -> Result<Vec<WrappedKey>, KeyError> {
    parse_wrapped(&found.text).map_err(|error| match super::parse_plain(found) {
        Ok(_) => KeyError::Plain { source_name: found.name.clone() },
        Err(_) => KeyError::Ring { source_name: found.name.clone(), error },
    })
}

/// The keys of a file, as the deployment has them.
pub(super) fn master_keys(keys: Vec<FiledKey>) -> Option<MasterKeys> {
    MasterKeys::new(keys.into_iter().map(|key| MasterKey::new(key.secret))).ok()
}
