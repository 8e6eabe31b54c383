//! Azure Key Vault: the versions of a device are the versions of one secret, `lap-<device id>-next`.
//!
//! Key Vault has no compare-and-set, cannot delete one version, and lists versions in no order that it promises. So
//! nothing is ever overwritten, disabled or deleted here: a password is a new version, found by its tags and read by its
//! version id. A put looks before it writes, and once more before it writes again: SDK retries are off, because they
//! would not.
//!
//! A second secret, `lap-<device id>`, may hold a copy of the confirmed password for people (`copies.rs`).
//!
//! Which of several vaults a device's versions go to is computed from the device alone (`shards.rs`); where a version
//! is stands in the ledger, as the vault's own id of it.

mod calls;
mod copies;
mod inventory;
mod names;
pub mod probe;
mod resettling;
mod shards;
mod stored;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use futures_util::StreamExt as _;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, LaneId, VersionId};
use keyturn_domain::password::Password;
use keyturn_ports::vault::{
    Astray, BACKED_UP, ConfirmedCopy, Copies, Entry, HeldSecret, Inventory, NewVersion, Resettling, Sought,
    Vault, VaultReader,
};
use keyturn_ports::{Error, Kind};
use tracing::warn;

use self::calls::{READING, STORING, Shard, Written};
pub(crate) use self::names::is_id as is_version;
use self::names::{Place, versions_of};
use self::stored::{Listed, Stored};
use crate::failure::SetupError;
use crate::pace::Pace;
use crate::retry::Attempts;
use crate::transport::{HttpsUrl, Reach};

/// Versions of one secret above which an operator is told: Key Vault cannot back up more than 500.
const MANY: usize = BACKED_UP * 9 / 10;

/// Hosts of Key Vault, whose challenges name a resource that their own name ends in.
const AZURE: [&str; 3] = [".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net"];

/// What a vault is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Vaults that new versions go to, at least one.
    pub urls: Vec<HttpsUrl>,
    /// Vaults that older versions are in.
    pub read_urls: Vec<HttpsUrl>,
    /// Take the challenge of a host that is not Key Vault's. It says what a token is made for, and so could have one
    /// made for anything this credential may do.
    pub danger_unverified_challenge: bool,
    /// How often a call is made.
    pub attempts: Attempts,
    /// Calls at once for one batch.
    pub parallel: usize,
}

/// The vault.
#[derive(Clone)]
pub struct KeyVault(Arc<Inner>);

struct Inner {
    /// Those that are written come first.
    shards: Vec<Shard>,
    written: usize,
    parallel: usize,
    pace: Arc<dyn Pace>,
}

/// The addresses.
impl std::fmt::Display for KeyVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls: Vec<String> = self.0.shards.iter().map(|shard| shard.url.to_string()).collect();
        f.write_str(&urls.join(", "))
    }
}

impl std::fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.shards.iter().map(|shard| shard.url.to_string())).finish()
    }
}

