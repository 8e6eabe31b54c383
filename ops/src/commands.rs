//! One file per noun.

mod audit;
mod config;
pub(crate) mod dead_letters;
pub(crate) mod device;
pub(crate) mod init;
mod queues;
mod reveal;
mod show;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use keyturn_service::keys::KeyStore;

use crate::cli::{Arguments, Command, Output};

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
        let keys = KeyStore::new(config.sections.data.keys.clone());
        Ok(Self { engines: Engines::open(&config)?, keys, output: arguments.output, config })
    }
}

/// Carries out what was said.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let open = || Deployment::open(&arguments);
    match &arguments.command {
        Command::Init(init) => init::run(init)?,
        Command::Up(up) => return up::run(&arguments, up).await,
        Command::Device(device) => device::run(&open()?, device).await?,
        Command::Reveal(reveal) => reveal::run(&open()?, reveal).await?,
        Command::Queues => queues::run(&open()?).await?,
        Command::DeadLetters(letters) => dead_letters::run(&open()?, letters).await?,
        Command::Audit(audit) => return audit::run(&open()?, audit).await,
        Command::Config(config) => return config::run(&arguments, config),
    }
    Ok(ExitCode::SUCCESS)
}
