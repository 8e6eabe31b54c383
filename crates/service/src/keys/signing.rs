//! The key that signs results: in its file, or in Azure Key Vault by what the file says (`[signing]`).
//!
//! The file of a key in Key Vault has the address of a version and its public half. That the version has this public half
//! is asked of Key Vault when a process starts; that agents know it is looked up in the key set whenever either file is
//! read. A new version in Key Vault is nothing to anybody before an operator takes it (`keyturn keys rotate signing`).

use std::sync::Arc;

use keyturn_azure::signing_key::{PublicHalf, SigningKeys, SigningVersion};
use keyturn_pipeline::signing::{RemoteKey, ResultKey};
use keyturn_ports::Error;
use keyturn_schemas::key_set;
use keyturn_schemas::signing::{FiledSigningKey, KeyReference};

use super::{Found, KeyError, KeyStore, SIGNING};

/// What is signed to see whether a key signs: a blank is in it, as in no result, and it is no anchor of the audit.
const PROBE: &str = "keyturn signing probe v1";

impl KeyStore {
    /// The key that signs results. One in Key Vault has to be in the key set: agents take nothing else, and which key that
    /// is is not for who may write its file to say.
    pub fn signing(&self) -> Result<ResultKey, KeyError> {
        let found = self.find(SIGNING)?;
        match parse(&found)? {
            FiledSigningKey::Here(key) => Ok(key.into()),
            FiledSigningKey::Elsewhere(reference) => {
                let version = self.version(&found, &reference)?;
                self.listed(&found, &reference)?;
                Ok(ResultKey::Elsewhere(RemoteKey::new(reference.public(), Arc::new(version))))
            }
        }
    }

    /// A signing key in the file `name` of the key folder, if there is one.
    pub fn signing_in(&self, name: &str) -> Result<Option<FiledSigningKey>, KeyError> {
        match super::read(&self.folder.join(name), SIGNING) {
            Err(KeyError::Missing { .. }) => Ok(None),
            found => parse(&found?).map(Some),
        }
    }

    /// Asks Key Vault whether the key that signs is the one that its file says, if it is there.
    pub async fn check_signing(&self) -> Result<(), KeyError> {
        let found = self.find(SIGNING)?;
        match parse(&found)? {
            FiledSigningKey::Here(_) => Ok(()),
            FiledSigningKey::Elsewhere(reference) => {
                self.listed(&found, &reference)?;
                self.compare(&found, &reference).await.map(drop)
            }
        }
    }

    /// Has a key in the file `name` of the key folder sign something, if it is in Key Vault. Returns its address there.
    pub async fn try_signing(&self, name: &str) -> Result<Option<String>, KeyError> {
        let found = super::read(&self.folder.join(name), SIGNING)?;
        let FiledSigningKey::Elsewhere(reference) = parse(&found)? else { return Ok(None) };
        let version = self.compare(&found, &reference).await?;
        let key = ResultKey::Elsewhere(RemoteKey::new(reference.public(), Arc::new(version)));
        key.sign(PROBE).await.map_err(|error| asked(&found, error))?;
        Ok(Some(reference.key().to_owned()))
    }

    /// The newest version of the key in Key Vault, and the command that makes a newer one. None if there is no such key in
    /// the configuration.
    pub async fn newest_signing(&self) -> Result<Option<(PublicHalf, String)>, Error> {
        let Some(keys) = &self.signers else { return Ok(None) };
        let (vault, name) = (keys.url().vault_name(), keys.url().name());
        let make = format!(
            "az keyvault key create --vault-name {vault} --name {name} --kty EC --curve P-256 --ops sign"
        );
        Ok(Some((keys.newest().await?, make)))
    }

    fn version(&self, found: &Found, reference: &KeyReference) -> Result<SigningVersion, KeyError> {
        let version = self.signers.as_ref().and_then(|keys| keys.version(reference.key()));
        version.ok_or_else(|| KeyError::SignsElsewhere {
            source_name: found.name.clone(),
            key: reference.key().chars().take(256).collect(),
        })
    }

    fn listed(&self, found: &Found, reference: &KeyReference) -> Result<(), KeyError> {
        let text = self.key_set().map_err(|error| match error {
            KeyError::Unreadable { path, source } => {
                KeyError::NoKeySet { source_name: found.name.clone(), path, source }
            }
            other => other,
        })?;
        let public = reference.public();
        let set = key_set::read(&text);
        let set =
            set.map_err(|error| KeyError::KeySet { path: self.folder.join(super::KEY_SET_FILE), error })?;
        if set.keys.contains(&public) {
            return Ok(());
        }
        let other = set.keys.iter().any(|key| key.kid == public.kid);
        let (source_name, kid, serial) = (found.name.clone(), public.kid, set.serial);
        Err(KeyError::Unlisted {
            source_name,
            kid,
            serial,
            as_another: if other { " with this public half" } else { "" },
        })
    }

    async fn compare(&self, found: &Found, reference: &KeyReference) -> Result<SigningVersion, KeyError> {
        let version = self.version(found, reference)?;
        let half = version.public().await.map_err(|error| asked(found, error))?;
        if KeyReference::new(&reference.public().kid, half.address, &half.point) == *reference {
            return Ok(version);
        }
        Err(KeyError::OtherKey { source_name: found.name.clone(), key: reference.key().to_owned() })
    }
}

fn parse(found: &Found) -> Result<FiledSigningKey, KeyError> {
    FiledSigningKey::parse(&found.text)
        .map_err(|error| KeyError::Signing { source_name: found.name.clone(), error })
}

fn asked(found: &Found, error: Error) -> KeyError {
    KeyError::Signer { source_name: found.name.clone(), error }
}

/// The keys of Key Vault that may sign.
pub(super) type Signers = Option<SigningKeys>;
