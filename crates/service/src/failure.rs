//! Everything that an operator can be told went wrong: a code with a page, an exit code and a mend.
//!
//! A process that does not start, and a command that does not come to its end, end with a [`Failure`], and a failure
//! cannot be made without a [`Code`]. Typed errors have theirs by [`Coded`], each by a `match` that names every case. There
//! is no way from an `io::Error` to a failure: what is wrong with a file depends on what the file is for.

mod code;
mod coded;
pub mod pages;

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

use serde_json::json;

use crate::terminal::printable;

pub use self::code::Code;

/// An error that has a code.
pub trait Coded: StdError {
    /// Its code.
    fn code(&self) -> Code;
}

/// Why a process or a command ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: Code,
    message: String,
    causes: Vec<String>,
}

impl Failure {
    /// A failure of this code. The message says what is wrong with what.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new() }
    }

    /// An error, and what it was caused by, under this code.
    pub fn of(code: Code, error: &dyn StdError) -> Self {
        Self::new(code, error.to_string()).caused_by(error.source())
    }

    /// The same, in the course of something else, which is said first.
    #[must_use]
    pub fn within(mut self, what: impl fmt::Display) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, what.to_string()));
        self
    }

    /// The same with its causes, the nearest first.
    #[must_use]
    pub fn caused_by(mut self, mut cause: Option<&dyn StdError>) -> Self {
        while let Some(error) = cause {
            self.causes.push(error.to_string());
            cause = error.source();
        }
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What is said on stderr: code, message and causes, then the mend and where its page is.
    pub fn text(&self) -> String {
        let (code, mend) = (self.code.code(), self.code.mend());
        format!("{code} {}\n  {mend} (`keyturn explain {code}`)", shown(&self.to_string()))
    }

    /// The same for programs, in one line: code, title, message, causes, mend and exit.
    pub fn json(&self) -> String {
        let (message, causes) = self.parts();
        let value = json!({
            "code": self.code.code(), "title": self.code.title(), "message": shown(&message),
            "causes": causes.iter().map(|cause| shown(cause)).collect::<Vec<_>>(), "mend": self.code.mend(),
            "exit": self.code.exit(),
        });
        value.to_string()
    }

    /// Tells it on stderr in the name of a program. Returns what the program is to end with.
    pub fn report(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {}", self.text());
        ExitCode::from(self.code.exit())
    }

    /// Message and causes. Where an error has its code in its own words, as in logs, it is not said twice; and what a text
    /// has of its cause already is not either.
    fn parts(&self) -> (String, Vec<String>) {
        let own = format!("{}: ", self.code.code());
        let message = self.message.replace(&own, "");
        let mut said = message.clone();
        let mut causes = Vec::new();
        for cause in self.causes.iter().map(|cause| cause.replace(&own, "")) {
            if !said.contains(&cause) {
                said.push_str(&cause);
                causes.push(cause);
            }
        }
        (message, causes)
    }
}

/// Parts of it may be somebody else's words. Line breaks are ours: a syntax error shows the line.
fn shown(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| printable(line.to_owned())).collect();
    lines.join("\n")
}

/// Message and causes, without the code.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (message, causes) = self.parts();
        f.write_str(&message)?;
        causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl StdError for Failure {}

impl<E: Coded> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(error.code(), &error)
    }
}

#[cfg(test)]
mod tests;
