//! The sections of the configuration file, as written. The comments here are the comments of the template.

#![expect(unused_qualifications, reason = "the derive macro of the configuration library writes them")]

mod alarms;
mod azure;
mod fleet;
mod ingress;
mod logs;
mod policies;
mod queues;
mod running;
mod signing;
mod state;
mod traces;

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

pub use self::alarms::{Alarms, WebhookEntry};
pub use self::azure::{Azure, AzureCredential, Directory};
pub use self::fleet::Fleet;
pub use self::ingress::{Admission, Ingress, Tls};
pub use self::logs::AzureLogs;
pub use self::policies::{Password, PolicyEntry};
pub use self::queues::{AzureStorage, Queues, ServiceBus};
pub use self::running::{Backup, Doctor, Health, Logs, Retention, Workers};
pub use self::signing::Signing;
pub use self::state::{Postgres, State};
pub use self::traces::Traces;

/// Keyturn: one file for all roles. Every setting is shown with its default; remove the # to change it.
/// Lengths of time are a number and a unit: ms, s, m, h or d.
#[derive(Config, Serialize, Clone, Debug)]
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
    /// Where the key is that signs results.
    #[config(nested)]
    pub signing: Signing,
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
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct DeploymentSection {
    /// Its name: 1 to 64 characters of a-z 0-9 - . Agents are installed with it; it cannot be changed later.
    pub name: String,
}

/// Where state and keys are kept. Relative paths are relative to this file.
#[derive(Config, Serialize, Clone, Debug)]
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

/// Which devices are trusted.
#[derive(Config, Serialize, Clone, Debug)]
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
#[derive(Config, Serialize, Clone, Debug)]
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
#[derive(Config, Serialize, Clone, Debug)]
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
    /// and this. A turn that is not taken within half of it lapses.
    #[config(default = "200ms")]
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
    /// For "key-vault": whether the confirmed password of each device is copied to `lap-<device id>`, for people with plain
    /// tools; if not given, it is. It costs a second creation for each rotation, so `false` has twice as many devices rotate
    /// in the same time.
    pub confirmed_copy: Option<bool>,
    /// How often it is looked for what is to be copied, by one process of the deployment.
    #[config(default = "30s")]
    pub copy_every: Span,
    /// How often every copy is compared with what the ledger says.
    #[config(default = "1d")]
    pub copy_sweep_every: Span,
    /// For "envelope": the RSA key that wraps, `https://VAULT.vault.azure.net/keys/NAME`, without a version.
    pub wrapping_key: Option<String>,
    /// Keys that wrapped before this one, and unwrap until `keyturn vault wrap` was run.
    #[config(default = [])]
    pub former_wrapping_keys: Vec<String>,
    /// How often a process that starts while Key Vault is away asks it again, to unwrap the keys or for the signing key.
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
