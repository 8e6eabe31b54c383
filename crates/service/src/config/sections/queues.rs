//! The section `queues`, as written.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;

/// Which engine each hop of the pipeline has: "state" for the one that has everything else, or "azure-storage".
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Queues {
    /// From the ingress to the validator.
    #[config(default = "state")]
    pub requests: String,
    /// From the validator to the rotator.
    #[config(default = "state")]
    pub findings: String,
    /// From the rotator to the notifier.
    #[config(default = "state")]
    pub outcomes: String,
    /// From the rotator to the webhooks.
    #[config(default = "state")]
    pub alarms: String,
    /// Azure Storage Queues, for the hops that are there.
    #[config(nested)]
    pub azure_storage: AzureStorage,
}

/// Azure Storage Queues.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct AzureStorage {
    /// The account's address for queues, like `https://ACCOUNT.queue.core.windows.net`.
    pub endpoint: Option<String>,
    /// What the names of the queues begin with: 1 to 40 characters of a-z 0-9 - .
    #[config(default = "keyturn-")]
    pub prefix: String,
    /// How requests are authorised: "identity", as azure.credential says; "key", by the account's key; or "signature",
    /// by a shared access signature.
    #[config(default = "identity")]
    pub access: String,
    /// The account's name, for access by its key.
    pub account: Option<String>,
    /// The file with the account's key, or with the signature as it stands behind the question mark.
    pub secret_file: Option<PathBuf>,
    /// How often an empty queue is looked at. Each look is a transaction that the service charges for.
    #[config(default = "500ms")]
    pub poll: Span,
    /// Requests under way at once for one batch.
    #[config(default = 16)]
    pub parallel: usize,
    /// The version of the service's API, for emulators that know older ones only.
    pub api_version: Option<String>,
}
