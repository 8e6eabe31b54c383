//! How alarms leave the house.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::{Deserialize, Serialize};

/// How alarms leave the house.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Alarms {
    /// Receivers. They stand after this section, like this:
    ///
    /// ```text
    ///     [[alarms.webhook]]
    ///     name = "on-call"                 # a-z 0-9 -
    ///     url = "https://alerts.example.org/keyturn"   # https; plain http to this machine only
    ///     secret_file = "keys/webhook-on-call.key"     # whsec_ and base64 of 24 to 64 bytes, for the notifier alone
    ///     kinds = ["clone", "rolled_back"] # all if not given: second_lane, clone, unknown_current, rolled_back,
    ///                                      # clock_reset, held
    /// ```
    #[config(default = [])]
    pub webhook: Vec<WebhookEntry>,
    /// How long one delivery may take.
    #[config(default = "10s")]
    pub timeout: Span,
    /// The delay before a second attempt; it doubles with each further one, and half of it is random.
    #[config(default = "5s")]
    pub first_delay: Span,
    /// The longest delay between attempts, at most 1h.
    #[config(default = "10m")]
    pub max_delay: Span,
    /// An alarm that could not be delivered for this long goes to the dead letters.
    #[config(default = "3d")]
    pub give_up: Span,
    /// The proxy on the way to receivers that are reached over TLS. Those of the environment are never used.
    pub proxy: Option<String>,
    /// PEM file of the certificates that receivers' must chain to, instead of those that the system trusts. Read when
    /// a process starts.
    pub ca: Option<PathBuf>,
}

/// A receiver of alarms.
#[derive(Deserialize, Serialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct WebhookEntry {
    /// Its name: 1 to 32 characters of a-z 0-9 - .
    pub name: String,
    /// Its address, which is not printed: see below.
    #[serde(skip_serializing)]
    pub url: String,
    /// The file of the secrets that deliveries are signed with.
    pub secret_file: PathBuf,
    /// Which alarms it is sent; all if not given.
    pub kinds: Option<Vec<String>>,
}

/// Without the address: what stands in its path may be all it takes to write to the receiver.
impl std::fmt::Debug for WebhookEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookEntry")
            .field("name", &self.name)
            .field("secret_file", &self.secret_file)
            .field("kinds", &self.kinds)
            .finish_non_exhaustive()
    }
}
