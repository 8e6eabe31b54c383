//! How a command fails: with a code, a message that says what is wrong and what mends it, and the code's exit code.
//!
//! Nothing becomes a [`Failure`] by itself but errors that have a code of their own. Everything else is given one where it
//! happens, because what it means depends on what was being done.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

pub(crate) use keyturn_service::failure::{Code, Failure};

use crate::cli::Output;

/// What commands return.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// What was said wrongly in the value of `option`.
pub(crate) fn usage(option: &str, why: impl Display) -> Failure {
    Failure::new(Code::Usage, format!("{option}: {why}"))
}

/// A reason that says nothing, which the audit would keep.
pub(crate) fn no_reason() -> Failure {
    Failure::new(Code::ReasonMissing, "--reason must say why: the audit keeps it")
}

/// Says in the course of what something failed that has a code already.
pub(crate) trait Context<T> {
    /// The failure, with `what` in front.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Into<Failure>> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| error.into().within(what))
    }
}

/// Gives a code to what has none.
pub(crate) trait OrFail<T>: Sized {
    /// The failure, with `what` in front.
    fn or_fail(self, code: Code, what: impl Display) -> Result<T>;

    /// For what cannot fail.
    fn or_defect(self) -> Result<T> {
        self.or_fail(Code::Defect, "this should not happen")
    }
}

impl<T, E: StdError> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: Code, what: impl Display) -> Result<T> {
        self.map_err(|error| Failure::of(code, &error).within(what))
    }
}

impl<T> OrFail<T> for Option<T> {
    fn or_fail(self, code: Code, what: impl Display) -> Result<T> {
        self.ok_or_else(|| Failure::new(code, what.to_string()))
    }
}

/// Gives a code to what the system says of a file.
pub(crate) trait OfFile<T> {
    /// It was to be read.
    fn read_of(self, path: &Path) -> Result<T>;
    /// It was to be written, made or taken away.
    fn written_to(self, path: &Path) -> Result<T>;
}

impl<T> OfFile<T> for io::Result<T> {
    fn read_of(self, path: &Path) -> Result<T> {
        self.or_fail(Code::FileUnread, format_args!("{}: cannot be read", path.display()))
    }

    fn written_to(self, path: &Path) -> Result<T> {
        self.map_err(|error| {
            let code = Code::of_writing(&error);
            Failure::of(code, &error).within(format_args!("{}: cannot be written", path.display()))
        })
    }
}

/// Tells a failure: for people, or as one line of JSON for programs.
pub(crate) fn report(failure: &Failure, output: Output) -> ExitCode {
    match output {
        Output::Text => failure.report("keyturn"),
        Output::Json => {
            eprintln!("{}", failure.json());
            ExitCode::from(failure.code().exit())
        }
    }
}
