//! What devices sign: requests, reports and events.
//!
//! Unknown members are ignored, so that a newer agent can speak to an older server. Missing members that have a
//! default may be left out; everything else is required.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ids::{AccountId, DeviceId, InstallId, MessageMark, VersionId};
use keyturn_domain::label::Label;
use keyturn_domain::lane::{About, Hints};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::nonce::Nonce;

/// The version of the claims this release writes and reads.
pub const VERSION: u8 = 1;

/// The name of a deployment, the audience of its messages: 1 to 64 characters of `a-z 0-9 - .`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deployment(String);

/// A text that is not a deployment's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("a deployment's name is 1 to 64 characters of a-z 0-9 - .")]
pub struct NotADeployment;

impl Deployment {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Deployment {
    type Err = NotADeployment;

    fn from_str(text: &str) -> Result<Self, NotADeployment> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(text.to_owned())).ok_or(NotADeployment)
    }
}

impl fmt::Display for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Deployment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Deployment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The number 1, and no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version1;

impl Serialize for Version1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(D::Error::custom(format!("version {other} is not supported, only 1"))),
        }
    }
}

/// What every message of a device says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Common {
    /// 1.
    pub v: Version1,
    /// The deployment it is meant for.
    pub aud: Deployment,
    /// The sender's mark, 128 random bits. The same mark on other bytes is refused.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::MessageMark"))]
    pub jti: MessageMark,
    /// Seconds since the epoch by the device's clock. Information only.
    pub iat: u64,
    /// From this deployment, at most 300 s old when the message comes in.
    pub nonce: Nonce,
    /// The device.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::DeviceId"))]
    pub device_id: DeviceId,
    /// The device about itself. Shown, never used as a key.
    #[serde(default)]
    pub labels: Labels,
    /// The managed account.
    pub account: Account,
    /// The installation of the agent.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::InstallId"))]
    pub install_id: InstallId,
}

/// A device about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Labels {
    /// Serial number.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub serial: Label,
    /// Host name.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub host: Label,
    /// Operating system and version.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub os: Label,
    /// Whether it is a virtual machine.
    #[serde(default)]
    pub vm: bool,
}

/// The managed account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Account {
    /// As the operating system numbers it.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::AccountId"))]
    pub id: AccountId,
    /// Its name, a label.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub name: Label,
}

/// What the device knows of its password. Version ids only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct State {
    /// The version in use; null when the device does not know.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::VersionId>"))]
    pub cur: Option<VersionId>,
    /// Versions that may be in use.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Versions"))]
    pub in_doubt: BTreeSet<VersionId>,
    /// Versions the operating system refused.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Versions"))]
    pub refused: BTreeSet<VersionId>,
    /// Seconds since the password was last set, as the operating system tells it.
    #[serde(default)]
    pub password_age: Option<u64>,
    /// Whether the managed account does not exist.
    #[serde(default)]
    pub account_missing: bool,
}

/// The most versions a state may name in one list.
pub const MAX_LISTED: usize = 64;

/// A request for a new password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Request {
    /// What every message says.
    #[serde(flatten)]
    pub common: Common,
    /// `rotate`.
    pub op: RequestOp,
    /// The key to seal the result to, made for this request and kept in memory only.
    pub epk: EphemeralKey,
    /// How long the device waits for the result, in seconds.
    pub wait_s: u32,
    /// What the device knows of its password.
    pub state: State,
    /// What the device demands of passwords.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Hints"))]
    pub policy: Hints,
    /// Why it asks, in a few words. Makes nothing due by itself.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub reason: Label,
}

impl Request {
    /// How long the device waits.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_s.into())
    }
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RequestOp {
    /// A password rotation.
    Rotate,
}

/// A report of what became of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// What every message says.
    #[serde(flatten)]
    pub common: Common,
    /// What happened.
    pub op: ReportOp,
    /// What the device knows of its password now. This is the report; `op` only names it.
    pub state: State,
    /// What the device demands of passwords.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Hints"))]
    pub policy: Hints,
}

/// The operation of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ReportOp {
    /// A version was set and proved by logging on.
    Applied,
    /// The operating system refused a version.
    Refused,
}

/// Something that happened on the device, for reporting (CloudLAPS `SendClientEvent`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// What every message says.
    #[serde(flatten)]
    pub common: Common,
    /// `event`.
    pub op: EventOp,
    /// CloudLAPS's word for the outcome: `PasswordRotated`, `Failed`, and so on.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub result: Label,
    /// In the device's words.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Label"))]
    pub message: Label,
}

/// The operation of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EventOp {
    /// An event.
    Event,
}

impl Common {
    /// What the device says about itself, for the ledger.
    pub fn about(&self) -> About {
        About {
            serial: self.labels.serial.clone(),
            host: self.labels.host.clone(),
            os: self.labels.os.clone(),
            account_name: self.account.name.clone(),
        }
    }
}

/// An X25519 public key (RFC 7748) as a JWK (RFC 8037), and nothing but that: a JWK with a private part is
/// refused, and so is a point of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EphemeralKey([u8; 32]);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwk<'a> {
    crv: std::borrow::Cow<'a, str>,
    kty: std::borrow::Cow<'a, str>,
    x: std::borrow::Cow<'a, str>,
}

/// The u-coordinates of the points of small order on Curve25519, little endian: against them, anybody could
/// compute the shared secret (RFC 7748 section 6.1; list at cr.yp.to/ecdh.html).
const SMALL_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [
        0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [
        0xee, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
];

impl EphemeralKey {
    /// The key with this u-coordinate, unless it is of small order.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let mut canonical = bytes;
        if let Some(top) = canonical.last_mut() {
            *top &= 0x7f;
        }
        (!SMALL_ORDER.contains(&canonical)).then_some(Self(bytes))
    }

    /// The u-coordinate, little endian.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The RFC 7638 thumbprint of the JWK: SHA-256 over its required members in order, base64url.
    pub fn thumbprint(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0);
        let canonical = format!(r#"{{"crv":"X25519","kty":"OKP","x":"{x}"}}"#);
        URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
    }
}

impl fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EphemeralKey({})", self.thumbprint())
    }
}

impl Serialize for EphemeralKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let x = URL_SAFE_NO_PAD.encode(self.0).into();
        Jwk { crv: "X25519".into(), kty: "OKP".into(), x }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EphemeralKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let jwk = Jwk::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(jwk.x.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let known = jwk.kty == "OKP" && jwk.crv == "X25519";
        bytes
            .filter(|_| known)
            .and_then(Self::from_bytes)
            .ok_or_else(|| D::Error::custom("epk must be an X25519 public key of large order as a JWK"))
    }
}
