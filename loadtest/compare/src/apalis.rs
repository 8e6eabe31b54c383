//! apalis-sqlite at `synchronous=FULL`: a program of its own, since its binding of SQLite and ours exclude each other in one
//! lock file. It stands beside this one and does a whole round; a message is settled when its table says so.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::Result;
use crate::flow::{AHEAD, BATCH, CONSUMERS, Figures, PRODUCERS};

const PROGRAM: &str = "keyturn-compare-apalis";

#[derive(Deserialize)]
struct Told {
    rate: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub async fn round(length: Duration) -> Result<Figures> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    if !program.exists() {
        return Err(format!("{}: not built; ./bench --compare builds it", program.display()).into());
    }
    let numbers = [PRODUCERS as u64, CONSUMERS as u64, BATCH as u64, AHEAD];
    let mut command = Command::new(program);
    command.arg(length.as_millis().to_string()).args(numbers.map(|number| number.to_string()));
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    let Told { rate, cpu_us, p50_ms, p99_ms } = serde_json::from_slice(&output.stdout)?;
    Ok(Figures { rate, cpu_us, p50_ms, p99_ms })
}
