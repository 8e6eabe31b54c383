//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use tokio::signal::unix::{SignalKind, signal};

use crate::accounts::Accounts;
use crate::accounts::file::FileAccounts;
use crate::agent::{Agent, Deps, Error, failure_line};
use crate::config::{self, AccountConfig, Config};
use crate::disk;
use crate::platform::linux::{LinuxAccounts, name};
use crate::status::Status;

/// Rotates the password of this device's managed account: asks the server for one, sets it, proves it by logging
/// on, and reports it. The password itself is never shown or stored.
#[derive(Debug, Parser)]
#[command(name = "keyturn-agent", version)]
pub struct Cli {
    /// What is logged, to standard error: error, warn, info, debug or trace.
    #[arg(long, global = true, env = "KEYTURN_AGENT_LOG", default_value = "warn")]
    log: tracing::level_filters::LevelFilter,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run once and say in one line what came of it. Exit code 0: rotated, or not due; 1: anything else.
    Once(Common),
    /// Run as a service: check in again and again until told to stop.
    Run(Common),
    /// Show what the agent knows of itself. Asks nobody and changes nothing.
    Status {
        #[command(flatten)]
        common: Common,
        /// The form of the output.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Args, Debug)]
struct Common {
    /// The settings file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A line to say and whether it is a success.
struct Said {
    line: String,
    good: bool,
}

impl Cli {
    /// How much is logged.
    pub fn log_level(&self) -> tracing::level_filters::LevelFilter {
        self.log
    }

    /// Does what was asked.
    pub async fn execute(self) -> ExitCode {
        let said = match self.command {
            Command::Once(common) => once(&common).await,
            Command::Run(common) => run(&common).await,
            Command::Status { common, output } => status(&common, output),
        };
        let said = said.unwrap_or_else(|said| said);
        // A closed pipe is no reason to fail a rotation that is done.
        let _ = if said.line.is_empty() { Ok(()) } else { writeln!(std::io::stdout(), "{}", said.line) };
        if said.good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

async fn once(common: &Common) -> Result<Said, Said> {
    match agent(common)?.once().await {
        Ok(outcome) => Ok(Said { line: outcome.to_string(), good: outcome.is_success() }),
        Err(error) => Err(Said::failure(failure_line(&error))),
    }
}

async fn run(common: &Common) -> Result<Said, Said> {
    let agent = agent(common)?;
    let stop =
        stop_signal().map_err(|error| Said::failure(format!("Failed: no signals: {error}. code=setup")))?;
    agent.run(stop).await.map_err(|error| Said::failure(failure_line(&error)))?;
    Ok(Said { line: String::new(), good: true })
}

fn status(common: &Common, output: Output) -> Result<Said, Said> {
    let Config { settings, account } = load(common)?;
    let status = account_name(&account, &settings.state).and_then(|name| Status::read(&settings, &name));
    let status = status.map_err(|error| Said::failure(failure_line(&error.into())))?;
    let line = match output {
        Output::Text => status.to_string(),
        Output::Json => serde_json::to_string_pretty(&status).unwrap_or_default(),
    };
    Ok(Said { line, good: true })
}

/// Done when the system tells the agent to stop.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn agent(common: &Common) -> Result<Agent, Said> {
    let Config { settings, account } = load(common)?;
    let accounts = accounts(account, &settings.state);
    let agent = accounts.and_then(|accounts| Agent::new(settings, Deps::system(accounts)));
    agent.map_err(|error| Said::failure(failure_line(&error)))
}

fn load(common: &Common) -> Result<Config, Said> {
    Config::load(&common.config).map_err(|error| Said::failure(format!("Failed: {error}. code=config")))
}

fn accounts(account: AccountConfig, state: &Path) -> Result<Arc<dyn Accounts>, Error> {
    Ok(match account {
        AccountConfig::File { path, name } => {
            Arc::new(FileAccounts::new(path, name, Arc::new(SystemClock), Arc::new(SystemEntropy)))
        }
        AccountConfig::Linux { name, random_suffix, options } => {
            let name = name::choose(&name, random_suffix, state, &SystemEntropy)?;
            Arc::new(LinuxAccounts::new(name, options, state, Arc::new(SystemClock)))
        }
    })
}

/// The account's name, as far as it has been chosen.
fn account_name(account: &AccountConfig, state: &Path) -> Result<String, disk::Error> {
    Ok(match account {
        AccountConfig::File { name, .. } => name.to_string(),
        AccountConfig::Linux { name, random_suffix, .. } => name::known(name, *random_suffix, state)?
            .map_or_else(
                || format!("{name} and {random_suffix} digits, not drawn yet"),
                |name| name.to_string(),
            ),
    })
}

impl Said {
    fn failure(line: String) -> Self {
        Self { line, good: false }
    }
}
