//! The configuration: one file for all roles, read once, checked as a whole.

mod alarms;
mod azure;
mod logs;
mod policies;
mod queues;
mod sections;
mod signing;
mod state;
mod traces;

use std::path::{Path, PathBuf};
use std::time::Duration;

use confique::Config as _;
use keyturn_domain::admission::{AdmissionPolicy, Rate};
use keyturn_domain::join_type::JoinTypes;
use keyturn_domain::lane::RotationPolicy;
use keyturn_domain::network::{Network, NotANetwork};
use keyturn_domain::policies::Policies;
use keyturn_domain::webhook::AlarmPolicy;
use keyturn_pipeline::settle::RetryPolicy;
use keyturn_pipeline::worker::WorkerSettings;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::stamp::Freshness;

use crate::levels;

pub use keyturn_azure::versions;

pub use self::azure::{AzureAccess, CopySettings, DirectoryEngine, VaultEngine};
pub use self::logs::LogShipping;
pub use self::queues::{AccessBy, BusNamespace, QueueEngines, StorageAccount};
pub use self::sections::{
    Admission, Alarms, Azure, AzureCredential, AzureLogs, AzureStorage, Backup, Data, DeploymentSection,
    Directory, Doctor, Fleet, Health, Ingress, Logs, Password, PolicyEntry, Postgres, Queues, Retention,
    Rotation, Sections, ServiceBus, Signing, State, Tls, Traces, Trust, Vault, WebhookEntry, Workers,
};
pub use self::signing::SigningEngine;
pub use self::traces::TraceExport;

/// The configuration as a process uses it: every value typed and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from, if it was.
    pub file: Option<PathBuf>,
    /// As written, for printing and for what needs no translation.
    pub sections: Sections,
    /// The deployment's name.
    pub deployment: Deployment,
    /// Which devices may rotate.
    pub join_types: JoinTypes,
    /// The limits of freshness.
    pub freshness: Freshness,
    /// When to rotate, and what passwords are made of, device by device.
    pub policies: Policies,
    /// How much the ingress takes from whom.
    pub admission: AdmissionPolicy,
    /// Which engine each hop has.
    pub queues: QueueEngines,
    /// How workers take their work.
    pub workers: WorkerSettings,
    /// Where PostgreSQL is, if the state is there; None for the embedded file.
    pub postgres: Option<keyturn_postgres::Settings>,
    /// Where alarms go.
    pub alarms: AlarmPolicy,
    /// How alarms are taken.
    pub alarm_workers: WorkerSettings,
    /// Where versions are kept.
    pub vault: VaultEngine,
    /// Where the key is that signs results.
    pub signing: SigningEngine,
    /// How confirmed passwords are copied for people with plain vault tools, if they are.
    pub copies: Option<CopySettings>,
    /// Where devices are looked up.
    pub directory: DirectoryEngine,
    /// How services of Azure are reached, if one is used.
    pub azure: Option<AzureAccess>,
    /// Where spans are exported to, if anywhere.
    pub traces: Option<TraceExport>,
    /// How audit and events are shipped to Azure Monitor, if they are.
    pub logs: Option<LogShipping>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("{}: there is no such file; `keyturn init` makes a deployment with a configuration", .0.display())]
    Missing(PathBuf),
    /// There may be one, and it cannot be read.
    #[error(
        "{}: it cannot be read: {source}; run this as the user that the deployment belongs to, or as root, or name \
         another file with --config",
        file.display()
    )]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It cannot be read as configuration.
    #[error("{0}")]
    Syntax(String),
    /// Its values do not go together.
    #[error("{}: {}", file.display(), problems.join(&format!("\n{}: ", file.display())))]
    Values {
        /// The file.
        file: PathBuf,
        /// What is wrong, each with its key.
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads and checks the file at `path`. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        openable(path)?;
        let mut sections = Sections::from_file(path)
            .map_err(|error| ConfigError::Syntax(plain(path, &without_values(&chain(&error)))))?;
        let home = path.parent().unwrap_or(Path::new("."));
        for relative in sections.paths() {
            if relative.is_relative() {
                *relative = home.join(&*relative);
            }
        }
        let checked = sections.check();
        let mut config =
            checked.map_err(|problems| ConfigError::Values { file: path.to_owned(), problems })?;
        config.file = Some(path.to_owned());
        Ok(config)
    }

    /// A documented configuration file with every setting at its default.
    pub fn template() -> String {
        let template = confique::toml::template::<Sections>(confique::toml::FormatOptions::default());
        // Samples in the comments are fenced for the documentation, which would take them for Rust.
        template.replace("# ```text\n", "").replace("# ```\n", "")
    }
}

