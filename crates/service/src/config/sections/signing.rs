//! The section `[signing]`.

use confique::Config;
use serde::Serialize;

/// Where the key is that signs results.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Signing {
    /// Where `keyturn keys rotate signing` takes the next key from: "file", a new Ed25519 key in the key folder; or
    /// "key-vault", the newest version of a key in Azure Key Vault, which signs there by ES256. What signs now is in
    /// signing.key; one may change from either to the other at any time.
    #[config(default = "file")]
    pub engine: String,
    /// The key on P-256, `https://VAULT.vault.azure.net/keys/NAME`, without a version. It stays here until no version of it
    /// is in use any more.
    pub key: Option<String>,
    /// Answers that one process has signed at once for one batch of messages.
    #[config(default = 16)]
    pub parallel: usize,
    /// Let a host that is not Key Vault's say what this process asks tokens for.
    #[config(default = false)]
    pub danger_unverified_challenge: bool,
}
