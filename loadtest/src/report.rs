//! What a run came to: as JSON, as a page, and as lines for people.

mod chart;
mod page;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::numbers::{float, micros};
use crate::process;
use crate::record::{Stage, Summary};
use crate::scenario::{Connections, Layout, Thresholds};
use crate::target::VaultReport;
use crate::verify::Verification;
use crate::watch::{Meter, Sample};

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// What it is to show.
    pub about: String,
    /// When it began.
    pub date: String,
    /// How it was started.
    pub command: String,
    /// The server's processes, if this program started it.
    pub layout: Layout,
    /// What connections were used for.
    pub connection: Connections,
    /// Devices.
    pub devices: u64,
    /// RSA keys that they shared.
    pub keys: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The phases, steps of a search included.
    pub phases: Vec<PhaseReport>,
    /// The search.
    pub search: Option<Search>,
    /// Whether something was lost or doubled; none where the deployment cannot be asked.
    pub verification: Option<Verification>,
    /// How the vault was used, if it is a fake.
    pub vault: Option<VaultReport>,
    /// What the run was held to.
    pub judgements: Vec<Judgement>,
    /// What was seen each second.
    pub samples: Vec<Sample>,
}

/// The machine that the load came from.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Its processor.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// The load average before the run.
    pub load_before: Option<f64>,
    /// The share of its CPU time that went to neither client nor server while it ran.
    pub others: Option<f64>,
}

impl Machine {
    /// This machine.
    pub fn told(load_before: Option<f64>, others: Option<f64>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { processor: process::processor().unwrap_or_default(), cores, load_before, others }
    }
}

/// A phase.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Whether thresholds count here.
    pub measured: bool,
    /// Whether requests were signed ahead.
    pub presigned: bool,
    /// When it began, in seconds of the run.
    pub at: f64,
    /// Arrivals.
    pub planned: u64,
    /// How long arrivals came in, in seconds.
    pub arrivals_s: f64,
    /// Until the last rotation had ended, in seconds.
    pub took_s: f64,
    /// Passwords given per second of that.
    pub rate: f64,
    /// Server CPU time of a rotation, in microseconds.
    pub server_us: f64,
    /// Each process.
    pub costs: BTreeMap<String, Cost>,
    /// What the server itself measured, by stage.
    pub server: BTreeMap<String, Meter>,
    /// What devices measured.
    pub summary: Summary,
}

/// What a process cost in a phase. Idle time is in it: at low rates a rotation costs more than it takes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// CPU time of a rotation, in microseconds.
    pub cpu_us: f64,
    /// Cores that it kept busy.
    pub cores: f64,
    /// Bytes sent to disks for a rotation.
    pub written: f64,
    /// Resident memory at the end, in bytes.
    pub memory: u64,
    /// The most that it was until then, since the process began.
    pub peak: u64,
}

/// A search for the highest rate.
#[derive(Clone, Debug, Serialize)]
pub struct Search {
    /// The bound on the 99th percentile, in microseconds.
    pub bound_us: u64,
    /// Each rate that was tried.
    pub steps: Vec<Step>,
    /// The highest that was borne, per second.
    pub borne: Option<f64>,
}

/// One rate of a search.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Step {
    /// Per second.
    pub rate: f64,
    /// 99 % had their password within this, in microseconds.
    pub p99_us: u64,
    /// Rotations that did not end well.
    pub failed: u64,
    /// Whether it was borne.
    pub borne: bool,
}

/// A threshold and what it was compared with.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// What.
    pub what: String,
    /// At most.
    pub bound: f64,
    /// What was measured.
    pub got: f64,
    /// Whether it holds.
    pub holds: bool,
}

impl PhaseReport {
    /// The phase in a line.
    pub fn line(&self) -> String {
        let at = |quantile: fn(&crate::record::Percentiles) -> u64| {
            let spread = self.summary.stages.get(&Stage::AtHand);
            spread.map_or_else(
                || "–".to_owned(),
                |spread| format!("{:.1?}", Duration::from_micros(quantile(spread))),
            )
        };
        let client = self.costs.get(crate::watch::CLIENT).map_or(0.0, |cost| cost.cpu_us);
        format!(
            "{:<12} {:>7} arrivals, {:>7} confirmed, {:>6.0}/s; password after p50 {} p99 {} max {}; CPU per rotation: \
             server {:.0} us, client {client:.0} us",
            self.name,
            self.planned,
            self.summary.confirmed,
            self.rate,
            at(|spread| spread.p50),
            at(|spread| spread.p99),
            at(|spread| spread.max),
            self.server_us,
        )
    }

