//! `alternativeSecurityIds` of type 2: how the directory lists a device's registered key.
//!
//! The `key` member is base64 over UTF-16LE of `X509:<SHA1-TP-PUBKEY>`, the 40 hexadecimal digits of the
//! certificate's SHA-1 thumbprint, and the base64 SHA-256 of its `RSAPublicKey` DER (\[MS-DVRE\] 2.3.3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_domain::ids::{KeyHash, Thumbprint};

const PREFIX: &str = "X509:<SHA1-TP-PUBKEY>";

/// The `type` of entries that list a device registration key.
pub const DEVICE_KEY: i64 = 2;

/// A registered key: the thumbprint and the key hash of one and the same entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisteredKey {
    /// SHA-1 of the certificate.
    pub thumbprint: Thumbprint,
    /// SHA-256 of the `RSAPublicKey` DER.
    pub key_hash: KeyHash,
}

impl RegisteredKey {
    /// Decodes the `key` of an entry. None if it is anything but exactly what is described above.
    pub fn decode(key: &str) -> Option<Self> {
        let bytes = STANDARD.decode(key).ok()?;
        let units = bytes.chunks_exact(2).map(|pair| pair.try_into().map(u16::from_le_bytes));
        let units: Vec<u16> =
            units.collect::<Result<_, _>>().ok().filter(|_| bytes.len().is_multiple_of(2))?;
        let text = String::from_utf16(&units).ok()?;
        let (thumbprint, hash) = text.strip_prefix(PREFIX)?.split_at_checked(40)?;
        Some(Self {
            thumbprint: Thumbprint::from_hex(thumbprint)?,
            key_hash: KeyHash::from_slice(&STANDARD.decode(hash).ok()?)?,
        })
    }

    /// The `key` of an entry that lists this key.
    pub fn encode(&self) -> String {
        let mut text = PREFIX.to_owned();
        text.extend(self.thumbprint.as_bytes().iter().map(|byte| format!("{byte:02X}")));
        STANDARD.encode_string(self.key_hash.as_bytes(), &mut text);
        STANDARD.encode(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> String {
        STANDARD.encode(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
    }

    #[test]
    fn the_public_sample_is_read_and_written() {
        let sample = "X509:<SHA1-TP-PUBKEY>1BBF43F156D6544D87BD98580273C75F0344DA56zw4/fMMN7MbkH3DB7XrbDgnGchQ/wkRHkkb32d2M5Nk=";
        let key = RegisteredKey::decode(&entry(sample)).unwrap();
        assert_eq!(key.encode(), entry(sample));
    }

    #[test]
    fn anything_else_is_no_key() {
        let good = "1BBF43F156D6544D87BD98580273C75F0344DA56zw4/fMMN7MbkH3DB7XrbDgnGchQ/wkRHkkb32d2M5Nk=";
        for bad in [
            format!("X509:<SHA1-TP-PUBKEY>{}", &good[..39]),
            format!("X509:<SHA1-TP-PUBKEY>{good}="),
            format!("X509:<SHA1-TP-PUBKEY>+{good}"),
            format!("x509:<sha1-tp-pubkey>{good}"),
            good.to_owned(),
            String::new(),
        ] {
            assert_eq!(RegisteredKey::decode(&entry(&bad)), None, "{bad}");
        }
        assert_eq!(RegisteredKey::decode("AAA="), None, "odd number of bytes");
        assert_eq!(RegisteredKey::decode("%"), None);
    }
}
