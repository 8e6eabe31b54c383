//! Keyed seals (HMAC-SHA256, RFC 2104) with key rings of at most two live keys.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The number of a key within its ring, 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("minimum" = 1)))]
pub struct KeyId(pub u8);

/// A MAC as it is written: the full 32 bytes, base64url.
pub(crate) type Mac = [u8; 32];

/// The keys of one kind: the first one seals, any of them is accepted. Two live at once during a change.
#[derive(Clone)]
pub struct KeyRing(Vec<(KeyId, hmac::Key)>);

/// A key ring file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Not the expected JSON.
    #[error("it is not a key ring: {0}")]
    Syntax(String),
    /// A ring of another kind.
    #[error("it holds keys for {found}, not for {wanted}")]
    Kind {
        /// Its kind.
        found: String,
        /// The kind asked for.
        wanted: &'static str,
    },
    /// None, or more than two, or a repeated id.
    #[error("it must hold one or two keys with different ids from 1 to 255")]
    Count,
    /// A key of the wrong size.
    #[error("key {0} is not base64url of 32 bytes")]
    Key(u8),
    /// A wrapped key that is not one.
    #[error("key {0} is not a master key wrapped by RSA-OAEP-256")]
    Wrapped(u8),
}

/// A key ring as it lies in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "KeyRingFile"))]
pub(crate) struct RingFile {
    kind: String,
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 2)))]
    keys: Vec<RingKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct RingKey {
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    id: u8,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Secret"))]
    secret: Zeroizing<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::UnixMillis>"))]
    added_ms: Option<UnixMillis>,
    /// When another key took its place at the front. A second key without it has not sealed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::UnixMillis>"))]
    sealed_until_ms: Option<UnixMillis>,
}

/// A key of a ring file, with what is noted about it.
#[derive(Clone, PartialEq, Eq)]
pub struct FiledKey {
    /// Its number.
    pub id: KeyId,
    /// The secret.
    pub secret: Zeroizing<[u8; 32]>,
    /// When it was made, if that was noted.
    pub added: Option<UnixMillis>,
    /// When another key took its place at the front. A second key without it has not sealed yet.
    pub sealed_until: Option<UnixMillis>,
}

impl fmt::Debug for FiledKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, added, sealed_until, secret: _ } = self;
        write!(f, "FiledKey({id:?}, added {added:?}, sealed until {sealed_until:?})")
    }
}

impl KeyRing {
    /// A ring of these secrets, the sealing one first.
    pub fn new(secrets: impl IntoIterator<Item = (KeyId, [u8; 32])>) -> Self {
        let key = |(id, secret): (KeyId, [u8; 32])| {
            (id, hmac::Key::new(hmac::HMAC_SHA256, Zeroizing::new(secret).as_slice()))
        };
        Self(secrets.into_iter().map(key).collect())
    }

    /// Reads a ring of this kind from its file's text.
    pub fn parse(kind: &'static str, text: &str) -> Result<Self, RingError> {
        Ok(Self::new(parse_secrets(kind, text)?.into_iter().map(|(id, secret)| (id, *secret))))
    }

    pub(crate) fn seal(&self, parts: &[&[u8]]) -> Option<(KeyId, Mac)> {
        let (id, key) = self.0.first()?;
        Some((*id, tag(key, parts)))
    }

