//! How processes run and tell of themselves, and what they look after.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// How workers take their work.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Workers {
    /// The most messages taken at once.
    #[config(default = 64)]
    pub batch: usize,
    /// How long a message is a worker's own; renewed while it works. A dead worker's messages return after this.
    #[config(default = "30s")]
    pub lease: Span,
    /// A message at fault is dead-lettered after so many deliveries.
    #[config(default = 5)]
    pub max_deliveries: u32,
    /// A message that only waits for an engine is not dead-lettered before it is this old.
    #[config(default = "30m")]
    pub patience: Span,
    /// The delay before a second delivery; it doubles with each further one.
    #[config(default = "1s")]
    pub first_delay: Span,
    /// The longest delay between deliveries.
    #[config(default = "1m")]
    pub max_delay: Span,
    /// A worker that takes and settles nothing for so long is taken for hung, and systemd starts the process anew. More
    /// than workers.lease, and than any batch takes.
    #[config(default = "5m")]
    pub stuck_after: Span,
}

/// What is forgotten, and when. The rotator's process sees to it, in the background.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Retention {
    /// Accepted messages, by which the ingress merges repeats. Longer than trust.nonce_ttl and trust.future_skew, or a
    /// message could be taken twice.
    #[config(default = "1d")]
    pub accepted: Span,
    /// What messages did, by which the rotator merges repeats. Those of a message that is a dead letter are kept for as
    /// long as it is there.
    #[config(default = "30d")]
    pub effects: Span,
    /// What happened on devices.
    #[config(default = "400d")]
    pub events: Span,
    /// Dead letters are never forgotten; those older than this are warned of.
    #[config(default = "30d")]
    pub dead_letters_warn: Span,
    /// How often it is looked, and how often it is noted in data.epoch_file how far the database has come. On PostgreSQL
    /// it is looked as often whether the database was restored.
    #[config(default = "1m")]
    pub every: Span,
    /// The most rows of a table forgotten at once. Others write in between.
    #[config(default = 500)]
    pub batch: usize,
    /// The pause between.
    #[config(default = "50ms")]
    pub pause: Span,
}

/// How backups are made.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Backup {
    /// Pages of 8 KiB copied at once.
    #[config(default = 256)]
    pub pages: u16,
    /// The pause between, for others to use the disk.
    #[config(default = "5ms")]
    pub pause: Span,
}

/// Where each role answers /healthz, /readyz and /metrics.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Health {
    /// All roles in one process.
    #[config(default = "127.0.0.1:9100")]
    pub all: String,
    /// The ingress.
    #[config(default = "127.0.0.1:9101")]
    pub ingress: String,
    /// The validator.
    #[config(default = "127.0.0.1:9102")]
    pub validator: String,
    /// The rotator reads the vault, so it listens nowhere unless told to.
    #[config(default = "off")]
    pub rotator: String,
    /// The notifier.
    #[config(default = "127.0.0.1:9104")]
    pub notifier: String,
    /// How often the rotator counts how many devices stand how, for /metrics. Each time it reads the directory and the
    /// ledger from end to end. "0s": never.
    #[config(default = "15m")]
    pub fleet_every: Span,
    /// How often each process asks the engines that it uses whether they are there, for /readyz and keyturn_engine_up.
    /// One question each.
    #[config(default = "10s")]
    pub probe_every: Span,
    /// How long an answer to that may take.
    #[config(default = "5s")]
    pub probe_timeout: Span,
    /// After how many failures in a row an engine is away. One answer, and it is back.
    #[config(default = 2)]
    pub away_after: u32,
}

/// What is logged.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Logs {
    /// error, warn, info, debug or trace, or a filter like "info,keyturn_rotator=debug" (CloudLAPS:
    /// DebugLogging). No level shows a secret.
    #[config(default = "info")]
    pub level: String,
    /// "json", or "text" for people.
    #[config(default = "json")]
    pub format: String,
    /// Where `keyturn log-level` says what running processes are to log instead. The database's name with .log-level
    /// behind it if not given. Who can write it sets how much is logged.
    pub level_file: Option<PathBuf>,
    /// How often processes look at it: 100ms to 1h.
    #[config(default = "5s")]
    pub look_every: Span,
}

/// When `keyturn doctor` warns.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Doctor {
    /// A certificate or key set that ends sooner than this.
    #[config(default = "30d")]
    pub certificate_warn: Span,
    /// A message that waits longer than this.
    #[config(default = "15m")]
    pub waiting_warn: Span,
    /// A write-ahead log of more bytes than this.
    #[config(default = 1_073_741_824)]
    pub wal_warn_bytes: u64,
    /// A disk with fewer bytes free than this.
    #[config(default = 1_073_741_824)]
    pub disk_warn_bytes: u64,
}
