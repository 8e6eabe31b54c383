//! `keyturn doctor` and `keyturn support`: what is wrong with a deployment and what mends it, one line for each check.
//!
//! Nothing is changed: a transaction that is begun to see whether it can be is rolled back. With `--write` two things are,
//! since Key Vault and Azure Storage know no such transaction: a version of a secret that is the doctor's own is made, and a
//! message is sent that nobody gets to see, and deleted.

mod bundle;
mod disk;
mod keys;
mod logs;
mod services;
mod versions;
mod work;

use keyturn_ports::schema::Schema;
use keyturn_service::config::Config;
use keyturn_service::levels;
use serde::Serialize;

pub(super) use self::bundle::write as support;
pub(super) use self::keys::home;
use super::Deployment;
use crate::cli::{Arguments, Output};
use crate::failure::{Code, Failure, Result};
use crate::output::{self, say};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum State {
    /// All is well.
    Ok,
    /// It works, and will not for long, or is not as it should be.
    Warning,
    /// It does not work, or is not safe.
    Failed,
}

/// One check.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    #[serde(rename = "check")]
    name: &'static str,
    state: State,
    found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), mend: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, state: State::Warning, found: found.into(), mend: Some(mend.into()) }
    }

    fn failed(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, state: State::Failed, found: found.into(), mend: Some(mend.into()) }
    }
}

/// Makes every check and tells each. Ends with 1 if one failed.
pub(super) async fn run(arguments: &Arguments, write: bool) -> Result<()> {
    let checks = match Deployment::open(arguments) {
        Ok(deployment) => examine(&deployment, write).await,
        Err(error) => {
            let mend = "nothing else can be looked at before this is mended";
            vec![Check::failed("configuration", format!("{} {error}", error.code().code()), mend)]
        }
    };
    if arguments.output == Output::Json {
        output::json(&checks)?;
    } else {
        for check in &checks {
            let word = match check.state {
                State::Ok => "ok     ",
                State::Warning => "warning",
                State::Failed => "failed ",
            };
            let mend = check.mend.as_ref().map_or_else(String::new, |mend| format!("; {mend}"));
            let line = format!("{word} {:<14} {}{mend}", check.name, check.found).replace('\n', " ");
            say!("{}", output::printable(line));
        }
    }
    match checks.iter().filter(|check| check.state == State::Failed).count() {
        0 => Ok(()),
        failed => Err(Failure::new(Code::CheckFailed, format!("{failed} of {} checks failed", checks.len()))),
    }
}

pub(super) async fn examine(deployment: &Deployment, write: bool) -> Vec<Check> {
    let mut checks = vec![Check::ok("configuration", "it is read, and its database is opened")];
    checks.push(schema(deployment.engines.schema()));
    checks.push(log_level(&deployment.config));
    // What comes of it is told with the keys.
    drop(deployment.keys.unlock().await);
    checks.extend(keys::examine(deployment).await);
    checks.extend(disk::examine(deployment).await);
    checks.extend(work::examine(deployment, write).await);
    checks.extend(services::examine(deployment, write).await);
    checks.extend(versions::examine(deployment).await);
    checks.extend(logs::examine(deployment).await);
    checks
}

/// What was meant for an hour stays until somebody takes it back.
fn log_level(config: &Config) -> Check {
    const NAME: &str = "log level";
    match levels::said(&levels::file_of(config)) {
        Ok(None) => Check::ok(NAME, format!("{}, as configured", config.sections.logs.level)),
        Ok(Some(said)) => Check::warning(
            NAME,
            format!("{said}, set by hand"),
            "`keyturn log-level --reset` when it is done with",
        ),
        Err(error) => Check::warning(NAME, error.to_string(), "`keyturn log-level --reset`"),
    }
}

/// Whether a later release has had the database.
fn schema(schema: Schema) -> Check {
    const NAME: &str = "schema";
    let Schema { found, known } = schema;
    if schema.is_ahead() {
        let found = format!("the database has schema {found}, and this release knows up to {known}");
        return Check::warning(
            NAME,
            found,
            "it works; put the later release back when it is mended: docs/OPERATE.md",
        );
    }
    Check::ok(NAME, format!("the database has schema {found}, the newest that this release knows"))
}
