//! `keyturn log-level`: how much running processes log.

use keyturn_service::config::Config;
use keyturn_service::levels;
use serde_json::json;

use crate::cli::{Arguments, LogLevel, Output};
use crate::failure::{Result, usage};
use crate::output::{self, say};

/// Opens no engine: it has to work when nothing else does.
pub(super) fn run(arguments: &Arguments, command: &LogLevel) -> Result<()> {
    let config = Config::load(&arguments.config)?;
    let file = levels::file_of(&config);
    if let Some(level) = &command.level {
        levels::check(level).map_err(|error| usage("LEVEL", error))?;
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
    if command.level.is_some() || command.reset {
        let within = config.sections.logs.look_every;
        eprintln!("Processes on this machine log so within {within}, or at once after SIGHUP.");
    }
    Ok(())
}