impl KeyVault {
    /// The vault behind these addresses. Nobody is asked anything yet.
    pub fn open(
        settings: &Settings,
        reach: &Reach,
        credential: &Arc<dyn TokenCredential>,
        pace: Arc<dyn Pace>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, SetupError> {
        if settings.urls.is_empty() {
            return Err(wrong("at least one vault is needed".to_owned()));
        }
        let shard = |url: &HttpsUrl| shard(url, settings, reach, credential, entropy);
        let shards =
            settings.urls.iter().chain(&settings.read_urls).map(shard).collect::<Result<Vec<_>, _>>()?;
        let (written, parallel) = (settings.urls.len(), settings.parallel.max(1));
        Ok(Self(Arc::new(Inner { shards, written, parallel, pace })))
    }
}

/// Whether this is a host of Key Vault.
pub(crate) fn is_of_key_vault(url: &HttpsUrl) -> bool {
    AZURE.iter().any(|end| url.host().ends_with(end))
}

fn wrong(problem: String) -> SetupError {
    SetupError::Service { setting: "vault.urls", problem }
}

fn shard(
    url: &HttpsUrl,
    settings: &Settings,
    reach: &Reach,
    credential: &Arc<dyn TokenCredential>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Shard, SetupError> {
    let verified = is_of_key_vault(url);
    if !verified && !settings.danger_unverified_challenge {
        return Err(wrong(format!(
            "{url} is not a host of Azure Key Vault; vault.danger_unverified_challenge = true trusts it to say what \
             tokens are made for"
        )));
    }
    let options = SecretClientOptions {
        client_options: reach.options(url)?,
        verify_challenge_resource: Some(verified),
        ..SecretClientOptions::default()
    };
    let client = SecretClient::new(&url.to_string(), Arc::clone(credential), Some(options))
        .map_err(|_| wrong(format!("{url} is no address of a vault")))?;
    Ok(Shard { url: url.clone(), client, attempts: settings.attempts, entropy: Arc::clone(entropy) })
}

impl Inner {
    /// Where new versions of a device go.
    fn home(&self, device: DeviceId) -> Result<&Shard, Error> {
        let written = self.shards.iter().take(self.written);
        shards::chosen(written, |shard| shard.url.authority(), device)
            .ok_or_else(|| Error::new(Kind::Denied, STORING, "no vault is configured"))
    }

    async fn find(&self, sought: Sought) -> Result<Option<Entry>, Error> {
        let shard = self.home(sought.device)?;
        let listed = shard.versions(&versions_of(sought.device)).await?;
        Ok(first(&listed, |stored| stored.request == sought.request).map(|found| shard.entry(found)))
    }

    async fn put(&self, version: NewVersion) -> Result<Entry, Error> {
        let device = version.tags.device;
        let (shard, name) = (self.home(device)?, versions_of(device));
        let stored = Stored::of(&version);
        let value = stored::value(&version)?;
        // The password is in the value from here on, which goes nowhere but into the vault.
        drop(version);
        let mut made = 0;
        loop {
            let listed = shard.versions(&name).await?;
            if listed.len() >= MANY {
                warn!(device.id = %device, versions = listed.len(), "this device has many versions; Key Vault cannot back up more than 500");
            }
            // Also after an unknown outcome: what did get there is there, and is not written again.
            if let Some(found) = first(&listed, |other| other.is(&stored)) {
                return Ok(shard.entry(found));
            }
            self.pace.turn(shard.url.authority()).await?;
            made += 1;
            match shard.write(&name, &value, &stored, made).await? {
                Written::Stored(listed) => return Ok(shard.entry(&listed)),
                Written::Unknown(pause) => tokio::time::sleep(pause).await,
            }
        }
    }
}

/// The first of those that fit. Key Vault's times are whole seconds, so of two in one second the lesser id counts:
/// whoever asks is told the same.
fn first(listed: &[Listed], fits: impl Fn(&Stored) -> bool) -> Option<&Listed> {
    let fitting = listed.iter().filter(|one| fits(&one.stored));
    fitting.min_by_key(|one| (one.created, one.stored.version))
}

#[async_trait]
impl VaultReader for KeyVault {
    async fn read(
        &self,
        lane: LaneId,
        version: VersionId,
        vault_ref: &str,
    ) -> Result<Option<Password>, Error> {
        // Words that are not this vault's name nothing in it.
        let Some(place) = Place::parse(vault_ref) else {
            return Ok(None);
        };
        let Some(shard) = self.0.shards.iter().find(|shard| shard.url == place.vault) else {
            let mend = format!(
                "version {version} is in {}, which is not in vault.urls or vault.read_urls",
                place.vault
            );
            return Err(Error::new(Kind::Denied, READING, mend));
        };
        match shard.value(&place).await? {
            None => Ok(None),
            Some(value) => stored::open(&value, lane, version),
        }
    }

    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error> {
        let (name, home) = (versions_of(device), &self.0.home(device)?.url);
        let mut all: HashMap<(LaneId, VersionId), Entry> = HashMap::new();
        let mut shards: Vec<&Shard> = self.0.shards.iter().collect();
        shards.sort_by_key(|shard| shard.url != *home);
        for shard in shards {
            for listed in shard.versions(&name).await? {
                let entry = shard.entry(&listed);
                // One that was moved is the one at home, and as old as it ever was.
                let made = entry.created;
                let known = all.entry((entry.lane, entry.version)).or_insert(entry);
                known.created = known.created.min(made);
            }
        }
        let mut all: Vec<Entry> = all.into_values().collect();
        all.sort_by_key(|entry| std::cmp::Reverse((entry.created, entry.version)));
        Ok(all)
    }
}

#[async_trait]
impl Vault for KeyVault {
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>> {
        let finding = sought.into_iter().map(|one| self.0.find(one));
        futures_util::stream::iter(finding).buffered(self.0.parallel).collect().await
    }

    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>> {
        let putting = versions.into_iter().map(|one| self.0.put(one));
        futures_util::stream::iter(putting).buffered(self.0.parallel).collect().await
    }
}

#[async_trait]
impl Copies for KeyVault {
    async fn copy(&self, copy: ConfirmedCopy) -> Result<bool, Error> {
        self.0.copy(copy).await
    }
}

#[async_trait]
impl Inventory for KeyVault {
    async fn inventory(&self, device: DeviceId) -> Result<Vec<HeldSecret>, Error> {
        self.0.inventory(device).await
    }
}

#[async_trait]
impl Resettling for KeyVault {
    async fn astray(&self, device: DeviceId) -> Result<Vec<Astray>, Error> {
        self.0.astray(device).await
    }

    async fn bring_home(&self, device: DeviceId, entry: &Entry) -> Result<Entry, Error> {
        self.0.bring_home(device, entry).await
    }

    async fn disable(&self, device: DeviceId, entry: &Entry) -> Result<(), Error> {
        self.0.disable(device, entry).await
    }
}
