//! The directory of devices (Microsoft Entra ID in production), in the shape of Microsoft Graph.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_domain::time::UnixMillis;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;

/// A device as the directory lists it: the properties of a Graph `device` that matter here, under their Graph
/// names (learn.microsoft.com/graph/api/resources/device). Unknown properties of an export are ignored, and a known
/// one that has another type than it should says nothing: the device is then refused, as if it were absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRecord {
    /// The device id.
    pub device_id: DeviceId,
    /// The name people know it by.
    #[serde(default, deserialize_with = "or_nothing")]
    pub display_name: Option<String>,
    /// Whether it may authenticate. Absent or null is not enabled.
    #[serde(default, deserialize_with = "or_nothing")]
    pub account_enabled: Option<bool>,
    /// `AzureAd`, `ServerAd` or `Workplace`.
    #[serde(default, deserialize_with = "or_nothing")]
    pub trust_type: Option<String>,
    /// The keys it registered.
    #[serde(default, deserialize_with = "readable_keys")]
    pub alternative_security_ids: Vec<AlternativeSecurityId>,
    /// The operating system, as the directory has it.
    #[serde(default, deserialize_with = "or_nothing")]
    pub operating_system: Option<String>,
    /// The groups it is in, directly or not. A device of an export that does not say is in those that were known
    /// before; a directory that was asked says.
    #[serde(
        rename = "transitiveMemberOf",
        default,
        deserialize_with = "readable_groups",
        skip_serializing_if = "Option::is_none"
    )]
    pub groups: Option<BTreeSet<Membership>>,
}

/// A group in the list of a device's groups, of which the id alone matters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    #[serde(deserialize_with = "any_case")]
    pub id: GroupId,
}

/// A value of the right type, or anything else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Perhaps<T> {
    Right(T),
    Other(IgnoredAny),
}

impl<T> Perhaps<T> {
    fn right(self) -> Option<T> {
        match self {
            Self::Right(value) => Some(value),
            Self::Other(IgnoredAny) => None,
        }
    }
}

/// A value of the right type, or none.
fn or_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Ok(Perhaps::deserialize(from)?.right())
}

/// Those entries of a list that can be read.
fn readable_keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<AlternativeSecurityId>, D::Error> {
    let entries: Option<Vec<Perhaps<AlternativeSecurityId>>> = Perhaps::deserialize(from)?.right();
    Ok(entries.into_iter().flatten().filter_map(Perhaps::right).collect())
}

/// Those entries of a list of groups, roles and administrative units that can be groups.
fn readable_groups<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeSet<Membership>>, D::Error> {
    let entries: Option<Vec<Perhaps<Membership>>> = Perhaps::deserialize(from)?.right();
    Ok(entries.map(|entries| entries.into_iter().filter_map(Perhaps::right).collect()))
}

fn any_case<'de, D: Deserializer<'de>>(from: D) -> Result<GroupId, D::Error> {
    GroupId::parse_any_case(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// One registered key, undecoded (see `keyturn_schemas::security_id`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlternativeSecurityId {
    /// 2 for device registration keys.
    #[serde(rename = "type")]
    pub kind: i64,
    /// Base64 over UTF-16LE text.
    #[serde(default)]
    pub key: String,
}

impl DeviceRecord {
    /// The groups it is known to be in.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> {
        self.groups.iter().flatten().map(|membership| membership.id)
    }

    /// Puts it into a group, or takes it out of it.
    pub fn regroup(&mut self, group: GroupId, member: bool) {
        let (groups, membership) = (self.groups.get_or_insert_default(), Membership { id: group });
        if member {
            groups.insert(membership);
        } else {
            groups.remove(&membership);
        }
    }
}

/// What the directory answered about one device id.
#[derive(Debug)]
pub struct Answer {
    /// Every record with this id: none, one, or, if something is badly wrong, several.
    pub records: Vec<DeviceRecord>,
    /// When the directory said so. A cached answer keeps its time.
    pub answered: UnixMillis,
}

/// A device in a list.
#[derive(Debug)]
pub struct Listed {
    /// The device.
    pub id: DeviceId,
    /// Its record, if it can be read.
    pub record: Result<DeviceRecord, Error>,
}

/// The directory, for the validator.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Looks devices up. The answers are in the order of `devices`; one that fails does not fail the others. A
    /// record that cannot be read is an error for that device of kind `Corrupt`.
    async fn look_up(&self, devices: Vec<DeviceId>) -> Vec<Result<Answer, Error>>;

    /// At most `limit` records ordered by id, after `after`, for lists. One that cannot be read does not keep the
    /// others from being listed.
    async fn page(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error>;

    /// Devices of this display name, without regard to case. At most 32.
    async fn named(&self, name: &str) -> Result<Vec<DeviceId>, Error>;
}

/// The embedded directory's own commands; a cloud directory is managed elsewhere.
#[async_trait]
pub trait DirectoryAdmin: Directory {
    /// Adds or replaces records, all or none.
    async fn put(&self, records: Vec<DeviceRecord>) -> Result<(), Error>;

    /// Enables or disables a device. Returns whether it exists.
    async fn enable(&self, device: DeviceId, enabled: bool) -> Result<bool, Error>;

    /// Puts devices into a group (`true`) or takes them out of it, all or none, and changes nothing else of them,
    /// whoever changes them meanwhile. A device that does not exist is passed over.
    async fn regroup(&self, group: GroupId, members: Vec<(DeviceId, bool)>) -> Result<(), Error>;
}
