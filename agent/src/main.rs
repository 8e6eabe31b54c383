//! The `keyturn-agent` program: everything of substance is in the library.

use std::io::{IsTerminal as _, stderr};
use std::process::ExitCode;

use clap::Parser as _;
use keyturn_agent::cli::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_max_level(cli.log_level())
        // A line that cannot be written is lost. Telling so on stderr would end the run.
        .log_internal_errors(false)
        .init();
    cli.execute().await
}
