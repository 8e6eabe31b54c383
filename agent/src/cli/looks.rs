//! The commands that look and change nothing.

use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_domain::journal::Journal;

use super::{Common, Output, Said, account_name, known_account, load};
use crate::accounts::{self, Found};
use crate::agent::failure_line;
use crate::config::Config;
use crate::cycle;
use crate::detect::{self, Finding, Known};
use crate::doctor::{self, Check, Patient};
use crate::journal_file::JournalFile;
use crate::status::{LastRun, Status};
use crate::transport::Http;

pub(super) fn status(common: &Common, output: Output) -> Result<Said, Said> {
    let Config { settings, account } = load(common)?;
    let status = account_name(&account, &settings.state).and_then(|name| Status::read(&settings, &name));
    let status = status.map_err(Said::failed)?;
    let line = match output {
        Output::Text => status.to_string(),
        Output::Json => serde_json::to_string_pretty(&status).unwrap_or_default(),
    };
    Ok(Said { line, good: true })
}

pub(super) fn detect(common: &Common) -> Result<Said, Said> {
    let config = load(common)?;
    let found = found(&config)?;
    let finding = finding(&config, found.as_ref())?;
    Ok(Said { good: finding.is_fine(), line: finding.to_string() })
}

/// What a run would do, for all that can be told without asking the server.
pub(super) fn dry_run(common: &Common) -> Result<Said, Said> {
    let config = load(common)?;
    let found = found(&config)?;
    let Config { settings, account } = &config;
    let name = account_name(account, &settings.state).map_err(Said::failed)?;
    let first = match &found {
        Some(found) => format!("Would use the account {name}, number {}.", found.id),
        None if settings.create_account => format!("Would create the account {name}."),
        None => return Err(Said::failed(cycle::Error::AccountMissing)),
    };
    let rotation = match finding(&config, found.as_ref())? {
        Finding::Fine(_) => "not due for all this device knows",
        _ => "due for all this device knows",
    };
    let line = format!(
        "{first}\nWould ask {} for a password ({rotation}; the server decides).\n\
         Would set what it sends, prove it by logging on, and report it.\nNothing was changed. code=dry_run",
        settings.server
    );
    Ok(Said { line, good: true })
}

pub(super) async fn doctor(common: &Common) -> Said {
    let read = Check::new("settings", Ok(format!("{} is sound", common.config.display())));
    let checks = match Config::load(&common.config) {
        Err(error) => vec![Check::new("settings", Err(error.to_string()))],
        Ok(config) => std::iter::once(read).chain(examine(&config).await).collect(),
    };
    let lines: Vec<String> = checks.iter().map(Check::to_string).collect();
    Said { line: lines.join("\n"), good: checks.iter().all(Check::is_good) }
}

async fn examine(config: &Config) -> Vec<Check> {
    let Config { settings, account } = config;
    let (accounts, transport) = match (known_account(account, &settings.state), Http::new(settings)) {
        (Ok(accounts), Ok(transport)) => (accounts, transport),
        (Err(error), _) => return vec![Check::new("state", Err(failure_line(&error.into())))],
        (_, Err(error)) => return vec![Check::new("server", Err(failure_line(&error.into())))],
    };
    let accounts = accounts.as_deref();
    doctor::examine(&Patient { settings, accounts, transport: &transport, clock: &SystemClock }).await
}

fn found(config: &Config) -> Result<Option<Found>, Said> {
    let accounts = known_account(&config.account, &config.settings.state).map_err(Said::failed)?;
    let found = accounts.map_or(Ok(None), |accounts| accounts.find());
    found.map_err(|error: accounts::Error| Said::failed(cycle::Error::from(error)))
}

fn finding(config: &Config, found: Option<&Found>) -> Result<Finding, Said> {
    let settings = &config.settings;
    let journal = JournalFile::new(&settings.state).peek().map_err(Said::failed)?;
    let last = LastRun::load(&settings.state).map_err(Said::failed)?;
    let journal: Journal = journal.unwrap_or_default();
    let known = Known { journal: &journal, found, last: last.as_ref(), check_in: settings.check_in };
    Ok(detect::look(known, SystemClock.now()))
}

impl Said {
    fn failed(error: impl Into<crate::agent::Error>) -> Self {
        Self::failure(failure_line(&error.into()))
    }
}