/// Whether there is a file that this user may read. That there is none and that it cannot be looked at are mended in
/// different ways.
fn openable(path: &Path) -> Result<(), ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ConfigError::Missing(path.to_owned()));
        }
        Err(error) => return Err(unreadable(error)),
        Ok(found) if !found.is_file() => return Err(ConfigError::Missing(path.to_owned())),
        Ok(_) => {}
    }
    std::fs::File::open(path).map(drop).map_err(unreadable)
}

/// The parser shows the line that it cannot take. Somebody may have put a secret there, under a key that there is not;
/// so what stands behind the key is left out.
fn without_values(error: &str) -> String {
    let shown = |line: &str| {
        let (number, text) = line.split_once(" | ")?;
        number.trim().parse::<u32>().ok()?;
        let (key, _) = text.split_once('=')?;
        Some(format!("{number} | {key}= …"))
    };
    let lines: Vec<String> =
        error.lines().map(|line| shown(line).unwrap_or_else(|| line.to_owned())).collect();
    lines.join("\n")
}

/// The parser's words as ours: file and place first, and what belongs where in words of the configuration. The value that
/// stands there is not repeated here either.
fn plain(path: &Path, error: &str) -> String {
    let (_, what) =
        error.split_once("': ").filter(|_| error.starts_with("failed to ")).unwrap_or(("", error));
    let what =
        what.strip_prefix("TOML parse error at ").map_or_else(|| what.to_owned(), |at| format!("at {at}"));
    let lines: Vec<String> =
        what.lines().map(|line| typed(line).unwrap_or_else(|| line.to_owned())).collect();
    format!("{}: {}", path.display(), lines.join("\n"))
}

/// `invalid type: string "x", expected u64`, in words.
fn typed(line: &str) -> Option<String> {
    let (found, wanted) = line.strip_prefix("invalid type: ")?.rsplit_once(", expected ")?;
    let found = match found.split(' ').next()? {
        "string" => "a text",
        "integer" => "a whole number",
        "floating" => "a number with a fraction",
        "boolean" => "true or false",
        "map" => "a table",
        "sequence" => "a list",
        _ => "something else",
    };
    let wanted = match wanted {
        "a string" => "a text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list like [\"a\", \"b\"]",
        number
            if number
                .trim_start_matches("a nonzero ")
                .trim_start_matches(['u', 'i'])
                .parse::<u8>()
                .is_ok() =>
        {
            "a whole number"
        }
        "usize" | "isize" => "a whole number",
        other => other,
    };
    Some(format!("{found} stands there, and {wanted} belongs there"))
}

/// An error with its causes, each on a line of its own.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(inner.to_string().trim_end());
        cause = inner.source();
    }
    text
}