    /// The most that the server's processes held together: no less than what they held at any instant.
    fn peak(&self) -> u64 {
        let server = self.costs.iter().filter(|(name, _)| *name != crate::watch::CLIENT);
        server.map(|(_, cost)| cost.peak).sum()
    }

    /// What devices were turned away with, and how many times.
    fn turned(&self) -> Option<String> {
        let summary = &self.summary;
        let each = summary.turned_away.iter().map(|(status, count)| format!("{count} with {status}"));
        let all = each.collect::<Vec<_>>().join(", ");
        let turned = (!all.is_empty())
            .then(|| format!("turned away {all}; {} without saying when to come back", summary.untold));
        let broken = (summary.broken > 0)
            .then(|| format!("{} calls were made again, their connections having broken", summary.broken));
        let told: Vec<String> = turned.into_iter().chain(broken).collect();
        (!told.is_empty()).then(|| format!("{}: {}", self.name, told.join("; ")))
    }
}

impl Report {
    /// The most that the server's processes held together, in MiB.
    fn peak(&self) -> f64 {
        float(self.phases.iter().map(PhaseReport::peak).max().unwrap_or(0)) / f64::from(1 << 20)
    }

    /// The same, judged with what came to the vault.
    pub fn with_vault(mut self, vault: Option<VaultReport>, bounds: &Thresholds) -> Self {
        self.vault = vault;
        self.judgements = judge(&self, bounds);
        self
    }

    /// Whether everything held.
    pub fn holds(&self) -> bool {
        self.judgements.iter().all(|judgement| judgement.holds)
    }

    /// Writes `NAME.json` and `NAME.html` into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let file = |extension| folder.join(format!("{}.{extension}", self.scenario));
        std::fs::write(file("json"), serde_json::to_string_pretty(self)?)?;
        std::fs::write(file("html"), page::of(self))?;
        Ok(())
    }

    /// The run in lines.
    pub fn told(&self) -> String {
        let mut lines = Vec::new();
        for phase in &self.phases {
            let odd = phase.summary.ended.iter().filter(|(how, _)| *how != "confirmed");
            lines.extend(odd.map(|(how, count)| format!("{}: {count} {how}", phase.name)));
            lines.extend(phase.turned());
        }
        lines.push(format!("server's memory at its worst: {:.1} MiB", self.peak()));
        if let Some(search) = &self.search {
            let bound = Duration::from_micros(search.bound_us);
            lines.push(match search.borne {
                Some(rate) => format!("borne: {rate:.0} rotations/s with p99 at most {bound:?}"),
                None => format!("not even the lowest rate was borne with p99 at most {bound:?}"),
            });
        }
        match &self.verification {
            Some(found) => {
                lines.push(format!(
                    "verified: {} devices, {} versions made, {} given, {} faults",
                    found.devices, found.made, found.given, found.faults
                ));
                lines.extend(found.told.iter().cloned());
            }
            None => lines.push("not verified: the deployment cannot be asked; say --operate".to_owned()),
        }
        if let Some(vault) = &self.vault {
            lines.push(format!(
                "vault: {} writes in {:.1} s, {:.2}/s, {:.1} % of what it takes; at most {} in {} s of {}; {} turned away",
                vault.taken,
                vault.lasted_s,
                vault.rate,
                vault.used * 100.0,
                vault.most,
                vault.window_s,
                vault.calls,
                vault.refused
            ));
        }
        for judgement in &self.judgements {
            let word = if judgement.holds { "ok" } else { "FAILED" };
            lines.push(format!(
                "{word:<7} {}: {} of at most {}",
                judgement.what, judgement.got, judgement.bound
            ));
        }
        lines.join("\n")
    }
}

