//! The section of what is shipped to Azure Monitor, as written.

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// Where audit and events are shipped to: Azure Monitor, by the Logs Ingestion API.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct AzureLogs {
    /// The logs ingestion endpoint, like `https://example-abcd.westeurope-1.ingest.monitor.azure.com`. Nothing is
    /// shipped if it is not given.
    pub endpoint: Option<String>,
    /// The immutable id of the data collection rule: dcr- and 32 hexadecimal digits.
    pub rule: Option<String>,
    /// What tokens are asked for; national clouds have their own.
    #[config(default = "https://monitor.azure.com")]
    pub audience: String,
    /// The rule's stream of the audit.
    #[config(default = "Custom-CloudLAPSAudit_CL")]
    pub audit_stream: String,
    /// The rule's stream of what happened on devices.
    #[config(default = "Custom-CloudLAPSClient_CL")]
    pub events_stream: String,
    /// How often it is looked for new rows.
    #[config(default = "5s")]
    pub every: Span,
    /// The longest pause after a failure; it doubles from `every`.
    #[config(default = "1m")]
    pub max_delay: Span,
    /// The most rows read at once.
    #[config(default = 500)]
    pub page: usize,
    /// The most bytes of rows in one call, before they are compressed. The service takes 1 MB.
    #[config(default = 1_000_000)]
    pub batch_bytes: usize,
    /// Whether calls are compressed.
    #[config(default = true)]
    pub compress: bool,
    /// One process ships at a time. After one has died, another goes on this much later. Longer than one call with all
    /// its attempts may take.
    #[config(default = "2m")]
    pub lease: Span,
    /// Events that were not shipped are kept for so much longer than retention.events. Then they are lost to Azure
    /// Monitor, with an error in the log and an alert.
    #[config(default = "90d")]
    pub keep_unshipped: Span,
}
