//! A version as Key Vault has it: a value that cannot change, and tags that can.
//!
//! Whoever may set secrets may change a version's tags, but never its value. So the value itself says which lane and
//! version it is, and is believed; tags only help to find it.

use std::collections::HashMap;

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::vault::{ConfirmedCopy, NewVersion, Tags};
use keyturn_ports::{Error, Kind};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::calls::{READING, STORING};

/// What the value is, for people with plain tools.
pub(super) const CONTENT_TYPE: &str = "application/vnd.keyturn.version+json";

/// The most bytes in a value (learn.microsoft.com/azure/key-vault/secrets/about-secrets).
const VALUE_BYTES: usize = 25 * 1024;
/// The most characters in a tag's value.
const TAG_CHARS: usize = 256;

/// What tags say of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) request: RequestId,
    pub(super) version: VersionId,
    pub(super) lane: LaneId,
    labels: Option<Tags>,
}

/// A version in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// The vault's id of it, 32 hexadecimal digits.
    pub(super) id: String,
    /// The secret's name.
    pub(super) name: String,
    pub(super) created: UnixMillis,
    /// Whether it can be read.
    pub(super) enabled: bool,
    pub(super) stored: Stored,
}

impl Stored {
    pub(super) fn of(version: &NewVersion) -> Self {
        let NewVersion { request, version, lane, password: _, tags } = version;
        Self { request: *request, version: *version, lane: *lane, labels: Some(tags.clone()) }
    }

    /// Whether both are one version.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.request, self.version, self.lane) == (other.request, other.version, other.lane)
    }

    /// As tags. CloudLAPS's names are its own.
    pub(super) fn tags(&self) -> HashMap<String, String> {
        let mut tags = HashMap::from([
            ("rid".to_owned(), self.request.to_string()),
            ("version".to_owned(), self.version.to_string()),
            ("lane".to_owned(), self.lane.to_string()),
        ]);
        tags.extend(self.labels.iter().flat_map(labels));
        tags
    }

    /// The same with the labels that are among tags.
    pub(super) fn labelled(self, device: DeviceId, tags: &HashMap<String, String>) -> Self {
        let tag = |name: &str| tags.get(name).cloned().unwrap_or_default();
        let labels = Tags {
            user_name: tag("UserName"),
            device,
            device_name: tag("DeviceName"),
            serial_number: tag("SerialNumber"),
        };
        Self { labels: Some(labels), ..self }
    }

    /// What tags say, if they are of a version.
    pub(super) fn parse(tags: &HashMap<String, String>) -> Option<Self> {
        Some(Self {
            request: tags.get("rid")?.parse().ok()?,
            version: tags.get("version")?.parse().ok()?,
            lane: tags.get("lane")?.parse().ok()?,
            labels: None,
        })
    }
}

#[derive(Serialize)]
struct Written<'a> {
    version: VersionId,
    lane: LaneId,
    password: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    version: VersionId,
    lane: LaneId,
    password: String,
}

/// The value of a new version.
pub(super) fn value(version: &NewVersion) -> Result<Zeroizing<String>, Error> {
    let NewVersion { version, lane, password, .. } = version;
    let written = Written { version: *version, lane: *lane, password: password.expose() };
    let text = serde_json::to_string(&written).map(Zeroizing::new);
    let text =
        text.map_err(|_| Error::new(Kind::Corrupt, STORING, "the version cannot be written as JSON"))?;
    if text.len() > VALUE_BYTES {
        let problem = format!("the value has {} bytes, and Key Vault takes {VALUE_BYTES}", text.len());
        return Err(Error::new(Kind::Corrupt, STORING, problem));
    }
    Ok(text)
}

/// The value of a copy: the password as it is.
pub(super) fn plain(password: &Password) -> Zeroizing<String> {
    Zeroizing::new(password.expose().to_owned())
}

/// The tags of a copy. CloudLAPS's names are its own.
pub(super) fn copy_tags(copy: &ConfirmedCopy) -> HashMap<String, String> {
    let mut tags = labels(&copy.tags);
    let ours = [
        ("version", copy.version.to_string()),
        ("lane", copy.lane.to_string()),
        ("state", "confirmed".to_owned()),
    ];
    tags.extend(ours.map(|(name, text)| (name.to_owned(), text)));
    tags
}

fn labels(Tags { user_name, device, device_name, serial_number }: &Tags) -> HashMap<String, String> {
    let labels = [
        ("UserName", user_name.clone()),
        ("AzureADDeviceID", device.to_string()),
        ("DeviceName", device_name.clone()),
        ("SerialNumber", serial_number.clone()),
    ];
    let short = |text: String| text.chars().take(TAG_CHARS).collect();
    labels.map(|(name, text)| (name.to_owned(), short(text))).into()
}

/// The password in a value, if it is this version's. Denied if it was made for another lane.
pub(super) fn open(value: &str, lane: LaneId, version: VersionId) -> Result<Option<Password>, Error> {
    // What serde complains about would quote the value.
    let read: Read = serde_json::from_str(value).map_err(|_| {
        Error::new(Kind::Corrupt, READING, format!("the value of version {version} is not one of Keyturn"))
    })?;
    let Read { version: of, lane: made_for, password: mut text } = read;
    if of != version {
        text.zeroize();
        return Ok(None);
    }
    if made_for != lane {
        text.zeroize();
        return Err(Error::new(
            Kind::Denied,
            READING,
            format!("version {version} was made for another lane"),
        ));
    }
    Ok(Some(Password::new(text)))
}
