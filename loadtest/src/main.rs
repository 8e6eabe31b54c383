//! `keyturn-loadtest`: simulated devices at a pace of their own, and what their rotations cost.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyturn_loadtest::run()
}
