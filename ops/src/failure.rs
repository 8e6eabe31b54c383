//! How a command fails: one line on stderr with the mend, and an exit code that scripts can go by.

use std::process::ExitCode;

use keyturn_ports::Kind;
use keyturn_service::engines::OpenError;

use crate::output::printable;

/// A failure with an exit code of its own. Everything else is 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Exit code 2: what was said cannot be meant, whatever the deployment is like.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3.
    #[error("{0}")]
    NotFound(String),
    /// Exit code 5: what was named is not, or no longer, what it was taken for.
    #[error("{0}")]
    Conflict(String),
    /// Exit code 6: some of it worked.
    #[error("{0}")]
    Partial(String),
    /// Exit code 130: somebody pressed Ctrl-C. What was done is done.
    #[error("{0}")]
    Interrupted(String),
}

/// The exit code of an error: docs/OPERATE.md has the table.
fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Usage(_)) => 2,
        Some(Failure::NotFound(_)) => 3,
        Some(Failure::Conflict(_)) => 5,
        Some(Failure::Partial(_)) => 6,
        Some(Failure::Interrupted(_)) => 130,
        None if error.chain().any(is_no_database) => 3,
        None => match error.chain().find_map(kind) {
            Some(Kind::Denied) => 4,
            Some(Kind::Unavailable) => 7,
            _ => 1,
        },
    }
}

/// What was said wrongly in the value of `option`.
pub(crate) fn usage(option: &str, why: impl std::fmt::Display) -> anyhow::Error {
    Failure::Usage(format!("{option}: {why}")).into()
}

/// A reason that says nothing, which the audit would keep.
pub(crate) fn no_reason() -> anyhow::Error {
    Failure::Usage("--reason must say why: the audit keeps it".to_owned()).into()
}

fn is_no_database(cause: &(dyn std::error::Error + 'static)) -> bool {
    let opened = cause.downcast_ref::<OpenError>();
    opened.is_some_and(|error| matches!(error, OpenError::NoDatabase(_)) || error.has_no_tables())
}

/// What an engine that failed says can be done.
fn kind(cause: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    let engine = cause.downcast_ref::<keyturn_ports::Error>().map(keyturn_ports::Error::kind);
    engine.or_else(|| cause.downcast_ref::<OpenError>().and_then(OpenError::kind))
}

/// An error and its causes. What a text has of its cause already is not said twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Tells the error and its causes.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // Parts of it may be somebody else's words. Line breaks are ours: a syntax error shows the line.
    let lines: Vec<String> = chain(error).lines().map(|line| printable(line.to_owned())).collect();
    eprintln!("keyturn: {}", lines.join("\n"));
    ExitCode::from(code(error))
}
