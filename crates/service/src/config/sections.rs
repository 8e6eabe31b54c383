//! The sections of the configuration file, as written. The comments here are the comments of the template.

#![expect(unused_qualifications, reason = "the derive macro of the configuration library writes them")]

mod azure;
mod fleet;
mod logs;
mod policies;
mod queues;
mod state;
mod traces;

use std::net::SocketAddr;
use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Deserialize;

pub use self::azure::{Azure, AzureCredential, Directory};
pub use self::fleet::Fleet;
pub use self::logs::AzureLogs;
pub use self::policies::{Password, PolicyEntry};
pub use self::queues::{AzureStorage, Queues, ServiceBus};
pub use self::state::{Postgres, State};
pub use self::traces::Traces;

/// Keyturn: one file for all roles. Every setting is shown with its default; remove the # to change it.
/// Lengths of time are a number and a unit: ms, s, m, h or d.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Sections {
    /// Policies of groups of devices, beside the one of the sections password and rotation below. The first one that fits a
    /// device is its policy; what it does not say is as below. They stand at the end of this file, like this:
    ///
    /// ```text
    ///     [[policy]]
    ///     name = "kiosks"                  # a-z 0-9 -
    ///     devices = ["3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11"]  # ids in the directory, and
    ///     devices_file = "kiosks.txt"      # a file of more, one a line; read when a process starts
    ///     groups = ["0b53cc85-eb81-4a3c-9a24-8ed3c3bcf6ba"]   # object ids of groups in the directory, one of which it is in
    ///     host = ["KIOSK-*"]               # what the device says its name is
    ///     os = ["Windows 11*"]             # what the device says it runs
    ///     complexity = 6                   # these and length, alphabet, classes, words, separator: as in [password]
    ///     words = 8
    ///     update_frequency = "1d"          # as in [rotation]
    /// ```
    ///
    /// Every criterion given has to fit. A device can say what it likes, so a policy with host or os must be at
    /// least as strong as the one below. docs/POLICY.md says more.
    #[config(default = [])]
    pub policy: Vec<PolicyEntry>,
    /// The deployment.
    #[config(nested)]
    pub deployment: DeploymentSection,
    /// Where state and keys are kept.
    #[config(nested)]
    pub data: Data,
    /// Which database the state is in.
    #[config(nested)]
    pub state: State,
    /// The HTTP edge for devices.
    #[config(nested)]
    pub ingress: Ingress,
    /// Which devices are trusted, and for how long what they say is fresh.
    #[config(nested)]
    pub trust: Trust,
    /// When passwords are rotated.
    #[config(nested)]
    pub rotation: Rotation,
    /// What passwords are made of.
    #[config(nested)]
    pub password: Password,
    /// Where versions are kept.
    #[config(nested)]
    pub vault: Vault,
    /// Where devices are looked up.
    #[config(nested)]
    pub directory: Directory,
    /// How services of Azure are reached, where one is used. docs/AZURE.md says what they need.
    #[config(nested)]
    pub azure: Azure,
    /// How workers take their work.
    #[config(nested)]
    pub workers: Workers,
    /// Which engine each hop of the pipeline has.
    #[config(nested)]
    pub queues: Queues,
    /// How alarms leave the house. docs/ALARMS.md says what receivers get.
    #[config(nested)]
    pub alarms: Alarms,
    /// What is forgotten, and when. Lanes, versions, the directory, the audit and the vault never are.
    #[config(nested)]
    pub retention: Retention,
    /// The report on the whole fleet: `keyturn fleet --last-report`.
    #[config(nested)]
    pub fleet: Fleet,
    /// How backups are made.
    #[config(nested)]
    pub backup: Backup,
    /// Where each role answers /healthz, /readyz and /metrics: an address, or "off".
    #[config(nested)]
    pub health: Health,
    /// What is logged, on stderr.
    #[config(nested)]
    pub logs: Logs,
    /// Where spans are exported to. docs/TRACING.md says what is in them.
    #[config(nested)]
    pub traces: Traces,
    /// When `keyturn doctor` warns.
    #[config(nested)]
    pub doctor: Doctor,
}

/// The deployment.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct DeploymentSection {
    /// Its name: 1 to 64 characters of a-z 0-9 - . Agents are installed with it; it cannot be changed later.
    pub name: String,
}

/// Where state and keys are kept. Relative paths are relative to this file.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Data {
    /// The database: queues, ledger, results, audit, directory and the sealed vault.
    #[config(default = "keyturn.db")]
    pub file: PathBuf,
    /// What tells a restored database from one that went on. Keep it out of every backup, best on another disk. The
    /// database's name with .epoch behind it if not given. Move the file along when you change this: without it, the
    /// database is taken for restored.
    pub epoch_file: Option<PathBuf>,
    /// The folder of the key files, each readable by the roles that need it only.
    #[config(default = "keys")]
    pub keys: PathBuf,
}

