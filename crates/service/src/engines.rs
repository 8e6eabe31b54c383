//! The one place that picks engines: from configuration to ports.

mod open;
mod outside;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use keyturn_azure::graph::GraphDirectory;
use keyturn_azure::key_vault::KeyVault;
use keyturn_azure::logs::LogsIngestion;
use keyturn_azure::{ServiceBus, SetupError, StorageQueues};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::live::Live;
use keyturn_domain::time::UnixMillis;
use keyturn_embedded::{MasterKeys, Pace, Progress};
use keyturn_pipeline::hops::{Hops, Relay};
use keyturn_ports::Error;
use keyturn_ports::audit::AuditSink;
use keyturn_ports::chores::Chores;
use keyturn_ports::dead_letters::jobs::Jobs as LetterJobs;
use keyturn_ports::dead_letters::{DeadLetters, Strays};
use keyturn_ports::directory::{Directory, DirectoryAdmin};
use keyturn_ports::intake::Intake;
use keyturn_ports::ledger::{Ledger, LedgerOperator, LedgerReader};
use keyturn_ports::queue::{Backlog, Queue, QueueName};
use keyturn_ports::results::{ResultReader, ResultWriter};
use keyturn_ports::roster::Roster;
use keyturn_ports::rotations::Rotations;
use keyturn_ports::schema::Schema;
use keyturn_ports::shipping::Shipping;
use keyturn_ports::upkeep::Upkeep;
use keyturn_ports::vault::{Copies, Inventory, Resettling, Vault, VaultKeeper, VaultReader};
pub use keyturn_postgres::Made;

pub use self::open::OpenError;
use crate::audited::Counted;
use crate::backups::{BackupError, Checked};
use crate::config::{Backup, Config};
use crate::recovery::{LoggedVault, RecoveryLog};

/// The engines of a deployment, opened. Each accessor gives out one port, so that a process hands its role what
/// the role may use and no more.
#[derive(Clone)]
pub struct Engines {
    state: State,
    hops: Hops,
    storage_queues: Option<Arc<StorageQueues>>,
    service_bus: Option<Arc<ServiceBus>>,
    key_vault: Option<KeyVault>,
    graph: Option<GraphDirectory>,
    recovery: Option<RecoveryLog>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// Where the state is. Either implements every port.
#[derive(Clone)]
enum State {
    Embedded(keyturn_embedded::Database),
    Postgres(keyturn_postgres::Database),
}

/// The state as one of its ports.
macro_rules! port {
    ($engines:expr) => {
        match &$engines.state {
            State::Embedded(database) => Arc::new(database.clone()),
            State::Postgres(database) => Arc::new(database.clone()),
        }
    };
}

/// The vault beside the state, for whoever holds its keys.
macro_rules! vault {
    ($engines:expr, $keys:expr) => {
        match &$engines.state {
            State::Embedded(database) => {
                Arc::new(keyturn_embedded::SealedVault::new(database.clone(), $keys))
            }
            State::Postgres(database) => {
                Arc::new(keyturn_postgres::SealedVault::new(database.clone(), $keys))
            }
        }
    };
}

impl Engines {
    /// Time.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Randomness.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.entropy)
    }

    /// Which schema the state had when it was opened.
    pub fn schema(&self) -> Schema {
        match &self.state {
            State::Embedded(database) => database.schema(),
            State::Postgres(database) => database.schema(),
        }
    }

    /// The version of the server that the state is on, if it is on one.
    pub async fn server_version(&self) -> Option<Result<String, Error>> {
        match &self.state {
            State::Embedded(_) => None,
            State::Postgres(database) => Some(database.server_version().await),
        }
    }

    /// The time of the server that the state is on, if it is on one.
    pub async fn server_time(&self) -> Option<Result<UnixMillis, Error>> {
        match &self.state {
            State::Embedded(_) => None,
            State::Postgres(database) => Some(database.server_time().await),
        }
    }

