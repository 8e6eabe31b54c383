//! A fake of Key Vault that takes so many writes in any window of time and no more: a program of the tests
//! (`crates/testkit/examples/fake_key_vault.rs`) in a process of its own, with what gives out tokens for it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::scenario::VaultLimit;

/// The fake's program, beside the programs that are loaded.
const PROGRAM: &str = "examples/fake_key_vault";

/// The fake, which ends with this value.
pub struct Vault {
    limit: VaultLimit,
    url: String,
    variables: BTreeMap<String, String>,
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

/// What the fake counted.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Counted {
    taken: u64,
    lasted_s: f64,
    refused: u64,
    most: u64,
}

/// How the vault was used.
#[derive(Clone, Debug, Serialize)]
pub struct VaultReport {
    /// Writes that it takes in any window.
    pub calls: u32,
    /// That window, in seconds.
    pub window_s: f64,
    /// Writes that it took, for whatever secrets.
    pub taken: u64,
    /// Writes that it turned away with 429.
    pub refused: u64,
    /// The most that it took in a window.
    pub most: u64,
    /// From the first write to the last, in seconds.
    pub lasted_s: f64,
    /// Writes per second of that.
    pub rate: f64,
    /// The share of what it would have taken that was used.
    pub used: f64,
}

impl Vault {
    /// Starts one whose certificate is written to `ca`.
    pub fn start(programs: &Path, limit: VaultLimit, ca: &Path) -> Result<Self> {
        let program = programs.join(PROGRAM);
        ensure!(
            program.exists(),
            "{}: no such program; build it with `cargo build --package keyturn-testkit --example fake_key_vault`",
            program.display()
        );
        let seconds = limit.window.0.as_secs().to_string();
        let mut child = Command::new(&program)
            .arg(ca)
            .args(["--limit", &limit.calls.to_string(), &seconds])
            .args(["--delay", &limit.delay.0.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).context("its input and output are pipes")?;
        let mut lines = BufReader::new(stdout);
        let url = line(&mut lines)?;
        let variables = serde_json::from_str(&line(&mut lines)?).context("the environment of an identity")?;
        Ok(Self { limit, url, variables, child, pipes: Mutex::new((stdin, lines)) })
    }

    /// What every process of the deployment has in its environment, to get tokens.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The settings by which a deployment uses it; `ca` is relative to the configuration.
    pub fn settings(&self, ca: &str) -> Table {
        let text = |value: &str| Value::String(value.to_owned());
        let vault = [
            ("engine", text("key-vault")),
            ("urls", Value::Array(vec![text(&self.url)])),
            ("danger_unverified_challenge", Value::Boolean(true)),
            ("creations", Value::Integer(i64::from(self.limit.calls))),
            ("creations_window", text(&format!("{}s", self.limit.window.0.as_secs()))),
        ];
        let section = |pairs: Vec<(&str, Value)>| -> Table {
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        section(vec![
            ("vault", Value::Table(section(vault.into()))),
            ("azure", Value::Table(section(vec![("ca", text(ca))]))),
        ])
    }

    /// What it counted since it was started.
    pub fn report(&self) -> Result<VaultReport> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, lines) = &mut *pipes;
        writeln!(stdin, "count")?;
        let counted: Counted = serde_json::from_str(&line(lines)?).context("what the fake vault counted")?;
        Ok(VaultReport::of(self.limit, counted))
    }
}

impl VaultReport {
    fn of(limit: VaultLimit, Counted { taken, lasted_s, refused, most }: Counted) -> Self {
        let window_s = limit.window.0.as_secs_f64();
        // The first begins the time and is over when it begins.
        let rate = crate::numbers::float(taken.saturating_sub(1)) / lasted_s.max(1e-9);
        let used = rate * window_s / f64::from(limit.calls);
        Self { calls: limit.calls, window_s, taken, refused, most, lasted_s, rate, used }
    }
}

fn line(lines: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    ensure!(lines.read_line(&mut line)? > 0, "the fake vault has ended");
    Ok(line.trim().to_owned())
}

impl Drop for Vault {
    fn drop(&mut self) {
        // Already gone, if it failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyturn_domain::span::Span;

    use super::*;

    #[test]
    fn what_is_used_is_a_share_of_what_is_allowed() {
        let span = |secs| Span(Duration::from_secs(secs));
        let limit = VaultLimit { calls: 300, window: span(10), delay: span(0) };
        let counted = Counted { taken: 301, lasted_s: 10.0, refused: 2, most: 300 };
        let report = VaultReport::of(limit, counted);
        assert!((report.rate - 30.0).abs() < 1e-9 && (report.used - 1.0).abs() < 1e-9, "{report:?}");
        let idle = VaultReport::of(limit, Counted { taken: 0, lasted_s: 0.0, ..counted });
        assert!(idle.used.abs() < 1e-9, "{idle:?}");
    }
}
