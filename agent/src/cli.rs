//! The command line.

mod looks;

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
use crate::platform::linux::{LinuxAccounts, name};
use crate::{cycle, disk};

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
    #[command(visible_alias = "rotate")]
    Once {
        #[command(flatten)]
        common: Common,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        manner: Manner,
    },
    /// Say in one line whether there is something to do. Exit code 0: no; 1: a rotation is due, or something is
    /// wrong. Asks nobody and changes nothing.
    Detect {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        manner: Manner,
    },
    /// Check the installation and say what mends it, a line for each check. Exit code 1 if one of them fails.
    Doctor(Common),
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

#[derive(Args, Clone, Copy, Debug)]
struct Manner {
    /// As Intune's remediations want it: exactly one line, of at most 2048 characters, and no log.
    #[arg(long)]
    intune: bool,
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
        if self.is_for_intune() { tracing::level_filters::LevelFilter::OFF } else { self.log }
    }

    fn is_for_intune(&self) -> bool {
        matches!(&self.command, Command::Once { manner, .. } | Command::Detect { manner, .. } if manner.intune)
    }

    /// Does what was asked.
    pub async fn execute(self) -> ExitCode {
        let intune = self.is_for_intune();
        let said = match self.command {
            Command::Once { common, dry_run: true, .. } => looks::dry_run(&common),
            Command::Once { common, .. } => once(&common).await,
            Command::Detect { common, .. } => looks::detect(&common),
            Command::Doctor(common) => Ok(looks::doctor(&common).await),
            Command::Run(common) => run(&common).await,
            Command::Status { common, output } => looks::status(&common, output),
        };
        let said = said.unwrap_or_else(|said| said);
        let said = if intune { said.in_one_line() } else { said };
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
    agent.prove_key().await.map_err(|error| Said::failure(failure_line(&error)))?;
    let stop =
        stop_signal().map_err(|error| Said::failure(format!("Failed: no signals: {error}. code=setup")))?;
    agent.run(stop).await.map_err(|error| Said::failure(failure_line(&error)))?;
    Ok(Said { line: String::new(), good: true })
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
    let accounts = accounts(&account, &settings.state);
    let agent = accounts.and_then(|accounts| Agent::new(settings, Deps::system(accounts)));
    agent.map_err(|error| Said::failure(failure_line(&error)))
}

fn load(common: &Common) -> Result<Config, Said> {
    Config::load(&common.config).map_err(|error| Said::failure(format!("Failed: {error}. code=config")))
}

/// The account. Chooses its name, where that has not been done.
fn accounts(account: &AccountConfig, state: &Path) -> Result<Arc<dyn Accounts>, Error> {
    if let AccountConfig::Linux { name, random_suffix, .. } = account {
        name::choose(name, *random_suffix, state, &SystemEntropy)?;
    }
    Ok(known_account(account, state)?.ok_or(cycle::Error::AccountMissing)?)
}

/// The account, if its name has been chosen.
fn known_account(account: &AccountConfig, state: &Path) -> Result<Option<Arc<dyn Accounts>>, disk::Error> {
    Ok(match account.clone() {
        AccountConfig::File { path, name } => {
            Some(Arc::new(FileAccounts::new(path, name, Arc::new(SystemClock), Arc::new(SystemEntropy))))
        }
        AccountConfig::Linux { name, random_suffix, options } => name::known(&name, random_suffix, state)?
            .map(|name| -> Arc<dyn Accounts> {
                Arc::new(LinuxAccounts::new(name, options, state, Arc::new(SystemClock)))
            }),
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

/// What Intune keeps of a script's output.
const INTUNE_MAX: usize = 2048;

impl Said {
    fn in_one_line(self) -> Self {
        let line = self.line.replace(char::is_control, " ");
        // The word at the end is what is looked for.
        let cut = line.chars().count().saturating_sub(INTUNE_MAX);
        Self { line: line.chars().skip(cut).collect(), ..self }
    }

    fn failure(line: String) -> Self {
        Self { line, good: false }
    }
}