/// The HTTP edge for devices.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Ingress {
    /// Where devices connect. Anything but a loopback address needs TLS.
    #[config(default = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The name of this ingress, in stamps and logs.
    #[config(default = "ingress")]
    pub name: String,
    /// The server certificate. It is read again when the files change.
    #[config(nested)]
    pub tls: Tls,
    /// The largest message, in bytes.
    #[config(default = 16384)]
    pub body_bytes: usize,
    /// How long a message's body may take to arrive.
    #[config(default = "10s")]
    pub body_time: Span,
    /// The largest head of a request, in bytes.
    #[config(default = 8192)]
    pub header_bytes: usize,
    /// How long a request's head may take to arrive.
    #[config(default = "5s")]
    pub header_time: Span,
    /// The longest long-poll.
    #[config(default = "30s")]
    pub poll_wait: Span,
    /// Long-polls held open at once; further ones are answered at once.
    #[config(default = 20000)]
    pub polls: usize,
    /// The same, of one client: an IPv4 address or an IPv6 /64.
    #[config(default = 2048)]
    pub polls_per_address: usize,
    /// Connections held open at once; further ones wait.
    #[config(default = 25000)]
    pub connections: usize,
    /// The same, of one client; further ones are closed. Trusted proxies have no such limit.
    #[config(default = 4096)]
    pub connections_per_address: usize,
    /// Proxies in front, as networks like "10.0.0.0/8": the last hop in their X-Forwarded-For is taken for the
    /// client. Without this, all devices behind a proxy are one client.
    #[config(default = [])]
    pub trusted_proxies: Vec<String>,
    /// With more messages than this waiting, new ones are turned away with 503.
    #[config(default = 1_000_000)]
    pub depth: u64,
    /// How much is taken from whom.
    #[config(nested)]
    pub admission: Admission,
}

/// How much is taken from whom; beyond that, 429. A rate is per second in the long run, a burst is what may come at
/// once after a rest. A client is an IPv4 address or an IPv6 /64.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Admission {
    /// Nonces and messages of one client, counted before anything is parsed.
    #[config(default = 250)]
    pub address_rate: u32,
    /// The burst that goes with it.
    #[config(default = 2500)]
    pub address_burst: u32,
    /// Polls of one client.
    #[config(default = 500)]
    pub poll_rate: u32,
    /// The burst that goes with it.
    #[config(default = 5000)]
    pub poll_burst: u32,
    /// Polls of one ticket.
    #[config(default = 2)]
    pub ticket_rate: u32,
    /// The burst that goes with it.
    #[config(default = 30)]
    pub ticket_burst: u32,
    /// Messages of one device key that has rotated before.
    #[config(default = 2)]
    pub key_rate: u32,
    /// The burst that goes with it.
    #[config(default = 60)]
    pub key_burst: u32,
    /// Messages of all keys together that have not: new devices, and whoever makes up keys.
    #[config(default = 50)]
    pub unknown_rate: u32,
    /// The burst that goes with it.
    #[config(default = 1000)]
    pub unknown_burst: u32,
    /// The same, of one client.
    #[config(default = 10)]
    pub unknown_address_rate: u32,
    /// The burst that goes with it.
    #[config(default = 500)]
    pub unknown_address_burst: u32,
    /// Clients, keys and tickets remembered, of each kind. Beyond twice that, the quietest are forgotten.
    #[config(default = 65536)]
    pub tracked: usize,
    /// How long devices are told to wait at least, with a 503.
    #[config(default = "10s")]
    pub retry_after: Span,
    /// Over how much more time those who are turned away, with 429 or 503, are spread.
    #[config(default = "20s")]
    pub retry_spread: Span,
    /// How long a 429 is held back, which slows down whoever sends on and on.
    #[config(default = "1s")]
    pub pause: Span,
    /// How many are held back at once. Further ones are given at once, and their connections closed.
    #[config(default = 512)]
    pub paused: usize,
}

/// The server certificate.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Tls {
    /// PEM file of the certificate and its chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of the private key. An ECDSA P-256 key is fastest.
    pub key: Option<PathBuf>,
}

/// Which devices are trusted.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Trust {
    /// How devices may be joined: AzureAd, ServerAd, Workplace.
    #[config(default = ["AzureAd", "ServerAd"])]
    pub join_types: Vec<String>,
    /// How old a nonce may be when the message with it arrives.
    #[config(default = "5m")]
    pub nonce_ttl: Span,
    /// How far the clocks of servers may differ.
    #[config(default = "1m")]
    pub future_skew: Span,
    /// What the directory said is acted on for this long; then it is asked again.
    #[config(default = "10m")]
    pub finding_max_age: Span,
}

