//! Opening engines, and why they are not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyturn_azure::SetupError;
use keyturn_azure::graph::GraphDirectory;
use keyturn_azure::key_vault::KeyVault;
use keyturn_azure::pace::Shared;
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_embedded::OpenOptions;
use keyturn_pipeline::hops::Hops;
use keyturn_ports::dead_letters::Graveyard;
use keyturn_ports::queue::Queue;
use keyturn_ports::roster::Roster;
use keyturn_ports::turns::Turns;
use keyturn_ports::{Error, Kind};
use keyturn_postgres::Made;

use super::outside::Outside;
use super::{Engines, State};
use crate::config::{Config, DirectoryEngine, VaultEngine};
use crate::keys::KeyError;
use crate::recovery::RecoveryLog;

/// Why the engines are not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    Embedded(#[from] keyturn_embedded::OpenError),
    /// There is no file, for somebody who only makes one when that is asked for.
    #[error(
        "{}: there is no database; mend data.file if it is elsewhere, put a backup in place with `keyturn restore`, or \
         make a deployment with `keyturn init`",
        .0.display()
    )]
    NoDatabase(PathBuf),
    /// The file is lost: what is kept beside it shows that there was one.
    #[error(
        "{}: there is no database, and {} shows that there was one; put it back, or a backup of it with `keyturn \
         restore`; only if an empty one is to take its place, move that file away first",
        database.display(),
        epoch.display()
    )]
    Lost {
        /// The database.
        database: PathBuf,
        /// What is beside it.
        epoch: PathBuf,
    },
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] keyturn_postgres::OpenError),
    /// The secret of a service.
    #[error(transparent)]
    Secret(#[from] KeyError),
    /// A service of queues.
    #[error(transparent)]
    Queues(#[from] Error),
    /// Another service of Azure.
    #[error(transparent)]
    Azure(#[from] SetupError),
}

impl OpenError {
    /// What a caller can do about it, where that is known.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Postgres(keyturn_postgres::OpenError::Unreachable { .. }) => Some(Kind::Unavailable),
            Self::Postgres(keyturn_postgres::OpenError::Denied { .. }) => Some(Kind::Denied),
            Self::Queues(error) => Some(error.kind()),
            _ => None,
        }
    }
}

impl Engines {
    /// Opens the engines that the configuration names, which were made before: a name that was mistyped must not look
    /// like a deployment without devices.
    ///
    /// # Errors
    /// [`OpenError::NoDatabase`] if the state is in a file, and there is none; as [`Engines::open`] if it is elsewhere.
    pub fn open_existing(config: &Config) -> Result<Self, OpenError> {
        let file = &config.sections.data.file;
        if config.postgres.is_none() && is_missing(file) {
            return Err(OpenError::NoDatabase(file.clone()));
        }
        Self::open(config)
    }

    /// Makes what the state is kept in on a server, where that was not done before: the tables. Returns where that is, and
    /// whether anything of somebody else's is there as well.
    ///
    /// # Errors
    /// What [`Engines::open`] would be refused by, but for there being no tables.
    pub fn make(settings: &keyturn_postgres::Settings) -> Result<Made, OpenError> {
        let settings = settings.clone().named("keyturn");
        let (clock, entropy, times) =
            (Arc::new(SystemClock), Arc::new(SystemEntropy), keyturn_postgres::Times::Server);
        Ok(keyturn_postgres::Database::make(&settings, clock, entropy, times)?)
    }

    /// Opens the engines that the configuration names, and makes the database if that is a file and there never was one.
    ///
    /// # Errors
    /// [`OpenError::Lost`] if there was one: it is not replaced by an empty one. A database on a server is refused that
    /// has no tables of ours: they are made by `keyturn init --tables` and by `keyturn migrate`, and by nobody in passing.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        Self::open_as(config, "keyturn")
    }

    /// The same, under a name that a database server lists beside the connections.
    pub fn open_as(config: &Config, name: &str) -> Result<Self, OpenError> {
        let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let (time, chance) = (Arc::clone(&clock), Arc::clone(&entropy));
        let elsewhere = config.queues.is_any_outside();
        let state = match &config.postgres {
            None => {
                let data = &config.sections.data;
                let epoch = data.epoch_file.clone().unwrap_or_else(|| epoch_beside(&data.file));
                if is_missing(&data.file) && !is_missing(&epoch) {
                    return Err(OpenError::Lost { database: data.file.clone(), epoch });
                }
                let mut options = OpenOptions::new(&data.file, time, chance).settled_elsewhere(elsewhere);
                if let Some(file) = &data.epoch_file {
                    options = options.epoch_file(file);
                }
                State::Embedded(keyturn_embedded::Database::open(options)?)
            }
            Some(settings) => {
                let settings = settings.clone().named(name).settled_elsewhere(elsewhere);
                let times = keyturn_postgres::Times::Server;
                State::Postgres(keyturn_postgres::Database::open(&settings, time, chance, times)?)
            }
        };
        let vault = &config.sections.vault;
        let log = vault.recovery_log.clone().zip(vault.recovery_key.clone());
        let recovery = log.map(|(file, key)| RecoveryLog { file, key, required: vault.recovery_required });
        let (inside, graveyard): (Arc<dyn Queue>, Arc<dyn Graveyard>) = match &state {
            State::Embedded(database) => (Arc::new(database.clone()), Arc::new(database.clone())),
            State::Postgres(database) => (Arc::new(database.clone()), Arc::new(database.clone())),
        };
        let Outside { queues, strays, storage_queues, service_bus } =
            Outside::open(&config.queues, config.azure.as_ref(), &graveyard, &clock, &entropy)?;
        let hops = Hops::new(inside, queues).with_strays(strays);
        let turns: Arc<dyn Turns> = match &state {
            State::Embedded(database) => Arc::new(database.clone()),
            State::Postgres(database) => Arc::new(database.clone()),
        };
        let roster: Arc<dyn Roster> = match &state {
            State::Embedded(database) => Arc::new(database.clone()),
            State::Postgres(database) => Arc::new(database.clone()),
        };
        let (key_vault, graph) =
            (key_vault(config, turns, &entropy)?, graph(config, roster, &clock, &entropy)?);
        Ok(Self { state, hops, storage_queues, service_bus, key_vault, graph, recovery, clock, entropy })
    }
}

/// Whether there is surely nothing of this name. What cannot be looked at is told of by whoever opens it.
fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// Where the epoch is if nothing is said: see `data.epoch_file`.
fn epoch_beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".epoch");
    name.into()
}

fn key_vault(
    config: &Config,
    turns: Arc<dyn Turns>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Option<KeyVault>, SetupError> {
    let (VaultEngine::KeyVault(settings, limit), Some(azure)) = (&config.vault, &config.azure) else {
        return Ok(None);
    };
    let credential = azure.credential.open(&azure.reach)?;
    let pace = Arc::new(Shared::new(turns, *limit));
    KeyVault::open(settings, &azure.reach, &credential, pace, entropy).map(Some)
}

fn graph(
    config: &Config,
    roster: Arc<dyn Roster>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Option<GraphDirectory>, SetupError> {
    let (DirectoryEngine::Graph(settings), Some(azure)) = (&config.directory, &config.azure) else {
        return Ok(None);
    };
    let credential = azure.credential.open(&azure.reach)?;
    let (clock, entropy) = (Arc::clone(clock), Arc::clone(entropy));
    let (settings, groups) = ((**settings).clone(), config.policies.directory_groups());
    GraphDirectory::open(settings, groups, &azure.reach, credential, roster, (clock, entropy)).map(Some)
}
