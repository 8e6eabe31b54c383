//! The `keyturn` command: make a deployment, run it, look into it, mend it.
//!
//! This is the one crate that knows every role. Data goes to stdout, everything else to stderr; who is acting
//! comes from the operating system, never from an argument.
//!
//! Reading order: [`cli`] (what can be said), [`commands`] (one file per noun), [`roles`] (all roles in one
//! process), [`demo`] (a simulated fleet against it).

mod cli;
mod commands;
mod demo;
mod failure;
mod operator;
mod output;
mod resolve;
mod reveal;
mod roles;

use std::process::ExitCode;

pub use roles::Roles;

use crate::failure::{Code, OrFail as _};

/// Runs the command line.
pub fn run() -> ExitCode {
    let arguments = match cli::parse() {
        Ok(arguments) => arguments,
        Err(ended) => return ended,
    };
    let output = arguments.output;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime
        .or_fail(Code::System, "no threads to work with")
        .and_then(|runtime| runtime.block_on(commands::run(arguments)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure::report(&failure, output),
    }
}
