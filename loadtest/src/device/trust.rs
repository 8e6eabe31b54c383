//! The keys that may sign answers: those of the key set that the deployment's root key signed.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::result::{self, Answer};
use keyturn_schemas::signing::PublicKey;

/// The newest key set that answers brought.
pub struct Trust {
    root: PublicKey,
    newest: RwLock<Option<Arc<(String, KeySet)>>>,
}

impl Trust {
    /// Trusts what this root key signs.
    pub fn new(root: PublicKey) -> Self {
        Self { root, newest: RwLock::default() }
    }

    /// Takes a key set that is newer. One that does not hold is an error: under load there is nobody else to send it.
    pub fn offer(&self, text: &str, deployment: &Deployment) -> Result<()> {
        if self.newest().is_some_and(|known| known.0 == text) {
            return Ok(());
        }
        let set = key_set::verify(text, &self.root, deployment, SystemClock.now()).context("the key set")?;
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|known| set.serial > known.1.serial) {
            *newest = Some(Arc::new((text.to_owned(), set)));
        }
        Ok(())
    }

    /// Reads an answer that a trusted key signed.
    pub fn verify(&self, text: &str) -> Result<Answer> {
        let newest = self.newest().context("no answer brought a key set")?;
        Ok(result::verify(text.trim(), &newest.1.keys)?)
    }

    fn newest(&self) -> Option<Arc<(String, KeySet)>> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
