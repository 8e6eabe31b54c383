//! A key of Azure Key Vault by its address, and a client that asks that vault alone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions};
use keyturn_ports::{Error, Kind};

use crate::failure::{Failure, Refused, SetupError};
use crate::key_vault::{is_of_key_vault, is_version};
use crate::transport::{HttpsUrl, Reach};

/// What holds keys and no secrets.
const MANAGED_HSM: [&str; 3] =
    [".managedhsm.azure.net", ".managedhsm.azure.cn", ".managedhsm.usgovcloudapi.net"];

/// A key by its address, `https://<vault>/keys/<name>`; which of its versions is not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUrl {
    pub(crate) vault: HttpsUrl,
    pub(crate) name: String,
}

/// A text that is not such an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not an address like https://example.vault.azure.net/keys/keyturn, without a version")]
pub struct NotAKey(String);

impl FromStr for KeyUrl {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let wrong = || NotAKey(text.chars().take(128).collect());
        let (vault, name) = text.split_once("/keys/").ok_or_else(wrong)?;
        let named = (1..=127).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let vault = vault.parse().map_err(|_| wrong())?;
        named.then(|| Self { vault, name: name.to_owned() }).ok_or_else(wrong)
    }
}

impl KeyUrl {
    /// The vault, as the `az` command names it: the first label of its host.
    pub fn vault_name(&self) -> &str {
        let host = self.vault.host();
        host.split_once('.').map_or(host, |(name, _)| name)
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for KeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/keys/{}", self.vault, self.name)
    }
}

/// A key and who asks for it.
pub(crate) struct Handle {
    pub(crate) url: KeyUrl,
    pub(crate) client: KeyClient,
}

/// What a key is for: words for its settings and for the mend of what its vault refuses.
#[derive(Clone, Copy)]
pub(crate) struct Purpose {
    /// The setting that has its address.
    pub(crate) setting: &'static str,
    /// The setting that takes the challenge of any host.
    pub(crate) danger: &'static str,
    /// What happens while a version is disabled.
    pub(crate) disabled: &'static str,
    /// What kind of key it has to be.
    pub(crate) wanted: &'static str,
}

impl Handle {
    /// A client for this key. Nobody is asked anything yet.
    pub(crate) fn open(
        url: &KeyUrl,
        purpose: Purpose,
        danger_unverified_challenge: bool,
        reach: &Reach,
        credential: &Arc<dyn TokenCredential>,
    ) -> Result<Self, SetupError> {
        let wrong = |problem| SetupError::Service { setting: purpose.setting, problem };
        let verified =
            is_of_key_vault(&url.vault) || MANAGED_HSM.iter().any(|end| url.vault.host().ends_with(end));
        if !verified && !danger_unverified_challenge {
            return Err(wrong(format!(
                "{} is not a host of Azure Key Vault; {} = true trusts it to say what tokens are made for",
                url.vault, purpose.danger
            )));
        }
        let options = KeyClientOptions {
            client_options: reach.options(&url.vault)?,
            verify_challenge_resource: Some(verified),
            ..KeyClientOptions::default()
        };
        let client = KeyClient::new(&url.vault.to_string(), Arc::clone(credential), Some(options))
            .map_err(|_| wrong(format!("{url} is no address of a key")))?;
        Ok(Self { url: url.clone(), client })
    }

    /// The version in such an address, if it is one of this key's.
    pub(crate) fn version_of<'a>(&self, by: &'a str) -> Option<&'a str> {
        let version = by.strip_prefix(&self.url.to_string())?.strip_prefix('/')?;
        is_version(version).then_some(version)
    }

    /// An answer that is none of this key.
    pub(crate) fn strange(&self, action: &'static str) -> Error {
        Error::new(Kind::Corrupt, action, format!("{}: the answer is not one of this key", self.url))
    }

    /// A failure in words that an operator can act on.
    pub(crate) fn told(&self, failure: &Failure, purpose: Purpose, action: &'static str) -> Error {
        let mend = match failure {
            Failure::Refused(Refused { status: 403, code, .. }) => match code.as_deref() {
                Some("ForbiddenByFirewall" | "ForbiddenByConnection") => {
                    ": the vault's firewall does not let this machine in"
                }
                Some("KeyDisabled") => purpose.disabled,
                _ => ": this identity may not do that; see docs/AZURE.md for the roles that it needs",
            },
            Failure::Refused(Refused { status: 404, .. }) => {
                ": there is no such key or version; if it was deleted, `az keyvault key recover` brings it back"
            }
            Failure::Refused(Refused { status: 400, .. }) => purpose.wanted,
            _ => "",
        };
        Error::new(failure.during(action).kind(), action, format!("{}: {failure}{mend}", self.url))
    }
}

#[cfg(test)]
mod tests {
    use super::KeyUrl;

    #[test]
    fn a_key_is_named_without_a_version() {
        let text = "https://one.vault.azure.net/keys/keyturn-1";
        assert_eq!(text.parse::<KeyUrl>().unwrap().to_string(), text);
        for wrong in [
            "https://one.vault.azure.net/keys/keyturn/0123456789abcdef0123456789abcdef",
            "https://one.vault.azure.net/keys/",
            "https://one.vault.azure.net/keys/a_b",
            "https://one.vault.azure.net/secrets/a",
            "http://one.vault.azure.net/keys/a",
            "https://one.vault.azure.net/x/keys/a",
            "https://one.vault.azure.net/keys/a?x=1",
        ] {
            assert!(wrong.parse::<KeyUrl>().is_err(), "{wrong}");
        }
    }
}
