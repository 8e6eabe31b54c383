//! The section `queues`, typed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use keyturn_azure::service_bus::{self, Namespace};
use keyturn_azure::storage_queues::Endpoint;
use keyturn_ports::queue::QueueName;

use super::{AzureStorage, Queues, Sections, ServiceBus, note};

/// Which hops have engines of their own, and where those are.
#[derive(Clone, Debug, Default)]
pub struct QueueEngines {
    /// The hops on Azure Storage.
    pub azure_storage: BTreeSet<QueueName>,
    /// The account they are on; there is one if there are any.
    pub account: Option<StorageAccount>,
    /// The hops on Azure Service Bus.
    pub service_bus: BTreeSet<QueueName>,
    /// The namespace they are in; there is one if there are any.
    pub namespace: Option<BusNamespace>,
}

impl QueueEngines {
    /// Whether any hop has an engine of its own.
    pub fn is_any_outside(&self) -> bool {
        !self.azure_storage.is_empty() || !self.service_bus.is_empty()
    }
}

/// A namespace of Azure Service Bus.
#[derive(Clone, Debug)]
pub struct BusNamespace {
    /// Where it is and how it is used, but for the certificates that `azure.ca` names.
    pub settings: service_bus::Settings,
    /// The shared access policy and the file with its key; none to go as who this process is to Azure.
    pub policy: Option<(String, PathBuf)>,
}

/// An account of Azure Storage.
#[derive(Clone, Debug)]
pub struct StorageAccount {
    /// Where it is and how it is used.
    pub endpoint: Endpoint,
    /// How requests are authorised.
    pub access: AccessBy,
}

/// How requests to an account are authorised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessBy {
    /// As who this process is to Azure.
    Identity,
    /// By the account's key, in a file.
    Key {
        /// The account.
        account: String,
        /// The file.
        file: PathBuf,
    },
    /// By a shared access signature, in a file.
    Signature(PathBuf),
}

impl Sections {
    /// Whether a hop is reached as who this process is to Azure.
    pub(super) fn queues_by_identity(&self) -> bool {
        self.queues.azure_storage.access == "identity" && self.has_hop_on("azure-storage")
    }

    /// Whether a hop is on Service Bus. It is reached with the timeouts, attempts and certificates of Azure's other
    /// services, whoever this process is to it.
    pub(super) fn queues_on_service_bus(&self) -> bool {
        self.has_hop_on("service-bus")
    }

    fn has_hop_on(&self, engine: &str) -> bool {
        let Queues { requests, findings, outcomes, alarms, .. } = &self.queues;
        [requests, findings, outcomes, alarms].into_iter().any(|one| one == engine)
    }