impl Sections {
    /// Every path in the configuration.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let (tls, vault, alarms) = (&mut self.ingress.tls, &mut self.vault, &mut self.alarms);
        let postgres = &mut self.state.postgres;
        [&mut self.data.file, &mut self.data.keys]
            .into_iter()
            .chain([&mut tls.certificate, &mut tls.key].into_iter().flatten())
            .chain(self.policy.iter_mut().filter_map(|entry| entry.devices_file.as_mut()))
            .chain([&mut vault.recovery_log, &mut vault.recovery_key, &mut alarms.ca].into_iter().flatten())
            .chain(alarms.webhook.iter_mut().map(|webhook| &mut webhook.secret_file))
            .chain([&mut self.data.epoch_file, &mut self.logs.level_file].into_iter().flatten())
            .chain([&mut self.traces.headers_file, &mut self.traces.ca].into_iter().flatten())
            .chain(self.queues.azure_storage.secret_file.as_mut())
            .chain(self.queues.service_bus.secret_file.as_mut())
            .chain([&mut postgres.password_file, &mut postgres.roots].into_iter().flatten())
            .chain(self.azure.paths())
    }

    /// Types every value and checks them together.
    pub fn check(self) -> Result<Config, Vec<String>> {
        let mut problems = Vec::new();
        let deployment = note(&mut problems, "deployment.name", self.deployment.name.parse::<Deployment>());
        let joins = self.trust.join_types.iter().map(String::as_str);
        let join_types = note(&mut problems, "trust.join_types", JoinTypes::parse(joins));
        let policies = self.policies().map_err(|wrong| problems.extend(wrong)).ok();
        let admission = note(&mut problems, "ingress.trusted_proxies", self.admission_policy());
        let queues = self.queue_engines().map_err(|wrong| problems.extend(wrong)).ok();
        let alarms = self.alarm_policy().map_err(|wrong| problems.extend(wrong)).ok();
        let postgres = self.postgres().map_err(|wrong| problems.extend(wrong)).ok();
        let vault = self.vault_engine().map_err(|wrong| problems.extend(wrong)).ok();
        let signing = self.signing_engine().map_err(|wrong| problems.extend(wrong)).unwrap_or_default();
        let directory = self.directory_engine().map_err(|wrong| problems.extend(wrong)).ok();
        let azure = self.azure_access().map_err(|wrong| problems.extend(wrong)).ok();
        let traces = self.trace_export().map_err(|wrong| problems.extend(wrong)).unwrap_or_default();
        let logs = self.log_shipping().map_err(|wrong| problems.extend(wrong)).ok();
        problems.extend(self.contradictions());
        problems.extend(self.unkept());
        note(&mut problems, "logs.level", levels::check(&self.logs.level));
        if !["json", "text"].contains(&self.logs.format.as_str()) {
            problems.push(format!("logs.format: \"{}\" is neither \"json\" nor \"text\"", self.logs.format));
        }
        let engines = queues.zip(postgres).zip(vault.zip(directory).zip(azure.zip(logs)));
        match (deployment, join_types, policies, admission, alarms, engines) {
            (
                Some(deployment),
                Some(join_types),
                Some(policies),
                Some(admission),
                Some(alarms),
                Some(((queues, postgres), ((vault, directory), (azure, logs)))),
            ) if problems.is_empty() => Ok(Config {
                file: None,
                alarms,
                queues,
                vault,
                signing,
                copies: self.copies(),
                directory,
                azure,
                traces,
                logs,
                alarm_workers: self.alarm_worker_settings(),
                deployment,
                join_types,
                policies,
                admission,
                postgres,
                freshness: self.freshness(),
                workers: self.worker_settings(),
                sections: self,
            }),
            _ => Err(problems),
        }
    }

    /// Settings that are fine alone and wrong together, or outside their bounds.
    fn contradictions(&self) -> Vec<String> {
        let Self { ingress, workers, trust, rotation, vault, .. } = self;
        let loopback = ingress.listen.ip().is_loopback();
        let tls = (ingress.tls.certificate.is_some(), ingress.tls.key.is_some());
        let rules = [
            (tls.0 != tls.1, "ingress.tls: certificate and key go together; give both or neither"),
            (
                !loopback && !tls.0,
                "ingress.listen: an address other than loopback needs ingress.tls.certificate and ingress.tls.key",
            ),
            (
                vault.recovery_log.is_some() != vault.recovery_key.is_some(),
                "vault: recovery_log and recovery_key go together; give both or neither",
            ),
            (!(1..=64).contains(&ingress.name.len()), "ingress.name: must be 1 to 64 bytes"),
            (
                ingress.body_bytes > 16 * 1024 || ingress.body_bytes < 1024,
                "ingress.body_bytes: must be 1024 to 16384",
            ),
            (
                ingress.connections == 0 || ingress.connections_per_address == 0,
                "ingress.connections, ingress.connections_per_address: must be at least 1",
            ),
            (
                self.rates().into_iter().any(|rate| rate.per_second == 0 || rate.burst == 0),
                "ingress.admission: rates and bursts must be at least 1",
            ),
            (
                !(1..=16_777_216).contains(&ingress.admission.tracked),
                "ingress.admission.tracked: must be 1 to 16777216",
            ),
            (
                ingress.admission.retry_after.0 + ingress.admission.retry_spread.0 > Duration::from_hours(1),
                "ingress.admission: retry_after and retry_spread together must be at most 1h",
            ),
            (
                ingress.admission.pause.0 > Duration::from_secs(5),
                "ingress.admission.pause: must be at most 5s; clients give up on an answer before long",
            ),
            (
                ingress.admission.paused > tokio::sync::Semaphore::MAX_PERMITS,
                "ingress.admission.paused: must be at most 2^61",
            ),
            (!(1..=1024).contains(&workers.batch), "workers.batch: must be 1 to 1024"),
            (workers.lease.0.as_secs() < 1, "workers.lease: must be at least 1s"),
            (
                workers.stuck_after.0 <= workers.lease.0 || workers.stuck_after.0 < Duration::from_secs(30),
                "workers.stuck_after: must be at least 30s and longer than workers.lease",
            ),
            (workers.max_deliveries == 0, "workers.max_deliveries: must be at least 1"),
            (
                trust.nonce_ttl.0.as_secs() > 3600,
                "trust.nonce_ttl: must be at most 1h, or a message could be signed ahead of time",
            ),
            (trust.nonce_ttl.0.as_secs() < 5, "trust.nonce_ttl: must be at least 5s"),
            (rotation.update_frequency.0.is_zero(), "rotation.update_frequency: must not be zero"),
            (rotation.lanes_per_device == 0, "rotation.lanes_per_device: must be at least 1"),
            (rotation.versions_per_day == 0, "rotation.versions_per_day: must be at least 1"),
            (rotation.refusals_to_hold == 0, "rotation.refusals_to_hold: must be at least 1"),
        ];
        rules.into_iter().filter(|(broken, _)| *broken).map(|(_, problem)| problem.to_owned()).collect()
    }

    /// What would be forgotten too early, and what would stand still.
    fn unkept(&self) -> Vec<String> {
        let Self { trust, retention, backup, health, fleet, logs, .. } = self;
        let rules = [
            (
                retention.accepted.0 <= trust.nonce_ttl.0 + 2 * trust.future_skew.0,
                "retention.accepted: must be longer than trust.nonce_ttl and twice trust.future_skew together, or a \
                 message could be taken twice",
            ),
            (
                retention.effects.0 < retention.accepted.0 || retention.effects.0 < Duration::from_hours(24),
                "retention.effects: must be at least 1d and at least retention.accepted",
            ),
            (
                !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&retention.every.0),
                "retention.every: must be 1s to 1h",
            ),
            (
                !(Duration::from_millis(100)..=Duration::from_hours(1)).contains(&logs.look_every.0),
                "logs.look_every: must be 100ms to 1h",
            ),
            (!(1..=10_000).contains(&retention.batch), "retention.batch: must be 1 to 10000"),
            (
                !health.fleet_every.0.is_zero() && health.fleet_every.0 < Duration::from_secs(1),
                "health.fleet_every: must be at least 1s, or 0s for never",
            ),
            (
                !(Duration::from_millis(100)..=Duration::from_hours(1)).contains(&health.probe_every.0),
                "health.probe_every: must be 100ms to 1h",
            ),
            (
                !(Duration::from_millis(100)..=Duration::from_mins(5)).contains(&health.probe_timeout.0),
                "health.probe_timeout: must be 100ms to 5m",
            ),
            (!(1..=100).contains(&health.away_after), "health.away_after: must be 1 to 100"),
            (backup.pages == 0, "backup.pages: must be at least 1"),
            (
                !(Duration::from_mins(5)..=Duration::from_hours(31 * 24)).contains(&fleet.report_every.0),
                "fleet.report_every: must be 5m to 31d",
            ),
            (
                fleet.report_after.0 >= fleet.report_every.0,
                "fleet.report_after: must be shorter than fleet.report_every",
            ),
            (fleet.report_names > 2000, "fleet.report_names: must be at most 2000"),
            (fleet.unwell_percent_warn > 100, "fleet.unwell_percent_warn: must be at most 100"),
        ];
        rules.into_iter().filter(|(broken, _)| *broken).map(|(_, problem)| problem.to_owned()).collect()
    }

    /// Address, poll, ticket, key, unknown, unknown of one address.
    fn rates(&self) -> [Rate; 6] {
        let admission = &self.ingress.admission;
        [
            Rate::new(admission.address_rate, admission.address_burst),
            Rate::new(admission.poll_rate, admission.poll_burst),
            Rate::new(admission.ticket_rate, admission.ticket_burst),
            Rate::new(admission.key_rate, admission.key_burst),
            Rate::new(admission.unknown_rate, admission.unknown_burst),
            Rate::new(admission.unknown_address_rate, admission.unknown_address_burst),
        ]
    }

    fn admission_policy(&self) -> Result<AdmissionPolicy, NotANetwork> {
        let Ingress { admission, trusted_proxies, polls_per_address, .. } = &self.ingress;
        let [address, poll, ticket, key, unknown, unknown_address] = self.rates();
        let trusted_proxies: Result<Vec<Network>, _> =
            trusted_proxies.iter().map(|network| network.parse()).collect();
        Ok(AdmissionPolicy {
            address,
            poll,
            ticket,
            key,
            unknown,
            unknown_address,
            tracked: admission.tracked,
            polls_per_address: *polls_per_address,
            retry_after: admission.retry_after.0,
            retry_spread: admission.retry_spread.0,
            pause: admission.pause.0,
            paused: admission.paused,
            trusted_proxies: trusted_proxies?,
        })
    }

    fn freshness(&self) -> Freshness {
        Freshness { nonce_ttl: self.trust.nonce_ttl.0, future_skew: self.trust.future_skew.0 }
    }

    fn rotation_policy(&self) -> RotationPolicy {
        let rotation = &self.rotation;
        RotationPolicy {
            update_frequency: rotation.update_frequency.0,
            request_max_age: rotation.request_max_age.0,
            lanes_per_device: rotation.lanes_per_device,
            versions_per_window: rotation.versions_per_day,
            refusals_to_hold: rotation.refusals_to_hold,
            hold_window: rotation.hold.0,
            former_after: rotation.former_after.0,
            future_skew: self.trust.future_skew.0,
            ..RotationPolicy::default()
        }
    }

    fn worker_settings(&self) -> WorkerSettings {
        let workers = &self.workers;
        WorkerSettings {
            batch: workers.batch,
            lease: workers.lease.0,
            retry: RetryPolicy {
                max_deliveries: workers.max_deliveries,
                patience: workers.patience.0,
                first_delay: workers.first_delay.0,
                max_delay: workers.max_delay.0,
            },
        }
    }
}

fn note<T, E: std::fmt::Display>(problems: &mut Vec<String>, key: &str, value: Result<T, E>) -> Option<T> {
    value.map_err(|error| problems.push(format!("{key}: {error}"))).ok()
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
