//! Names of secrets, and the vault's own words for where a version is.

use std::fmt;

use keyturn_domain::ids::DeviceId;

use crate::transport::HttpsUrl;

/// The secret that has all versions of a device. A GUID in lower case keeps to Key Vault's alphabet,
/// `^[0-9a-zA-Z-]{1,127}$`.
pub(super) fn versions_of(device: DeviceId) -> String {
    format!("lap-{device}-next")
}

/// The secret whose current version is what people with plain tools look at.
pub(super) fn copy_of(device: DeviceId) -> String {
    format!("lap-{device}")
}

/// Where a version is: the id that Key Vault gives it, `https://<vault>/secrets/<name>/<32 hexadecimal digits>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) vault: HttpsUrl,
    pub(super) name: String,
    pub(super) id: String,
}

impl Place {
    /// Reads such an id, which names a version of a device and nothing else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (vault, rest) = text.split_once("/secrets/")?;
        let (name, id) = rest.split_once('/')?;
        let device = name.strip_prefix("lap-")?.strip_suffix("-next")?;
        device.parse::<DeviceId>().ok()?;
        is_id(id).then_some(())?;
        Some(Self { vault: vault.parse().ok()?, name: name.to_owned(), id: id.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/secrets/{}/{}", self.vault, self.name, self.id)
    }
}

/// Whether this is what Key Vault calls a version: it goes into a path.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::Place;

    const NAME: &str = "lap-3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11-next";
    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_place_is_read_as_written() {
        let text = format!("https://one.vault.azure.net/secrets/{NAME}/{ID}");
        assert_eq!(Place::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn other_words_name_nothing() {
        for wrong in [
            "7".to_owned(),
            format!("http://one.vault.azure.net/secrets/{NAME}/{ID}"),
            format!("https://one.vault.azure.net/secrets/{NAME}/"),
            format!("https://one.vault.azure.net/secrets/{NAME}/{ID}?x=1"),
            format!("https://one.vault.azure.net/secrets/{NAME}/../{ID}"),
            format!("https://one.vault.azure.net/x/secrets/{NAME}/{ID}"),
            format!("https://one.vault.azure.net/secrets/signing-key/{ID}"),
            format!("https://one.vault.azure.net/keys/{NAME}/{ID}"),
        ] {
            assert_eq!(Place::parse(&wrong), None, "{wrong}");
        }
    }
}