    /// Which engine each hop has; or what is wrong, each with its key.
    pub(super) fn queue_engines(&self) -> Result<QueueEngines, Vec<String>> {
        let section = &self.queues;
        let mut problems = Vec::new();
        let (mut azure_storage, mut service_bus) = (BTreeSet::new(), BTreeSet::new());
        for (queue, engine) in [
            (QueueName::Requests, &section.requests),
            (QueueName::Findings, &section.findings),
            (QueueName::Outcomes, &section.outcomes),
            (QueueName::Alarms, &section.alarms),
        ] {
            match engine.as_str() {
                "state" => {}
                "azure-storage" => {
                    azure_storage.insert(queue);
                }
                "service-bus" => {
                    service_bus.insert(queue);
                }
                other => problems.push(format!(
                    "queues.{queue}: «{other}» is no engine of queues; there are state, azure-storage and service-bus"
                )),
            }
        }
        let account = if azure_storage.is_empty() {
            None
        } else {
            account(&section.azure_storage).map_err(|wrong| problems.extend(wrong)).ok()
        };
        let namespace = if service_bus.is_empty() {
            None
        } else {
            self.namespace().map_err(|wrong| problems.extend(wrong)).ok()
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(QueueEngines { azure_storage, account, service_bus, namespace })
    }

    fn namespace(&self) -> Result<BusNamespace, Vec<String>> {
        let section = &self.queues.service_bus;
        let key = |name: &str| format!("queues.service_bus.{name}");
        let mut problems = Vec::new();
        let missing = || "is missing: sb://NAMESPACE.servicebus.windows.net".to_owned();
        let url = section.endpoint.as_deref().ok_or_else(missing);
        let parsed = url.and_then(|url| Namespace::parse(url).map_err(|error| error.to_string()));
        let namespace = note(&mut problems, &key("endpoint"), parsed);
        note(&mut problems, &key("prefix"), service_bus::check_prefix(&section.prefix));
        let policy = note(&mut problems, &key("access"), policy(section));
        let millis = Duration::from_millis;
        let minutes = Duration::from_mins;
        let within = |name: &str, given: Duration, least: Duration, most: Duration, said: &str| {
            let good = (least..=most).contains(&given);
            (!good).then(|| format!("{}: must be {said}", key(name)))
        };
        let rules = [
            within("lock", section.lock.0, Duration::from_secs(5), minutes(5), "5s to 5m"),
            within("wait", section.wait.0, millis(10), Duration::from_secs(10), "10ms to 10s"),
            within("linger", section.linger.0, millis(1), Duration::from_secs(1), "1ms to 1s"),
            within("poll", section.poll.0, millis(10), minutes(5), "10ms to 5m"),
            within("refresh", section.refresh.0, Duration::from_secs(10), minutes(30), "10s to 30m"),
            within("sweep", section.sweep.0, Duration::from_secs(1), minutes(60), "1s to 1h"),
            (section.lock.0 < self.workers.lease.0).then(|| {
                format!("{}: must be at least workers.lease; shorten that, or make the queues with more", key("lock"))
            }),
            (!(1..=64).contains(&section.parallel)).then(|| format!("{}: must be 1 to 64", key("parallel"))),
            within("session_idle", section.session_idle.0, millis(1), Duration::from_secs(10), "1ms to 10s"),
            (!(1..=200).contains(&section.sessions_held))
                .then(|| format!("{}: must be 1 to 200", key("sessions_held"))),
            (!(1..=10_000).contains(&section.counted)).then(|| format!("{}: must be 1 to 10000", key("counted"))),
            self.azure.proxy.is_some().then(|| {
                "azure.proxy: Service Bus is reached over AMQP, which goes through no such proxy; open port 5671 to it"
                    .to_owned()
            }),
        ];
        problems.extend(rules.into_iter().flatten());
        match (namespace, policy) {
            (Some(namespace), Some(policy)) if problems.is_empty() => Ok(BusNamespace {
                settings: service_bus::Settings {
                    namespace,
                    prefix: section.prefix.clone(),
                    wait: section.wait.0,
                    linger: section.linger.0,
                    poll: section.poll.0,
                    parallel: section.parallel,
                    attempts: self.azure.attempts(),
                    timeout: self.azure.timeout.0,
                    refresh: section.refresh.0,
                    sessions: section.sessions.then_some(service_bus::SessionSettings {
                        held: section.sessions_held,
                        idle: section.session_idle.0,
                    }),
                    counted: section.counted,
                    sweep: section.sweep.0,
                    ca: None,
                },
                policy,
            }),
            _ => Err(problems),
        }
    }
}

fn account(section: &AzureStorage) -> Result<StorageAccount, Vec<String>> {
    let key = |name: &str| format!("queues.azure_storage.{name}");
    let mut problems = Vec::new();
    let missing = || "is missing: https://ACCOUNT.queue.core.windows.net".to_owned();
    let url = section.endpoint.as_deref().ok_or_else(missing);
    let parsed = url.and_then(|url| Endpoint::new(url, &section.prefix).map_err(|error| error.to_string()));
    let endpoint = note(&mut problems, &key("endpoint"), parsed);
    let access = note(&mut problems, &key("access"), access(section));
    let poll = section.poll.0;
    if !(Duration::from_millis(10)..=Duration::from_mins(1)).contains(&poll) {
        problems.push(format!("{}: must be 10ms to 1m", key("poll")));
    }
    if !(1..=64).contains(&section.parallel) {
        problems.push(format!("{}: must be 1 to 64", key("parallel")));
    }
    match (endpoint, access) {
        (Some(mut endpoint), Some(access)) if problems.is_empty() => {
            endpoint.poll = poll;
            endpoint.parallel = section.parallel;
            endpoint.api_version.clone_from(&section.api_version);
            Ok(StorageAccount { endpoint, access })
        }
        _ => Err(problems),
    }
}

fn policy(section: &ServiceBus) -> Result<Option<(String, PathBuf)>, String> {
    match (section.access.as_str(), &section.policy, &section.secret_file) {
        ("identity", None, None) => Ok(None),
        ("identity", ..) => Err("identity needs neither policy nor secret_file".to_owned()),
        ("key", Some(policy), Some(file)) => Ok(Some((policy.clone(), file.clone()))),
        ("key", ..) => Err("key needs policy and secret_file as well".to_owned()),
        (other, ..) => Err(format!("«{other}» is no access; there are identity and key")),
    }
}

fn access(section: &AzureStorage) -> Result<AccessBy, String> {
    let AzureStorage { access, account, secret_file, .. } = section;
    match (access.as_str(), account, secret_file) {
        ("identity", None, None) => Ok(AccessBy::Identity),
        ("identity", ..) => Err("identity needs neither account nor secret_file".to_owned()),
        ("key", Some(account), Some(file)) => {
            Ok(AccessBy::Key { account: account.clone(), file: file.clone() })
        }
        ("key", ..) => Err("key needs account and secret_file as well".to_owned()),
        ("signature", None, Some(file)) => Ok(AccessBy::Signature(file.clone())),
        ("signature", ..) => Err("signature needs secret_file as well, and no account".to_owned()),
        (other, ..) => Err(format!("«{other}» is no access; there are identity, key and signature")),
    }
}
