//! The one place that picks engines: from configuration to ports.

use std::path::Path;
use std::sync::Arc;

use keyturn_azure::SetupError;
use keyturn_azure::graph::GraphDirectory;
use keyturn_azure::key_vault::KeyVault;
use keyturn_azure::pace::Bucket;
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::live::Live;
use keyturn_embedded::{
    BackupError, Checked, Database, MasterKeys, OpenError, OpenOptions, Pace, Progress, SealedVault,
};
use keyturn_ports::audit::AuditSink;
use keyturn_ports::dead_letters::DeadLetters;
use keyturn_ports::directory::{Directory, DirectoryAdmin};
use keyturn_ports::intake::Intake;
use keyturn_ports::ledger::{Ledger, LedgerOperator, LedgerReader};
use keyturn_ports::queue::{Backlog, Queue};
use keyturn_ports::results::{ResultReader, ResultWriter};
use keyturn_ports::rotations::Rotations;
use keyturn_ports::upkeep::Upkeep;
use keyturn_ports::vault::{Vault, VaultKeeper};

use crate::config::{Backup, Config, DirectoryEngine, VaultEngine};
use crate::recovery::{LoggedVault, RecoveryLog};

/// Why engines cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// A service of Azure.
    #[error(transparent)]
    Azure(#[from] SetupError),
}

/// The engines of a deployment, opened. Each accessor gives out one port, so that a process hands its role what
/// the role may use and no more.
#[derive(Clone)]
pub struct Engines {
    database: Database,
    key_vault: Option<KeyVault>,
    graph: Option<GraphDirectory>,
    recovery: Option<RecoveryLog>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Engines {
    /// Opens the engines that the configuration names.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let data = &config.sections.data;
        let mut options = OpenOptions::new(&data.file, Arc::clone(&clock), Arc::clone(&entropy));
        if let Some(file) = &data.epoch_file {
            options = options.epoch_file(file);
        }
        let vault = &config.sections.vault;
        let log = vault.recovery_log.clone().zip(vault.recovery_key.clone());
        let recovery = log.map(|(file, key)| RecoveryLog { file, key, required: vault.recovery_required });
        let (key_vault, graph) = (key_vault(config, &entropy)?, graph(config, &clock, &entropy)?);
        Ok(Self { database: Database::open(options)?, key_vault, graph, recovery, clock, entropy })
    }

    /// Time.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Randomness.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.entropy)
    }

    /// The queues.
    pub fn queue(&self) -> Arc<dyn Queue> {
        Arc::new(self.database.clone())
    }

    /// What waits on the queues.
    pub fn backlog(&self) -> Arc<dyn Backlog> {
        Arc::new(self.database.clone())
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(self.database.clone())
    }

    /// The memory of accepted messages.
    pub fn intake(&self) -> Arc<dyn Intake> {
        Arc::new(self.database.clone())
    }

    /// The ledger, to write.
    pub fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(self.database.clone())
    }

    /// The ledger, to read.
    pub fn ledger_reader(&self) -> Arc<dyn LedgerReader> {
        Arc::new(self.database.clone())
    }

    /// Commands of operators on the ledger.
    pub fn ledger_operator(&self) -> Arc<dyn LedgerOperator> {
        Arc::new(self.database.clone())
    }

    /// Jobs of forced rotations.
    pub fn rotations(&self) -> Arc<dyn Rotations> {
        Arc::new(self.database.clone())
    }

    /// Results, to read.
    pub fn result_reader(&self) -> Arc<dyn ResultReader> {
        Arc::new(self.database.clone())
    }

    /// Results, to publish.
    pub fn result_writer(&self) -> Arc<dyn ResultWriter> {
        Arc::new(self.database.clone())
    }

    /// The directory.
    pub fn directory(&self) -> Arc<dyn Directory> {
        match &self.graph {
            Some(graph) => Arc::new(graph.clone()),
            None => Arc::new(self.database.clone()),
        }
    }

    /// The embedded directory's own commands; None if the directory is another one.
    pub fn directory_admin(&self) -> Option<Arc<dyn DirectoryAdmin>> {
        self.graph.is_none().then(|| Arc::new(self.database.clone()) as _)
    }

    /// The audit.
    pub fn audit(&self) -> Arc<dyn AuditSink> {
        Arc::new(self.database.clone())
    }

    /// Upkeep.
    pub fn upkeep(&self) -> Arc<dyn Upkeep> {
        Arc::new(self.database.clone())
    }

    /// Makes a backup at `to` and checks it. Blocks for as long as it takes; everybody else works on.
    pub fn back_up(
        &self,
        to: &Path,
        section: &Backup,
        progress: Progress<'_>,
    ) -> Result<Checked, BackupError> {
        let pace = Pace { pages: section.pages, pause: section.pause.0 };
        self.database.back_up(to, pace, progress)
    }

    /// Takes the store for restored from now on; see docs/runbooks/restore.md.
    pub async fn declare_restored(
        &self,
        actor: &str,
        reason: &str,
        detail: &str,
    ) -> Result<(), keyturn_ports::Error> {
        self.database.declare_restored(actor, reason, detail).await
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
            None => Arc::new(SealedVault::new(self.database.clone(), keys()?)),
        })
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
        Arc::new(SealedVault::new(self.database.clone(), keys))
    }
}

fn key_vault(config: &Config, entropy: &Arc<dyn Entropy>) -> Result<Option<KeyVault>, SetupError> {
    let (VaultEngine::KeyVault(settings, rate), Some(azure)) = (&config.vault, &config.azure) else {
        return Ok(None);
    };
    let credential = azure.credential.open(&azure.reach)?;
    let pace = Arc::new(Bucket::new(*rate));
    KeyVault::open(settings, &azure.reach, &credential, pace, entropy).map(Some)
}

fn graph(
    config: &Config,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Option<GraphDirectory>, SetupError> {
    let (DirectoryEngine::Graph(settings), Some(azure)) = (&config.directory, &config.azure) else {
        return Ok(None);
    };
    let credential = azure.credential.open(&azure.reach)?;
    let (clock, entropy) = (Arc::clone(clock), Arc::clone(entropy));
    GraphDirectory::open(settings.clone(), &azure.reach, credential, clock, entropy).map(Some)
}
