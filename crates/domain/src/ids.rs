//! Identifiers. Each is a type of its own, so that one cannot stand where another belongs.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::entropy::Entropy;

/// A text that is not the identifier it was read as.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("not a {kind}: expected {expected}")]
pub struct Malformed {
    kind: &'static str,
    expected: &'static str,
}

/// Declares identifiers of a fixed number of bytes, written as unpadded base64url (RFC 4648 section 5).
macro_rules! byte_ids {
    ($($(#[$doc:meta])* $name:ident, $len:literal, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The identifier in `bytes`, if there are exactly as many as it has.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| Self::from_slice(&bytes)).ok_or(Malformed {
                    kind: $kind,
                    expected: concat!("base64url without padding of ", $len, " bytes"),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

byte_ids! {
    /// A signed message: SHA-256 of its compact JWS, byte for byte as sent.
    RequestId, 32, "request id";
    /// A password version: 128 random bits, never a counter.
    VersionId, 16, "version id";
    /// A lane: the first 128 bits of a hash over its key (see [`crate::lane::LaneKey`]).
    LaneId, 16, "lane id";
    /// SHA-256 of the `RSAPublicKey` DER of a device key, as the directory lists it.
    KeyHash, 32, "public-key hash";
    /// SHA-1 of a certificate's DER, as the directory lists it.
    Thumbprint, 20, "certificate thumbprint";
    /// An installation of the agent: SHA-256 over its random value on disk and the SMBIOS UUID.
    InstallId, 32, "install id";
    /// The sender's own mark on a message, unique per key.
    MessageMark, 16, "jti";
    /// One audit row or one outbox message, for merging repeats.
    EventId, 16, "event id";
}

impl RequestId {
    /// The identifier of the message with these exact bytes.
    pub fn of(jws: &str) -> Self {
        Self(Sha256::digest(jws.as_bytes()).into())
    }
}

impl VersionId {
    /// A fresh version id.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        Self(entropy.bytes())
    }
}

impl Thumbprint {
    /// Reads 40 hexadecimal digits of either case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 20];
        if text.len() != 40 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        // `from_str_radix` takes a leading plus sign; a thumbprint has none.
        text.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(Self(bytes))
    }
}

/// Declares identifiers that are GUIDs.
macro_rules! guid_ids {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes, in the order in which they are printed.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes in the order in which they are printed.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Reads a GUID of either case, as directories and people write it; the strict form is [`FromStr`].
            pub fn parse_any_case(text: &str) -> Result<Self, Malformed> {
                text.to_ascii_lowercase().parse()
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                guid_bytes(text).map(Self).ok_or(Malformed {
                    kind: $kind,
                    expected: "a GUID in lower case with hyphens, like 3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11",
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (at, byte) in self.0.iter().enumerate() {
                    if matches!(at, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

guid_ids! {
    /// A device in the directory: the Entra `deviceId` GUID. Its one text form is lower case with hyphens, which
    /// makes it safe in a vault name and in a URL.
    DeviceId, "device id";
    /// A group in the directory: the object id of an Entra group.
    GroupId, "group id";
    /// An object of the directory, whatever it is: its own id, by which a device that was deleted is told.
    ObjectId, "object id";
}

fn guid_bytes(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut digits = text.bytes().enumerate().filter_map(|(at, byte)| match (at, byte) {
        (8 | 13 | 18 | 23, b'-') => None,
        (8 | 13 | 18 | 23, _) => Some(None),
        (_, b'0'..=b'9') => Some(Some(byte - b'0')),
        (_, b'a'..=b'f') => Some(Some(byte - b'a' + 10)),
        _ => Some(None),
    });
    if text.len() != 36 {
        return None;
    }
    for byte in &mut bytes {
        let (high, low) = (digits.next().flatten(), digits.next().flatten());
        *byte = high.zip(low).map(|(high, low)| high << 4 | low)?;
    }
    Some(bytes)
}

/// An account as its operating system numbers it: a Windows SID, a Linux uid, a macOS GeneratedUID. 1 to 128
/// characters of `A-Z a-z 0-9 - . _`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AccountId(String);

impl AccountId {
    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Malformed { kind: "account id", expected: "1 to 128 characters of A-Z a-z 0-9 - . _" })
        }
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