/// When passwords are rotated.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Rotation {
    /// A confirmed password is due for replacement after this long (CloudLAPS: UpdateFrequencyDays).
    #[config(default = "3d")]
    pub update_frequency: Span,
    /// A request that waited longer than this gets no password, however long its device would wait.
    #[config(default = "1h")]
    pub request_max_age: Span,
    /// The most lanes of a device: combinations of key, account and installation.
    #[config(default = 4)]
    pub lanes_per_device: usize,
    /// The most new passwords of a device in a day.
    #[config(default = 4)]
    pub versions_per_day: usize,
    /// After this many refusals by the device's operating system, rotation is held.
    #[config(default = 3)]
    pub refusals_to_hold: usize,
    /// How long it is held, and the window in which refusals are counted.
    #[config(default = "1d")]
    pub hold: Span,
    /// What a device had under another key, account or installation is shown for this long after the new one was
    /// confirmed; then it is among the older versions.
    #[config(default = "30d")]
    pub former_after: Span,
    /// How long a result waits for its device.
    #[config(default = "1d")]
    pub result_ttl: Span,
}

/// Where versions are kept.
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Vault {
    /// "embedded", in the database, sealed under the keys of vault.key; "envelope", the same, and those keys are wrapped
    /// by a key of Azure Key Vault; or "key-vault", in Azure Key Vault itself. From the first to the second one may
    /// change at any time, by `keyturn vault wrap`; versions are not moved to the third, or from it.
    #[config(default = "embedded")]
    pub engine: String,
    /// Key Vaults that new versions go to, each like `https://example.vault.azure.net`. Devices are spread over them; an
    /// address that is taken out of this list belongs into read_urls.
    #[config(default = [])]
    pub urls: Vec<String>,
    /// Key Vaults that hold older versions.
    #[config(default = [])]
    pub read_urls: Vec<String>,
    /// Versions that all processes together create in one Key Vault in any creations_window: what the service takes, less
    /// what others than Keyturn write to that vault.
    #[config(default = 300)]
    pub creations: u32,
    /// The time in which the service counts them.
    #[config(default = "10s")]
    pub creations_window: Span,
    /// By how much the way from a turn to the service may differ. The more, the slower: turns are spread over the window
    /// and this.
    #[config(default = "400ms")]
    pub creations_slack: Span,
    /// Turns that a process books at once, in one write to the state. If it dies it loses these.
    #[config(default = 32)]
    pub creations_lease: u32,
    /// How long a version waits for its turn to be created. After that its message waits.
    #[config(default = "10s")]
    pub turn_patience: Span,
    /// Calls to Key Vault made at once for one batch of messages.
    #[config(default = 16)]
    pub parallel: usize,
    /// For "envelope": the RSA key that wraps, `https://VAULT.vault.azure.net/keys/NAME`, without a version.
    pub wrapping_key: Option<String>,
    /// Keys that wrapped before this one, and unwrap until `keyturn vault wrap` was run.
    #[config(default = [])]
    pub former_wrapping_keys: Vec<String>,
    /// How often a process that starts while Key Vault is away asks it to unwrap the keys.
    #[config(default = "5s")]
    pub unwrap_every: Span,
    /// Let a host that is not Key Vault's say what this process asks tokens for.
    #[config(default = false)]
    pub danger_unverified_challenge: bool,
    /// Every version is written to this file as well, sealed to recovery_key. Put it on another disk, in a folder
    /// of that disk, and write it to the backups without end: nothing is ever removed from it.
    pub recovery_log: Option<PathBuf>,
    /// The public key that `keyturn vault recovery-key` wrote. Its secret half belongs offline.
    pub recovery_key: Option<PathBuf>,
    /// Whether a version that cannot be written to the log is not given out.
    #[config(default = true)]
    pub recovery_required: bool,
}

/// How workers take their work.
#[derive(Config, Clone, Debug)]
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

/// How alarms leave the house.
#[derive(Config, Clone, Debug)]
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
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct WebhookEntry {
    /// Its name: 1 to 32 characters of a-z 0-9 - .
    pub name: String,
    /// Its address.
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

/// What is forgotten, and when. The rotator's process sees to it, in the background.
#[derive(Config, Clone, Debug)]
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
#[derive(Config, Clone, Debug)]
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
#[derive(Config, Clone, Debug)]
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
#[derive(Config, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Logs {
    /// error, warn, info, debug or trace, or a filter like "info,keyturn_rotator=debug" (CloudLAPS:
    /// DebugLogging). No level shows a secret.
    #[config(default = "info")]
    pub level: String,
    /// "json", or "text" for people.
    #[config(default = "json")]
    pub format: String,
}

/// When `keyturn doctor` warns.
#[derive(Config, Clone, Debug)]
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
