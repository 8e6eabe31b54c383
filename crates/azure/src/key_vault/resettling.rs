//! Bringing versions to the vault that new versions of their device go to, after a vault was added or taken away.
//!
//! A version is copied with its value and tags as they are, found by its tags before it is written, and read back. What is
//! moved is only what its own value says it is. Nothing is deleted: the old one stays until somebody has it disabled, and
//! that is done only while the same value can be read at home.

use std::collections::HashMap;

use azure_core::http::RequestContent;
use azure_security_keyvault_secrets::models::{
    SecretAttributes, SecretClientGetSecretOptions, SecretClientUpdateSecretPropertiesOptions,
    UpdateSecretPropertiesParameters,
};
use keyturn_domain::ids::DeviceId;
use keyturn_ports::vault::{Astray, Entry};
use keyturn_ports::{Error, Kind};
use zeroize::Zeroizing;

use super::calls::{READING, STORING, Shard, Written, noted};
use super::names::{Place, versions_of};
use super::stored::{self, Listed, Stored};
use super::{Inner, first};
use crate::failure::Failure;

const MOVING: &str = "moving a password version in Key Vault";

impl Inner {
    /// Versions of a device that can be read in another vault than its own, oldest first.
    pub(super) async fn astray(&self, device: DeviceId) -> Result<Vec<Astray>, Error> {
        let (home, name) = (self.home(device)?, versions_of(device));
        let at_home = home.versions(&name).await?;
        let mut all = Vec::new();
        for shard in self.shards.iter().filter(|shard| shard.url != home.url) {
            for listed in shard.versions(&name).await?.iter().filter(|listed| listed.enabled) {
                let same = first(&at_home, |stored| stored.is(&listed.stored)).map(|found| home.entry(found));
                all.push(Astray { entry: shard.entry(listed), home: same });
            }
        }
        all.sort_by_key(|one| (one.entry.created, one.entry.version));
        Ok(all)
    }

    /// Copies a version home, unless it is there, and reads it back.
    pub(super) async fn bring_home(&self, device: DeviceId, entry: &Entry) -> Result<Entry, Error> {
        let (home, name) = (self.home(device)?, versions_of(device));
        let (shard, place) = self.place(device, entry)?;
        let (value, tags) = shard.whole(&place).await?;
        // A tag can be anybody's: what is not what it says it is stays where it is.
        let mine = stored::open(&value, entry.lane, entry.version).is_ok_and(|password| password.is_some());
        let stored = Stored::parse(&tags)
            .filter(|stored| mine && (stored.version, stored.lane) == (entry.version, entry.lane));
        let stored =
            stored.ok_or_else(|| damaged(entry, "its tags and its value are of different versions"))?;
        let stored = stored.labelled(device, &tags);
        let mut made = 0;
        loop {
            let listed = home.versions(&name).await?;
            if let Some(there) = first(&listed, |other| other.is(&stored)) {
                return self.same(home, there, &value, entry).await;
            }
            self.pace.turn(home.url.authority()).await?;
            made += 1;
            match home.write(&name, &value, &stored, made).await? {
                Written::Stored(there) => return self.same(home, &there, &value, entry).await,
                Written::Unknown(pause) => tokio::time::sleep(pause).await,
            }
        }
    }

    /// The version at home, if it can be read there as what it is.
    async fn same(&self, home: &Shard, there: &Listed, value: &str, entry: &Entry) -> Result<Entry, Error> {
        let found = home.entry(there);
        let place = Place { vault: home.url.clone(), name: there.name.clone(), id: there.id.clone() };
        match home.value(&place).await? {
            Some(read) if read.as_str() == value => Ok(found),
            _ => Err(damaged(entry, "what is at home under its tags has another value")),
        }
    }

    /// Disables a version that is at home as well.
    pub(super) async fn disable(&self, device: DeviceId, entry: &Entry) -> Result<(), Error> {
        let (home, name) = (self.home(device)?, versions_of(device));
        let (shard, place) = self.place(device, entry)?;
        let (value, tags) = shard.whole(&place).await?;
        let stored = Stored::parse(&tags).ok_or_else(|| damaged(entry, "its tags were taken away"))?;
        let listed = home.versions(&name).await?;
        let there = first(&listed, |other| other.is(&stored))
            .ok_or_else(|| damaged(entry, "it is not at home, so it stays"))?;
        self.same(home, there, &value, entry).await?;
        shard.disable(&place).await
    }

    /// Where an entry that is astray is.
    fn place(&self, device: DeviceId, entry: &Entry) -> Result<(&Shard, Place), Error> {
        let place = Place::parse(&entry.vault_ref).filter(|place| place.name == versions_of(device));
        let place = place.ok_or_else(|| damaged(entry, "it is no version of this device"))?;
        let home = &self.home(device)?.url;
        let shard = self.shards.iter().find(|shard| shard.url == place.vault && shard.url != *home);
        Ok((shard.ok_or_else(|| damaged(entry, "it is in no other vault of the configuration"))?, place))
    }
}

impl Shard {
    /// The value of a version, and its tags as they are now.
    async fn whole(&self, place: &Place) -> Result<(Zeroizing<String>, HashMap<String, String>), Error> {
        let get = || async {
            let options = SecretClientGetSecretOptions {
                secret_version: Some(place.id.clone()),
                ..SecretClientGetSecretOptions::default()
            };
            self.client.get_secret(&place.name, Some(options)).await?.into_model()
        };
        let secret = self.again(get).await.map_err(|failure| self.told(&failure, READING))?;
        Ok((Zeroizing::new(secret.value.unwrap_or_default()), secret.tags.unwrap_or_default()))
    }

    /// Once done it is done: a repeat changes nothing.
    async fn disable(&self, place: &Place) -> Result<(), Error> {
        let update = || async {
            let disabled = SecretAttributes { enabled: Some(false), ..SecretAttributes::default() };
            let parameters = UpdateSecretPropertiesParameters {
                secret_attributes: Some(disabled),
                ..UpdateSecretPropertiesParameters::default()
            };
            let content: RequestContent<UpdateSecretPropertiesParameters> = parameters.try_into()?;
            let options = SecretClientUpdateSecretPropertiesOptions {
                secret_version: Some(place.id.clone()),
                ..SecretClientUpdateSecretPropertiesOptions::default()
            };
            self.client.update_secret_properties(&place.name, content, Some(options)).await
        };
        self.again(update).await.map(drop).map_err(|failure: Failure| self.told(&noted(failure), STORING))
    }
}

fn damaged(entry: &Entry, what: &str) -> Error {
    Error::new(Kind::Corrupt, MOVING, format!("version {} at {}: {what}", entry.version, entry.vault_ref))
}
