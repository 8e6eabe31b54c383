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

/// Runs the command line.
pub fn run() -> ExitCode {
    let arguments = cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&error.into()),
    };
    match runtime.block_on(commands::run(arguments)) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}
