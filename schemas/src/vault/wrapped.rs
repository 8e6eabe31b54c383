//! Master keys as a file holds them where a key of another service wraps them: useless without that service.
//!
//! What is wrapped is the 32 bytes of a master key. Anybody can wrap, since that takes a public key; so the name of the
//! key ([`MasterKey::id`](super::MasterKey::id)) stands beside it, and a key that was unwrapped has to have that name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::keys::KeyId;
use crate::mac::{self, RingError};

/// The word for this kind in key files.
pub const WRAPPED: &str = "vault-wrapped";

/// The one way of wrapping: RSA-OAEP with SHA-256 and MGF1 with SHA-256 (RFC 7518, section 4.3).
const ALGORITHM: &str = "RSA-OAEP-256";

/// What comes out of a key of 2048, 3072 or 4096 bits.
const SIZES: [usize; 3] = [256, 384, 512];

/// A master key, wrapped. No secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Its number within the ring.
    pub id: mac::KeyId,
    /// The name of the master key.
    pub name: KeyId,
    /// Which version of which key wrapped it, in that service's words; at most 256 characters.
    pub wrapped_by: String,
    /// The wrapped bytes: 256, 384 or 512.
    pub wrapped: Vec<u8>,
    /// When it was made, if that was noted.
    pub added: Option<UnixMillis>,
    /// When another key took its place at the front. A second key without it has not sealed yet.
    pub sealed_until: Option<UnixMillis>,
}

/// Wrapped master keys as they lie in a file, the one that seals first.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "WrappedKeysFile"))]
pub(crate) struct WrappedFile {
    kind: String,
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 2)))]
    keys: Vec<FiledWrapped>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct FiledWrapped {
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    id: u8,
    /// The name of the master key: 8 bytes, in hexadecimal.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^[0-9a-f]{16}$")))]
    name: String,
    /// Which version of which key wrapped it.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 256)))]
    wrapped_by: String,
    /// `RSA-OAEP-256`.
    algorithm: String,
    /// The wrapped bytes, base64url without padding.
    wrapped: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::UnixMillis>"))]
    added_ms: Option<UnixMillis>,
    /// When another key took its place at the front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::UnixMillis>"))]
    sealed_until_ms: Option<UnixMillis>,
}

/// Writes such a file, the sealing key first.
pub fn format_wrapped(keys: &[WrappedKey]) -> String {
    let filed = |key: &WrappedKey| FiledWrapped {
        id: key.id.0,
        name: format!("{:016x}", u64::from_be_bytes(key.name)),
        wrapped_by: key.wrapped_by.clone(),
        algorithm: ALGORITHM.to_owned(),
        wrapped: URL_SAFE_NO_PAD.encode(&key.wrapped),
        added_ms: key.added,
        sealed_until_ms: key.sealed_until,
    };
    let file = WrappedFile { kind: WRAPPED.to_owned(), keys: keys.iter().map(filed).collect() };
    serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
}

/// Reads such a file, the sealing key first.
pub fn parse_wrapped(text: &str) -> Result<Vec<WrappedKey>, RingError> {
    // A file of plain keys may have been given by mistake: only where reading it stopped is told.
    let stopped = |error: serde_json::Error| {
        RingError::Syntax(format!("line {}, column {}", error.line(), error.column()))
    };
    let file: WrappedFile = serde_json::from_str(text).map_err(stopped)?;
    if file.kind != WRAPPED {
        return Err(RingError::Kind { found: file.kind, wanted: WRAPPED });
    }
    let mut ids: Vec<u8> = file.keys.iter().map(|key| key.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if !(1..=2).contains(&file.keys.len()) || ids.len() != file.keys.len() || ids.contains(&0) {
        return Err(RingError::Count);
    }
    file.keys.into_iter().map(read).collect()
}

fn read(key: FiledWrapped) -> Result<WrappedKey, RingError> {
    let wrong = || RingError::Wrapped(key.id);
    let is_hexadecimal = key.name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let name = u64::from_str_radix(&key.name, 16).ok().filter(|_| is_hexadecimal && key.name.len() == 16);
    let wrapped = URL_SAFE_NO_PAD.decode(&key.wrapped).ok().filter(|bytes| SIZES.contains(&bytes.len()));
    let by = (1..=256).contains(&key.wrapped_by.len()) && key.algorithm == ALGORITHM;
    match (name, wrapped) {
        (Some(name), Some(wrapped)) if by => Ok(WrappedKey {
            id: mac::KeyId(key.id),
            name: name.to_be_bytes(),
            wrapped_by: key.wrapped_by,
            wrapped,
            added: key.added_ms,
            sealed_until: key.sealed_until_ms,
        }),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8) -> WrappedKey {
        WrappedKey {
            id: mac::KeyId(id),
            name: [0, 1, 2, 3, 4, 5, 6, id],
            wrapped_by: "https://one.vault.azure.net/keys/keyturn/0123".to_owned(),
            wrapped: vec![id; 256],
            added: Some(UnixMillis(1)),
            sealed_until: (id > 1).then_some(UnixMillis(2)),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let keys = [key(1), key(2)];
        assert_eq!(parse_wrapped(&format_wrapped(&keys)).unwrap(), keys);
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let good = format_wrapped(&[key(1)]);
        for (from, to) in [
            ("RSA-OAEP-256", "RSA1_5"),
            ("0001020304050601", "000102030405060"),
            ("0001020304050601", "000102030405060G"),
            ("AQEB", ""),
            ("\"id\": 1", "\"id\": 0"),
            ("\"id\": 1", "\"secret\": \"x\", \"id\": 1"),
            ("vault-wrapped", "vault"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            assert!(parse_wrapped(&text).is_err(), "{from} -> {to}");
        }
        assert!(matches!(parse_wrapped(&format_wrapped(&[])), Err(RingError::Count)));
        assert!(matches!(parse_wrapped(&format_wrapped(&[key(1), key(1)])), Err(RingError::Count)));
    }
}
