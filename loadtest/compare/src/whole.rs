//! The whole job beside a synchronous service in the shape of CloudLAPS: the same devices arrive at the same rate, and the
//! same fake of Key Vault is slow and takes so many writes in a window. The circumstances are those of
//! `loadtest/scenarios/slow-vault.toml`; ours is run by `keyturn-loadtest` with that file.
//!
//! The synchronous service is as CloudLAPS 1.x is by its source (MSEndpointMgr/CloudLAPS: `SetSecret.ps1`, `Remediate.ps1`,
//! `cloudlaps.bicep`): one POST that checks, reads and writes the vault, and answers with the password; a device asks once
//! and does not come again before its next schedule. Its template deploys one instance with 3 worker processes of 10
//! invocations each. Azure answers 502 after 230 s, and the function goes on
//! (learn.microsoft.com/azure/azure-functions/functions-scale). What favours it here: no cold start, no PowerShell, no call
//! to Graph, a vault connection that is kept.

mod devices;
mod fleet;
mod ours;
pub mod service;
mod vault;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyturn_domain::span::Span;
use serde::Deserialize;

use crate::{Result, servers};

/// The circumstances, and what ours is run with.
const SCENARIO: &str = include_str!("../../scenarios/slow-vault.toml");

pub const USAGE: &str = "usage: keyturn-compare whole [--devices N] [--gateway S] [--at-once N] [--programs DIR] \
    [--only NAME,NAME]\nnames: fails waits ours; N devices arrive as fast as in loadtest/scenarios/slow-vault.toml. For \
    fewer of them make the gateway's 230 seconds less in proportion";

/// The rows, in this order: a synchronous service that takes a throttled write for a failure, as its code says; one that
/// waits and tries again, as its library may; ours.
const ROWS: [&str; 3] = ["fails", "waits", "ours"];

/// What both sides meet.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    devices: u64,
    rate: f64,
    calls: u32,
    window: Duration,
    delay: Duration,
    gateway: Duration,
    at_once: usize,
}

/// What the scenario's file says of them.
#[derive(Deserialize)]
struct Scenario {
    devices: u64,
    vault: Limit,
    phase: [Phase; 1],
}

#[derive(Deserialize)]
struct Limit {
    calls: u32,
    window: Span,
    delay: Span,
}

#[derive(Deserialize)]
struct Phase {
    arrivals: Arrivals,
}

#[derive(Deserialize)]
struct Arrivals {
    rate: f64,
}

/// What a row came to. Times are from the instant at which a device meant to begin.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Devices that have the password that the vault has.
    pub done: u64,
    /// Devices that were told no, or nothing, and whose vault entry did not change.
    pub failed: u64,
    /// Devices whose vault entry has a password that they never learnt: whoever looks it up cannot log on.
    pub lost: u64,
    /// Devices for which more than one password was made.
    pub doubled: u64,
    /// Devices that were told that they are heard: by a 202, or by their password.
    pub acknowledged: u64,
    /// Until then: median and 99th percentile.
    pub heard: [Duration; 2],
    /// Until the password: the same.
    pub password: [Duration; 2],
    /// Writes that the vault turned away.
    pub refused: u64,
    /// How it ended for those that failed or were lost.
    pub ends: Vec<(String, u64)>,
}

/// Runs what the command line asks for.
pub async fn run(words: &[&str]) -> Result<()> {
    let scenario: Scenario = toml::from_str(SCENARIO)?;
    let mut met = Circumstances {
        devices: scenario.devices,
        rate: scenario.phase[0].arrivals.rate,
        calls: scenario.vault.calls,
        window: scenario.vault.window.0,
        delay: scenario.vault.delay.0,
        gateway: Duration::from_secs(230),
        at_once: 30,
    };
    let mut programs = std::env::current_exe()?.parent().ok_or("this program is in no folder")?.to_owned();
    let mut only: Vec<String> = Vec::new();
    for pair in words.chunks(2) {
        match pair {
            ["--devices", count] => met.devices = count.parse::<u64>()?.max(1),
            ["--gateway", seconds] => met.gateway = Duration::from_secs_f64(seconds.parse()?),
            ["--at-once", count] => met.at_once = count.parse::<usize>()?.max(1),
            ["--programs", folder] => programs = PathBuf::from(folder),
            ["--only", names] => only = names.split(',').map(str::to_owned).collect(),
            _ => return Err(USAGE.into()),
        }
    }
    if let Some(unknown) = only.iter().find(|name| !ROWS.contains(&name.as_str())) {
        return Err(format!("{unknown}: no such row\n{USAGE}").into());
    }
    let fleet = servers::folder()?;
    fleet::make(&programs, fleet.path(), met.devices)?;
    let mut rows = Vec::new();
    for name in ROWS.into_iter().filter(|name| only.is_empty() || only.iter().any(|only| only == name)) {
        rows.push((name, row(name, met, &programs, fleet.path()).await?));
    }
    report(met, &rows)
}

async fn row(name: &str, met: Circumstances, programs: &Path, fleet: &Path) -> Result<Row> {
    match name {
        "ours" => ours::run(met, programs, fleet, SCENARIO).await,
        _ => devices::run(met, programs, fleet, name == "waits").await,
    }
}

fn report(met: Circumstances, rows: &[(&str, Row)]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Circumstances { devices, rate, calls, window, delay, gateway, at_once } = met;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    writeln!(
        out,
        "{devices} devices, {rate}/s; a vault that takes {calls} writes in {window:?} and {delay:?} for a call; the \
         synchronous service does {at_once} at once and is cut off after {gateway:?}; load {}",
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    )?;
    writeln!(
        out,
        "{:22} {:>7} {:>7} {:>7} {:>7} {:>13} {:>21} {:>21} {:>8}",
        "",
        "done",
        "failed",
        "lost",
        "doubled",
        "acknowledged",
        "p50/p99 until then s",
        "until the password s",
        "refused"
    )?;
    for (name, row) in rows {
        let title = match *name {
            "fails" => "synchronous",
            "waits" => "synchronous, waits",
            _ => "Keyturn",
        };
        let times =
            |[p50, p99]: [Duration; 2]| format!("{:.3} / {:.3}", p50.as_secs_f64(), p99.as_secs_f64());
        writeln!(
            out,
            "{title:22} {:>7} {:>7} {:>7} {:>7} {:>13} {:>21} {:>21} {:>8}",
            row.done,
            row.failed,
            row.lost,
            row.doubled,
            row.acknowledged,
            times(row.heard),
            times(row.password),
            row.refused
        )?;
    }
    for (name, row) in rows {
        for (how, count) in &row.ends {
            writeln!(out, "{name}: {count} {how}")?;
        }
    }
    if let Some((_, ours)) = rows.iter().find(|(name, _)| *name == "ours") {
        let all = ours.acknowledged == devices && ours.done == devices && ours.lost + ours.doubled == 0;
        let fast = ours.heard[1] < Duration::from_millis(250);
        writeln!(
            out,
            "G12 all are acknowledged and have their password: {}",
            if all { "met" } else { "NOT MET" }
        )?;
        let p99 = ours.heard[1];
        writeln!(
            out,
            "G12 p99 until acknowledged {p99:.1?}, goal < 250ms: {}",
            if fast { "met" } else { "NOT MET" }
        )?;
    }
    Ok(())
}

/// Two percentiles of times; zero of none.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times.get(times.len() * percent / 100).copied().unwrap_or_default())
}