/// Compares a report with thresholds. Losses and doubles are never within bounds, and a run that measured nothing does
/// not hold.
pub fn judge(report: &Report, bounds: &Thresholds) -> Vec<Judgement> {
    let mut all = Vec::new();
    let mut at_most = |what: String, bound: f64, got: f64| {
        all.push(Judgement { what, bound, got, holds: got <= bound });
    };
    if let Some(found) = &report.verification {
        at_most("versions or messages lost or doubled".to_owned(), 0.0, float(found.faults));
    }
    let searched = report.search.as_ref();
    if let Some(search) = searched {
        at_most("searches that found no rate".to_owned(), 0.0, f64::from(u8::from(search.borne.is_none())));
    }
    for phase in report.phases.iter().filter(|phase| phase.measured) {
        judge_phase(phase, bounds, &mut at_most);
    }
    judge_phases(report, bounds, &mut at_most);
    if let Some(vault) = &report.vault {
        at_most("vault: writes in a window".to_owned(), f64::from(vault.calls), float(vault.most));
        if let Some(bound) = bounds.vault_refused {
            at_most("vault: writes turned away".to_owned(), float(bound), float(vault.refused));
        }
        if let Some(bound) = bounds.vault_unused {
            at_most("vault: share of its rate left unused".to_owned(), bound, 1.0 - vault.used);
        }
    }
    let given: u64 = report.phases.iter().map(|phase| phase.summary.given).sum();
    at_most("runs without a single password".to_owned(), 0.0, f64::from(u8::from(given == 0)));
    all
}

fn judge_phase(phase: &PhaseReport, bounds: &Thresholds, at_most: &mut impl FnMut(String, f64, f64)) {
    let (name, summary) = (&phase.name, &phase.summary);
    let lost = phase.planned - summary.finished;
    at_most(format!("{name}: arrivals without an end"), 0.0, float(lost));
    let failed = summary.finished - summary.confirmed;
    at_most(format!("{name}: rotations that failed"), float(bounds.failed), float(failed));
    let at = |quantile: fn(&crate::record::Percentiles) -> u64| {
        summary.stages.get(&Stage::AtHand).map_or(f64::INFINITY, |spread| float(quantile(spread)))
    };
    let untold = float(summary.untold);
    at_most(format!("{name}: turned away without a time to come back"), 0.0, untold);
    if let Some(bound) = bounds.acknowledged {
        let got = summary.stages.get(&Stage::Acknowledged).map_or(f64::INFINITY, |spread| float(spread.p99));
        at_most(format!("{name}: p99 until acknowledged in us"), float(micros(bound.0)), got);
    }
    if let Some(bound) = bounds.p50 {
        at_most(format!("{name}: p50 in us"), float(micros(bound.0)), at(|spread| spread.p50));
    }
    if let Some(bound) = bounds.p99 {
        at_most(format!("{name}: p99 in us"), float(micros(bound.0)), at(|spread| spread.p99));
    }
    if let Some(bound) = bounds.cpu {
        at_most(format!("{name}: server CPU of a rotation in us"), float(micros(bound.0)), phase.server_us);
    }
}

/// Bounds on phases beside others, and on the whole run.
fn judge_phases(report: &Report, bounds: &Thresholds, at_most: &mut impl FnMut(String, f64, f64)) {
    if let Some(bound) = bounds.memory {
        at_most("server's memory at its worst in MiB".to_owned(), bound, report.peak());
    }
    let named = |name: &str| report.phases.iter().find(|phase| phase.name == name);
    if let Some(slower) = &bounds.slower {
        let spread = |name: &str| named(name)?.summary.stages.get(&Stage::AtHand);
        let ratio = spread(&slower.phase).zip(spread(&slower.than));
        let ratio = ratio.map_or(f64::INFINITY, |(one, other)| float(one.p99) / float(other.p50));
        at_most(format!("{}: p99 / p50 of {}", slower.phase, slower.than), slower.times, ratio);
    }
    if let Some(name) = &bounds.overloaded {
        let shed = named(name).is_some_and(|phase| !phase.summary.turned_away.is_empty());
        at_most(format!("{name}: overload of which nobody was told"), 0.0, f64::from(u8::from(!shed)));
    }
}

#[cfg(test)]
mod tests;
