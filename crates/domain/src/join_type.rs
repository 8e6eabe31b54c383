//! How devices are joined to the directory, and which of them may rotate.

/// How a device may be joined to the directory, by Graph's `trustType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinTypes {
    /// `AzureAd`: Entra joined.
    pub azure_ad: bool,
    /// `ServerAd`: hybrid joined.
    pub server_ad: bool,
    /// `Workplace`: registered by its user. Personal devices, refused unless asked for.
    pub workplace: bool,
}

impl Default for JoinTypes {
    fn default() -> Self {
        Self { azure_ad: true, server_ad: true, workplace: false }
    }
}

/// A word that is not a join type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("«{0}» is not a join type; the join types are AzureAd, ServerAd and Workplace")]
pub struct NotAJoinType(String);

impl JoinTypes {
    /// The join types in a list of words.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, NotAJoinType> {
        let mut allowed = Self { azure_ad: false, server_ad: false, workplace: false };
        for word in words {
            match word {
                "AzureAd" => allowed.azure_ad = true,
                "ServerAd" => allowed.server_ad = true,
                "Workplace" => allowed.workplace = true,
                other => return Err(NotAJoinType(other.to_owned())),
            }
        }
        Ok(allowed)
    }

    /// Whether a device with this `trustType` may rotate.
    pub fn allow(self, trust_type: Option<&str>) -> bool {
        match trust_type {
            Some("AzureAd") => self.azure_ad,
            Some("ServerAd") => self.server_ad,
            Some("Workplace") => self.workplace,
            _ => false,
        }
    }
}
