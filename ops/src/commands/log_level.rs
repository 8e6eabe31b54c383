//! `keyturn log-level`: how much running processes log.
//!
//! It has to work when nothing else does, most of all when the database does not. So a change is recorded first, and made
//! also where it cannot be recorded: then the command says so and ends with 6. Nothing is lost by that: whoever may write
//! the file can do without this command, and every process logs the change at its error level.

use std::fs;
use std::path::Path;

use keyturn_ports::audit::Action;
use keyturn_service::config::Config;
use keyturn_service::levels;
use serde_json::json;

use super::Deployment;
use crate::cli::{Arguments, LogLevel, Output};
use crate::failure::{Code, Context as _, Failure, Result, usage};
use crate::output::{self, say};

pub(super) async fn run(arguments: &Arguments, command: &LogLevel) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    let file = levels::file_of(&config);
    let changes = command.level.is_some() || command.reset;
    let mut recorded = Ok(());
    if changes {
        if let Some(level) = &command.level {
            levels::check(level).map_err(|error| usage("LEVEL", error))?;
        }
        let detail = change(&config, &file, command);
        recorded = record(arguments, command.reason.as_deref().unwrap_or_default(), &detail).await;
    }
    if let Some(level) = &command.level {
        levels::say(&file, level)?;
    } else if command.reset {
        levels::reset(&file)?;
    }
    let said = levels::said(&file)?;
    let configured = &config.sections.logs.level;
    if arguments.output == Output::Json {
        let level = said.as_ref().unwrap_or(configured);
        output::json(&json!({ "level": level, "configured": configured, "set": said, "file": file }))?;
    } else if let Some(said) = &said {
        say!("{said}, set in {}; {configured} is configured", file.display());
    } else {
        say!("{configured}, as configured");
    }
    if changes {
        let within = config.sections.logs.look_every;
        eprintln!("Processes on this machine log so within {within}, or at once after SIGHUP.");
    }
    recorded
        .map_err(|error| Failure::new(Code::Partial, format!("it is done, and is not in the audit: {error}")))
}

/// From what to what, and whose level it is: every process of the deployment on this machine has the file.
fn change(config: &Config, file: &Path, command: &LogLevel) -> String {
    let configured = &config.sections.logs.level;
    let as_configured = || format!("{configured} as configured");
    let before = match levels::said(file) {
        Ok(said) => said.unwrap_or_else(as_configured),
        Err(_) => "what cannot be read".to_owned(),
    };
    let after = command.level.clone().unwrap_or_else(as_configured);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("from {before} to {after}, of every process on {} that looks at {}", host.trim(), file.display())
}

async fn record(arguments: &Arguments, reason: &str, detail: &str) -> Result<()> {
    let deployment = Deployment::open(arguments).context("the deployment cannot be opened")?;
    deployment.record(Action::LogLevelChanged, None, reason, detail).await
}
