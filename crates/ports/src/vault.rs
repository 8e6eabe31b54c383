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
