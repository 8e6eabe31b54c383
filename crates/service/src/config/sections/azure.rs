//! The sections of what is looked up or kept in Azure, as written.

#![expect(unused_qualifications, reason = "the derive macro of the configuration library writes them")]

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

use super::logs::AzureLogs;

/// Where devices are looked up.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Directory {
    /// "embedded", what `keyturn device add` and `device import` put into the database; or "graph", Microsoft Graph.
    #[config(default = "embedded")]
    pub engine: String,
    /// Where Microsoft Graph is; national clouds have their own.
    #[config(default = "https://graph.microsoft.com")]
    pub url: String,
    /// How long Graph's answer about a device is good. A device that was disabled may rotate for so long.
    #[config(default = "15s")]
    pub keep: Span,
    /// The same, that there is no such device.
    #[config(default = "5s")]
    pub keep_unknown: Span,
    /// How often one answer is given again.
    #[config(default = 8)]
    pub keep_uses: u32,
    /// Devices whose answers are kept.
    #[config(default = 20000)]
    pub keep_entries: usize,
    /// How often it is read what changed in Graph, by one process of the deployment; 0s for never. `keyturn fleet` and
    /// `device list` list what was read.
    #[config(default = "3m")]
    pub delta_every: Span,
    /// For how long the process that reads has its turn, from one page to the next. Another goes on after that.
    #[config(default = "2m")]
    pub delta_hold: Span,
    /// How often each process looks which devices changed, whose answers it then forgets.
    #[config(default = "5s")]
    pub delta_look: Span,
    /// After how long what was read is late, and a change takes to be known everywhere in the directory.
    #[config(default = "10m")]
    pub delta_late: Span,
    /// How long an answer is good at most while what was read is late, or the device has just changed.
    #[config(default = "15s")]
    pub keep_unfed: Span,
    /// Calls to Graph made at once for one batch of messages.
    #[config(default = 16)]
    pub parallel: usize,
}

/// How services of Azure are reached.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Azure {
    /// Who this process is to Azure.
    #[config(nested)]
    pub credential: AzureCredential,
    /// How long one call may take.
    #[config(default = "10s")]
    pub timeout: Span,
    /// How often a call is made before its message waits.
    #[config(default = 3)]
    pub attempts: u32,
    /// The pause before a second call; it doubles, and half of it is random. Retry-After goes before it.
    #[config(default = "200ms")]
    pub first_delay: Span,
    /// The longest pause. A Retry-After that is longer lets the message wait instead.
    #[config(default = "5s")]
    pub max_delay: Span,
    /// The proxy on the way. Those of the environment are never used, and managed identities are asked directly.
    pub proxy: Option<String>,
    /// PEM file of the certificates that services' must chain to, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Where audit and events are shipped to: Azure Monitor, by the Logs Ingestion API. docs/AZURE.md says how.
    #[config(nested)]
    pub logs: AzureLogs,
}

/// Who a process is to Azure. There is never a secret in this file.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct AzureCredential {
    /// "managed-identity", "workload-identity", "azure-cli" or "client-secret".
    #[config(default = "managed-identity")]
    pub kind: String,
    /// The tenant, a GUID: for client-secret; for the others where it is not the default one.
    pub tenant_id: Option<String>,
    /// The client id, a GUID: of the app registration, or of a user-assigned managed identity.
    pub client_id: Option<String>,
    /// The file of a client secret: one line, and readable by this process alone.
    pub secret_file: Option<PathBuf>,
    /// The file of the token that a workload identity is known by, if not in AZURE_FEDERATED_TOKEN_FILE.
    pub token_file: Option<PathBuf>,
}
