//! `keyturn`: everything an operator does, and all roles in one process.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyturn_ops::run()
}
