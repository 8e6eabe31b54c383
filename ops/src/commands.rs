//! One file per noun.

mod anchor;
mod audit;
mod backup;
mod config;
pub(crate) mod dead_letters;
pub(crate) mod device;
mod doctor;
mod explain;
mod export;
mod fleet;
mod group;
mod hold;
pub(crate) mod init;
mod keys;
mod log_level;
mod manual;
mod migrate;
mod queues;
mod recover;
mod reveal;
mod root;
mod rotate;
mod show;
mod up;
mod vault;

use keyturn_domain::ids::DeviceId;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_service::keys::KeyStore;

use crate::cli::{Arguments, Command, Events, Output, Vault};
use crate::failure::{Context as _, Result};
use crate::{operator, output};

/// What most commands need: a deployment, opened.
pub(crate) struct Deployment {
    pub(crate) config: Config,
    pub(crate) engines: Engines,
    pub(crate) keys: KeyStore,
    pub(crate) output: Output,
}

impl Deployment {
    fn open(arguments: &Arguments) -> Result<Self> {
        let config = Config::load(&arguments.config)?;
        let keys = KeyStore::of(&config)?;
        Ok(Self { engines: Engines::open_existing(&config)?, keys, output: arguments.output, config })
    }

    /// Records a command in the audit. Only then may it be carried out.
    pub(crate) async fn record(
        &self,
        action: Action,
        device: Option<DeviceId>,
        reason: &str,
        detail: &str,
    ) -> Result<()> {
        let row = NewRow {
            at: self.engines.clock().now(),
            actor: operator::name(),
            action,
            device,
            reason: reason.to_owned(),
            detail: output::printable(detail.to_owned()),
        };
        let recorded = self.engines.audit().append(row).await;
        recorded.context("the command could not be recorded, so nothing was done")?;
        Ok(())
    }
}

/// Carries out what was said. Whatever does not end well is a failure: there is no other way to another exit code.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let open = || Deployment::open(&arguments);
    match &arguments.command {
        Command::Init(init) => init::run(init, &arguments)?,
        Command::Up(up) => Box::pin(up::run(&arguments, up)).await?,
        Command::Device(device) => device::run(&open()?, device).await?,
        Command::Group(group) => group::run(&open()?, group).await?,
        Command::Reveal(reveal) => reveal::run(&open()?, reveal).await?,
        Command::Fleet { list, last_report } => fleet::run(&open()?, *list, *last_report).await?,
        Command::LogLevel(level) => log_level::run(&arguments, level).await?,
        Command::Doctor { write } => Box::pin(doctor::run(&arguments, *write)).await?,
        Command::Explain { code } => explain::run(arguments.output, code.as_deref())?,
        Command::Support { to } => doctor::support(&open()?, to).await?,
        Command::Queues(queues) => queues::run(&open()?, queues).await?,
        Command::DeadLetters(letters) => dead_letters::run(&open()?, letters).await?,
        Command::Audit(audit) => audit::run(&open()?, audit).await?,
        Command::Keys(keys) => keys::run(&open()?, keys).await?,
        Command::Root(root) => root::run(&open()?, root).await?,
        // On another machine there is nothing but the file and the key.
        Command::Vault(Vault::OpenExport(open)) => vault::open_export::run(open, arguments.output)?,
        Command::Vault(vault) => vault::run(&open()?, vault).await?,
        Command::Backup(backup) => backup::run(&arguments, backup).await?,
        Command::Restore(restore) => backup::restore(&arguments, restore).await?,
        Command::Migrate(migrate) => Box::pin(migrate::run(&arguments, migrate)).await?,
        Command::Events(Events::Export { since }) => export::events(&open()?, since.as_deref()).await?,
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { to } => manual::pages(to)?,
        Command::Config(config) => Box::pin(config::run(&arguments, config)).await?,
    }
    Ok(())
}
