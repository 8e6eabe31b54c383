//! The vault: password versions, kept for good.

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use serde::Serialize;

use crate::Error;

/// A version to store.
#[derive(Debug)]
pub struct NewVersion {
    /// The message it was minted for: the tag by which it is found again after an unknown outcome.
    pub request: RequestId,
    /// The version.
    pub version: VersionId,
    /// The lane it is made for; sealed into the value.
    pub lane: LaneId,
    /// The password.
    pub password: Password,
    /// What plain vault tools show beside it.
    pub tags: Tags,
}

/// A message for which a version may have been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The device it is for: a vault with one name for each device looks under that name alone.
    pub device: DeviceId,
    /// The message.
    pub request: RequestId,
}

/// Tags in CloudLAPS's names, for people with plain vault tools. Labels only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    /// `UserName`
    pub user_name: String,
    /// `AzureADDeviceID`
    pub device: DeviceId,
    /// `DeviceName`
    pub device_name: String,
    /// `SerialNumber`
    pub serial_number: String,
}

/// A version in the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The version.
    pub version: VersionId,
    /// The lane.
    pub lane: LaneId,
    /// The vault's own words for where it is.
    pub vault_ref: String,
    /// When it was stored.
    pub created: UnixMillis,
}

/// The reading half.
#[async_trait]
pub trait VaultReader: Send + Sync {
    /// The password of a version, if the vault has it. The lane and version are checked against the seal.
    async fn read(
        &self,
        lane: LaneId,
        version: VersionId,
        vault_ref: &str,
    ) -> Result<Option<Password>, Error>;

    /// Every version ever made for a device, newest first: what is left when the ledger is lost.
    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error>;
}

/// The writing half, for the rotator.
///
/// A put that returns is durable before any later durable effect of this deployment. A vault may hold several
/// versions for one request, if a put was repeated after an unknown outcome; `find` then returns the first.
#[async_trait]
pub trait Vault: VaultReader {
    /// The versions stored for these messages. The answers are in the order of `sought`; one that fails does not fail
    /// the others.
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>>;

    /// Stores versions. The answers are in the order of `versions`; one that fails does not fail the others.
    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>>;
}

/// The most versions of a secret that Key Vault backs up
/// (learn.microsoft.com/azure/key-vault/general/backup).
pub const BACKED_UP: usize = 500;

/// A secret of a device in a vault of secrets, without values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldSecret {
    /// The vault.
    pub vault: String,
    /// The secret's name.
    pub name: String,
    /// Whether new versions of the device go to this vault.
    pub is_home: bool,
    /// Whether it was deleted and can be recovered; none if that may not be asked.
    pub deleted: Option<bool>,
    /// Its versions, the newest first, whoever wrote them.
    pub versions: Vec<HeldVersion>,
}

/// A version of such a secret. What is said by tags may be said by anybody who may set secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldVersion {
    /// The vault's own id of it.
    pub id: String,
    /// When it was written.
    pub made: UnixMillis,
    /// Whether it can be read.
    pub enabled: bool,
    /// When it cannot be read any more, if there is such a time.
    pub ends: Option<UnixMillis>,
    /// The version, by its tags; none if it is not one of Keyturn.
    pub version: Option<VersionId>,
    /// Its lane, by its tags.
    pub lane: Option<LaneId>,
    /// The message it was made for, by its tags.
    pub request: Option<RequestId>,
    /// The account, by its tags.
    pub account: String,
}

/// A vault of secrets that people look at too.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// What it has of a device, without values.
    async fn inventory(&self, device: DeviceId) -> Result<Vec<HeldSecret>, Error>;
}

/// A version that is not where new ones of its device go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Astray {
    /// It.
    pub entry: Entry,
    /// The same version where it should be, if it is there as well.
    pub home: Option<Entry>,
}

/// Several vaults over which devices are spread, each device by itself alone.
#[async_trait]
pub trait Resettling: Send + Sync {
    /// Versions of a device that can be read in another vault than the one that new ones go to, oldest first.
    async fn astray(&self, device: DeviceId) -> Result<Vec<Astray>, Error>;

    /// Copies a version to where it should be, unless it is there, and reads it back. The old one stays. Of kind `Corrupt`
    /// if it is not what it says it is; then nothing was written.
    async fn bring_home(&self, device: DeviceId, entry: &Entry) -> Result<Entry, Error>;

    /// Has nobody read an old version any more. Of kind `Corrupt`, and nothing is done, unless the same is where it should
    /// be.
    async fn disable(&self, device: DeviceId, entry: &Entry) -> Result<(), Error>;
}

/// A confirmed version, for people with plain vault tools.
#[derive(Debug)]
pub struct ConfirmedCopy {
    /// The version.
    pub version: VersionId,
    /// Its lane.
    pub lane: LaneId,
    /// Its password.
    pub password: Password,
    /// What is shown beside it; it names the device.
    pub tags: Tags,
}

/// A vault that keeps a copy of each device's confirmed password under a second name. Nothing is ever read from it but by
/// people.
#[async_trait]
pub trait Copies: Send + Sync {
    /// Makes the copy of a device this one, unless it is already. Returns whether it was written. It was there when this
    /// returns; what others set since is met by the next call.
    async fn copy(&self, copy: ConfirmedCopy) -> Result<bool, Error>;
}

/// How many versions are sealed under which master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Census {
    /// For each key the vault was opened with, in their order.
    pub under: Vec<u64>,
    /// Under keys that it was not opened with.
    pub unknown: u64,
}

/// A page of versions that were opened to see whether they can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Where the next page begins; None when there is nothing left.
    pub last: Option<u64>,
    /// How many were looked at.
    pub opened: u64,
    /// Those that cannot be opened.
    pub damaged: Vec<VersionId>,
}

/// A page of versions that were sealed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// Where the next page begins; None when there is nothing left.
    pub last: Option<u64>,
    /// How many were sealed anew; the others were under the first key already.
    pub resealed: u64,
    /// Those that cannot be opened, and stay as they are.
    pub damaged: Vec<VersionId>,
}

/// Looking after the master keys of a vault that keeps its own. Passwords do not leave it. Pages are in the order
/// in which versions were stored, so that one stored meanwhile is met at the end.
#[async_trait]
pub trait VaultKeeper: Send + Sync {
    /// How many versions are sealed under which master key.
    async fn census(&self) -> Result<Census, Error>;

    /// Opens at most `limit` versions after `after`, each against its lane and version.
    async fn check(&self, after: u64, limit: usize) -> Result<Checked, Error>;

    /// Seals at most `limit` versions after `after` anew under the key that seals. Durable when it returns; a
    /// version sealed under that key already stays as it is, so that repeats and resumed runs are harmless.
    async fn reseal(&self, after: u64, limit: usize) -> Result<Resealed, Error>;
}