    /// The queues, each hop on the engine it has.
    pub fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.hops.clone())
    }

    /// The state's own queues.
    pub(crate) fn state_queue(&self) -> Arc<dyn Queue> {
        port!(self)
    }

    /// The hops with engines of their own.
    pub(crate) fn hops_outside(&self) -> &BTreeMap<QueueName, Arc<dyn Queue>> {
        self.hops.outside()
    }

    /// The queues on Azure Storage, if any hop has one.
    pub fn storage_queues(&self) -> Option<&StorageQueues> {
        self.storage_queues.as_deref()
    }

    /// The queues on Azure Service Bus, if any hop has one.
    pub fn service_bus(&self) -> Option<&ServiceBus> {
        self.service_bus.as_deref()
    }

    /// The vault, if it is Azure Key Vault.
    pub fn key_vault(&self) -> Option<KeyVault> {
        self.key_vault.clone()
    }

    /// What carries messages of a hop with an engine of its own there, and the queue they are to be taken from.
    pub fn relay(&self, queue: QueueName) -> Option<(Arc<dyn Queue>, Relay)> {
        let inside: Arc<dyn Queue> = port!(self);
        self.hops.relay(queue).map(|relay| (inside, relay))
    }

    /// What waits on the queues.
    pub fn backlog(&self) -> Arc<dyn Backlog> {
        port!(self)
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        port!(self)
    }

    /// The hops beside which messages may lie dead that the index does not have.
    pub fn strays(&self) -> &BTreeMap<QueueName, Arc<dyn Strays>> {
        self.hops.strays()
    }

    /// Jobs on dead letters.
    pub fn letter_jobs(&self) -> Arc<dyn LetterJobs> {
        port!(self)
    }

    /// The memory of accepted messages.
    pub fn intake(&self) -> Arc<dyn Intake> {
        port!(self)
    }

    /// The ledger, to write.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        port!(self)
    }

    /// The ledger, to read.
    pub fn ledger_reader(&self) -> Arc<dyn LedgerReader> {
        port!(self)
    }

    /// Commands of operators on the ledger.
    pub fn ledger_operator(&self) -> Arc<dyn LedgerOperator> {
        port!(self)
    }

    /// Jobs of forced rotations.
    pub fn rotations(&self) -> Arc<dyn Rotations> {
        port!(self)
    }

    /// Results, to read.
    pub fn result_reader(&self) -> Arc<dyn ResultReader> {
        port!(self)
    }

    /// Results, to publish.
    pub fn result_writer(&self) -> Arc<dyn ResultWriter> {
        port!(self)
    }

    /// The directory.
    pub fn directory(&self) -> Arc<dyn Directory> {
        match &self.graph {
            Some(graph) => Arc::new(graph.clone()),
            None => port!(self),
        }
    }

    /// What reads the feed of changes of the directory, and where it is filed; None if there is no feed.
    pub fn directory_feed(&self) -> Option<(GraphDirectory, Arc<dyn Roster>)> {
        let graph = self.graph.clone().filter(|graph| graph.feed().is_some())?;
        Some((graph, port!(self)))
    }

    /// The directory's own commands, if it is the state's; None if the directory is another one.
    pub fn directory_admin(&self) -> Option<Arc<dyn DirectoryAdmin>> {
        if self.graph.is_some() {
            return None;
        }
        Some(port!(self))
    }

    /// The audit.
    pub fn audit(&self) -> Arc<dyn AuditSink> {
        Arc::new(Counted(port!(self)))
    }

    /// Chores.
    pub fn chores(&self) -> Arc<dyn Chores> {
        port!(self)
    }

    /// How far audit and events were shipped.
    pub fn shipping(&self) -> Arc<dyn Shipping> {
        port!(self)
    }

    /// The way to Azure Monitor, if audit and events are shipped there. Made for whoever ships, since it takes a
    /// credential.
    pub fn logs(&self, config: &Config) -> Result<Option<LogsIngestion>, SetupError> {
        let (Some(logs), Some(azure)) = (&config.logs, &config.azure) else { return Ok(None) };
        let credential = azure.credential.open(&azure.reach)?;
        LogsIngestion::open(logs.client.clone(), &azure.reach, credential, self.entropy()).map(Some)
    }

    /// Upkeep.
    pub fn upkeep(&self) -> Arc<dyn Upkeep> {
        port!(self)
    }

    /// Makes a backup at `to` and checks it. Blocks for as long as it takes; everybody else works on.
    pub fn back_up(
        &self,
        to: &Path,
        section: &Backup,
        progress: Progress<'_>,
    ) -> Result<Checked, BackupError> {
        let State::Embedded(database) = &self.state else {
            return Err(BackupError::Elsewhere);
        };
        let pace = Pace { pages: section.pages, pause: section.pause.0 };
        Ok(database.back_up(to, pace, progress)?)
    }

    /// Takes the store for restored from now on; see docs/runbooks/restore.md.
    pub async fn declare_restored(&self, actor: &str, reason: &str, detail: &str) -> Result<(), Error> {
        match &self.state {
            State::Embedded(database) => database.declare_restored(actor, reason, detail).await,
            State::Postgres(database) => database.declare_restored(actor, reason, detail).await,
        }
    }

    /// The vault, with its recovery log if there is one. `keys` are asked for if it is the embedded one: they are what
    /// lets a process read it. Key Vault lets in whom its roles let in.
    pub fn vault<K: Into<Live<MasterKeys>>, E>(
        &self,
        keys: impl FnOnce() -> Result<K, E>,
    ) -> Result<Arc<dyn Vault>, E> {
        let vault = self.vault_without_log(keys)?;
        Ok(match self.recovery.clone() {
            Some(log) => Arc::new(LoggedVault { vault, log, clock: self.clock() }),
            None => vault,
        })
    }

    /// The vault for those who put back what the recovery log has.
    pub fn vault_without_log<K: Into<Live<MasterKeys>>, E>(
        &self,
        keys: impl FnOnce() -> Result<K, E>,
    ) -> Result<Arc<dyn Vault>, E> {
        Ok(match &self.key_vault {
            Some(vault) => Arc::new(vault.clone()),
            None => vault!(self, keys()?),
        })
    }

    /// The vault that keeps copies for people with plain tools; None if the vault is another one.
    pub fn copies(&self) -> Option<(Arc<dyn VaultReader>, Arc<dyn Copies>)> {
        let vault = Arc::new(self.key_vault.clone()?);
        Some((Arc::clone(&vault) as _, vault))
    }

    /// The vault that tells what it has without values; None if the vault is the state's.
    pub fn inventory(&self) -> Option<Arc<dyn Inventory>> {
        self.key_vault.clone().map(|vault| Arc::new(vault) as _)
    }

    /// The vaults over which devices are spread; None if the vault is the state's.
    pub fn resettling(&self) -> Option<Arc<dyn Resettling>> {
        self.key_vault.clone().map(|vault| Arc::new(vault) as _)
    }

    /// Whether the vault's master keys are ours to look after.
    pub fn seals_its_vault(&self) -> bool {
        self.key_vault.is_none()
    }

    /// The recovery log, if there is one.
    pub fn recovery(&self) -> Option<&RecoveryLog> {
        self.recovery.as_ref()
    }

    /// The embedded vault's own keeper, for whoever holds its keys.
    pub fn vault_keeper(&self, keys: impl Into<Live<MasterKeys>>) -> Arc<dyn VaultKeeper> {
        vault!(self, keys)
    }
}
