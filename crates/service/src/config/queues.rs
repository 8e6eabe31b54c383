//! The section `queues`, typed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use keyturn_azure::storage_queues::Endpoint;
use keyturn_ports::queue::QueueName;

use super::{AzureStorage, Queues, Sections, note};

/// Which hops have engines of their own, and where those are.
#[derive(Clone, Debug, Default)]
pub struct QueueEngines {
    /// The hops on Azure Storage.
    pub azure_storage: BTreeSet<QueueName>,
    /// The account they are on; there is one if there are any.
    pub account: Option<StorageAccount>,
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
        let Queues { requests, findings, outcomes, alarms, azure_storage } = &self.queues;
        azure_storage.access == "identity"
            && [requests, findings, outcomes, alarms].into_iter().any(|engine| engine == "azure-storage")
    }

    /// Which engine each hop has; or what is wrong, each with its key.
    pub(super) fn queue_engines(&self) -> Result<QueueEngines, Vec<String>> {
        let section = &self.queues;
        let mut problems = Vec::new();
        let mut azure_storage = BTreeSet::new();
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
                other => problems.push(format!(
                    "queues.{queue}: «{other}» is no engine of queues; there are state and azure-storage"
                )),
            }
        }
        let account = if azure_storage.is_empty() {
            None
        } else {
            account(&section.azure_storage).map_err(|wrong| problems.extend(wrong)).ok()
        };
        if problems.is_empty() { Ok(QueueEngines { azure_storage, account }) } else { Err(problems) }
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