    /// Compares in constant time.
    pub(crate) fn holds(&self, id: KeyId, parts: &[&[u8]], mac: &[u8]) -> bool {
        let Some((_, key)) = self.0.iter().find(|(known, _)| *known == id) else { return false };
        let expected = tag(key, parts);
        let Some(expected) = expected.get(..mac.len()).filter(|part| part.len() >= 16) else { return false };
        aws_lc_rs::constant_time::verify_slices_are_equal(expected, mac).is_ok()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

/// Writes a ring file with nothing noted about its keys.
pub fn format_secrets(kind: &str, secrets: &[NumberedSecret]) -> Zeroizing<String> {
    let key = |(id, secret): &NumberedSecret| FiledKey {
        id: *id,
        secret: secret.clone(),
        added: None,
        sealed_until: None,
    };
    format_keys(kind, &secrets.iter().map(key).collect::<Vec<_>>())
}

/// Writes a ring file, the sealing key first.
pub fn format_keys(kind: &str, keys: &[FiledKey]) -> Zeroizing<String> {
    let key = |key: &FiledKey| RingKey {
        id: key.id.0,
        secret: Zeroizing::new(URL_SAFE_NO_PAD.encode(key.secret.as_slice())),
        added_ms: key.added,
        sealed_until_ms: key.sealed_until,
    };
    let file = RingFile { kind: kind.to_owned(), keys: keys.iter().map(key).collect() };
    Zeroizing::new(serde_json::to_string_pretty(&file).unwrap_or_default() + "\n")
}

/// A key's number and its secret.
pub type NumberedSecret = (KeyId, Zeroizing<[u8; 32]>);

/// Reads the secrets of a ring file of this kind, the sealing one first.
pub fn parse_secrets(kind: &'static str, text: &str) -> Result<Vec<NumberedSecret>, RingError> {
    Ok(parse_keys(kind, text)?.into_iter().map(|key| (key.id, key.secret)).collect())
}

/// Reads the keys of a ring file of this kind with what is noted about them, the sealing one first.
pub fn parse_keys(kind: &'static str, text: &str) -> Result<Vec<FiledKey>, RingError> {
    // The parser's own message may quote the text, and with it a key: say only where it stopped.
    let file: RingFile =
        serde_json::from_str(text).map_err(|error| RingError::Syntax(stopped(text, &error)))?;
    if file.kind != kind {
        return Err(RingError::Kind { found: file.kind, wanted: kind });
    }
    let mut ids: Vec<u8> = file.keys.iter().map(|key| key.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if !(1..=2).contains(&file.keys.len()) || ids.len() != file.keys.len() || ids.contains(&0) {
        return Err(RingError::Count);
    }
    let filed = |key: &RingKey| {
        Ok(FiledKey {
            id: KeyId(key.id),
            secret: secret(key)?,
            added: key.added_ms,
            sealed_until: key.sealed_until_ms,
        })
    };
    file.keys.iter().map(filed).collect()
}

/// Where the parser stopped, and why, without what stands there.
fn stopped(text: &str, error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    if text.trim().is_empty() {
        return "the file is empty".to_owned();
    }
    let why = match error.classify() {
        Category::Eof => "it ends too early",
        Category::Data => "something stands there that does not belong there, or is missing",
        Category::Syntax | Category::Io => "it is no JSON from there on",
    };
    format!("{why} (line {}, column {})", error.line(), error.column())
}

fn secret(key: &RingKey) -> Result<Zeroizing<[u8; 32]>, RingError> {
    let bytes =
        Zeroizing::new(URL_SAFE_NO_PAD.decode(key.secret.as_bytes()).map_err(|_| RingError::Key(key.id))?);
    bytes.as_slice().try_into().map(Zeroizing::new).map_err(|_| RingError::Key(key.id))
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> Mac {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let mut mac = [0; 32];
    for (out, byte) in mac.iter_mut().zip(context.sign().as_ref()) {
        *out = *byte;
    }
    mac
}

/// Serialises a MAC as base64url.
pub(crate) mod mac_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(mac: &super::Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(mac))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<super::Mac, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("a MAC is 32 bytes"))
    }
}

/// Declares the ring of one kind, so that a ring cannot stand where another belongs.
macro_rules! ring {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(crate::mac::KeyRing);

        impl $name {
            /// The word for this kind in key files.
            pub const KIND: &str = $kind;

            /// Wraps a ring of this kind.
            pub fn new(ring: crate::mac::KeyRing) -> Self {
                Self(ring)
            }

            /// Reads the ring from its file's text.
            pub fn parse(text: &str) -> Result<Self, crate::mac::RingError> {
                crate::mac::KeyRing::parse(Self::KIND, text).map(Self)
            }
        }
    };
}
pub(crate) use ring;

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn parse(keys: &str) -> Result<KeyRing, RingError> {
        KeyRing::parse("stamp", &format!(r#"{{"kind":"stamp","keys":[{keys}]}}"#))
    }

    fn key(id: u32) -> String {
        format!(r#"{{"id":{id},"secret":"{SECRET}"}}"#)
    }

    #[test]
    fn a_ring_file_holds_one_or_two_keys() {
        assert!(parse(&key(1)).is_ok() && parse(&format!("{},{}", key(255), key(1))).is_ok());
        let both = |first, second| format!("{},{}", key(first), key(second));
        let counts = [String::new(), key(0), both(1, 1), format!("{},{}", both(1, 2), key(3))];
        for keys in counts {
            assert!(matches!(parse(&keys), Err(RingError::Count)), "{keys}");
        }
        assert!(matches!(parse(&key(256)), Err(RingError::Syntax(_))));
    }

    #[test]
    fn a_ring_file_is_of_its_kind_and_form() {
        let text = format!(r#"{{"kind":"nonce","keys":[{}]}}"#, key(1));
        assert!(matches!(KeyRing::parse("stamp", &text), Err(RingError::Kind { .. })));
        for secret in ["", "AAAA", &format!("{SECRET}="), &format!("{}B", &SECRET[1..])] {
            let keys = format!(r#"{{"id":1,"secret":"{secret}"}}"#);
            assert!(matches!(parse(&keys), Err(RingError::Key(1))), "{secret}");
        }
        let more = format!(r#"{{"id":1,"secret":"{SECRET}","more":1}}"#);
        assert!(matches!(parse(&more), Err(RingError::Syntax(_))));
    }

    #[test]
    fn errors_and_debug_texts_keep_the_secret() {
        let error = parse(&format!(r#"{{"id":"{SECRET}","secret":1}}"#)).unwrap_err();
        assert!(!error.to_string().contains("AAAA"), "{error}");
        assert_eq!(format!("{:?}", parse(&key(1)).unwrap()), "[KeyId(1)]");
    }

    #[test]
    fn what_is_written_is_read() {
        let secrets = [(KeyId(2), Zeroizing::new([2; 32])), (KeyId(1), Zeroizing::new([1; 32]))];
        assert_eq!(parse_secrets("nonce", &format_secrets("nonce", &secrets)).unwrap(), secrets);
        let noted = FiledKey {
            id: KeyId(3),
            secret: Zeroizing::new([3; 32]),
            added: Some(UnixMillis(1)),
            sealed_until: Some(UnixMillis(2)),
        };
        let text = format_keys("nonce", std::slice::from_ref(&noted));
        assert_eq!(parse_keys("nonce", &text).unwrap(), [noted]);
    }

    #[test]
    fn short_seals_do_not_hold() {
        let ring = KeyRing::new([(KeyId(1), [1; 32])]);
        let (id, mac) = ring.seal(&[b"text"]).unwrap();
        let lengths: Vec<usize> =
            (0..=32).filter(|length| ring.holds(id, &[b"text"], &mac[..*length])).collect();
        assert_eq!(lengths, (16..=32).collect::<Vec<_>>());
        let long = [mac.as_slice(), &[0]].concat();
        assert!(!ring.holds(id, &[b"text"], &long) && !ring.holds(KeyId(2), &[b"text"], &mac));
        assert!(KeyRing::new([]).seal(&[]).is_none());
    }
}
