//! The section `fleet`.

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// The report on the whole fleet: `keyturn fleet --last-report`.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Fleet {
    /// How often directory and ledger are compared, device by device: 5m to 31d.
    #[config(default = "1d")]
    pub report_every: Span,
    /// How long after midnight, or after the beginning of each other span, by UTC. Shorter than report_every.
    #[config(default = "2h")]
    pub report_after: Span,
    /// How many devices that are not as they should be a report names, at most 2000. All are counted.
    #[config(default = 200)]
    pub report_names: usize,
    /// A report that finds more than this share of the listed devices overdue, unverified or never escrowed, in percent,
    /// is warned of.
    #[config(default = 10)]
    pub unwell_percent_warn: u8,
}
