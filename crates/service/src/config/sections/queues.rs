//! The section `queues`, as written.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// Which engine each hop of the pipeline has: "state" for the one that has everything else,
/// "azure-storage" or "service-bus".
#[derive(Config, Serialize, Clone, Debug)]
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
    /// Azure Service Bus, for the hops that are there.
    #[config(nested)]
    pub service_bus: ServiceBus,
}

/// Azure Storage Queues.
#[derive(Config, Serialize, Clone, Debug)]
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

/// Azure Service Bus. Its queues are made beforehand: docs/AZURE.md says how.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct ServiceBus {
    /// The namespace's address, like `sb://NAMESPACE.servicebus.windows.net`.
    pub endpoint: Option<String>,
    /// What the names of the queues begin with: up to 200 characters of a-z 0-9 - . _ / .
    #[config(default = "keyturn-")]
    pub prefix: String,
    /// How requests are authorised: "identity", as azure.credential says; or "key", by a shared access policy.
    #[config(default = "identity")]
    pub access: String,
    /// The policy's name, for access by its key.
    pub policy: Option<String>,
    /// The file with the policy's key.
    pub secret_file: Option<PathBuf>,
    /// The lock duration that the queues were made with: at least workers.lease, and 5m at most.
    #[config(default = "1m")]
    pub lock: Span,
    /// How long a look at a queue waits for a first message, since the service does not tell that there is none.
    #[config(default = "100ms")]
    pub wait: Span,
    /// How long it waits for one more after each.
    #[config(default = "5ms")]
    pub linger: Span,
    /// How often a queue is looked at from which nothing comes. The service sends what arrives by itself.
    #[config(default = "5s")]
    pub poll: Span,
    /// Requests under way at once for one batch.
    #[config(default = 16)]
    pub parallel: usize,
    /// How long before its end a token is replaced.
    #[config(default = "4m")]
    pub refresh: Span,
    /// Whether the queues require sessions (--enable-session true), so that the messages of one device are worked on one
    /// at a time, by one process at a time, in their order. It is said when a queue is made and cannot be changed.
    #[config(default = false)]
    pub sessions: bool,
    /// The most sessions that a process has of one queue, and so the most messages of it that it works on at once.
    #[config(default = 32)]
    pub sessions_held: usize,
    /// After how long without a message of its device a session is given back.
    #[config(default = "100ms")]
    pub session_idle: Span,
    /// Up to how many messages a depth is counted. Each hundred are a request, and come with their bodies.
    #[config(default = 200)]
    pub counted: u32,
    /// How often it is looked what the service gave up on by itself.
    #[config(default = "1m")]
    pub sweep: Span,
}
