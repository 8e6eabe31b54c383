//! The vault: password versions, kept for good.

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;

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
    /// The versions stored for these messages, in order.
    async fn find(&self, requests: Vec<RequestId>) -> Result<Vec<Option<Entry>>, Error>;

    /// Stores versions. The answers are in the order of `versions`; one that fails does not fail the others.
    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>>;
}
