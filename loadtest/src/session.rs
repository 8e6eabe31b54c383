//! One run: the phases of a scenario against a target, the search if there is one, and the report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_domain::span::Span;
use keyturn_schemas::envelope::rfc3339;

use crate::arrivals::Arrivals;
use crate::device::{Device, Trust, World};
use crate::drive::{self, Pool};
use crate::fleet::Fleet;
use crate::numbers::{each, float, micros};
use crate::process::{self, Usage};
use crate::record::{Record, Stage, Summary};
use crate::report::{Cost, Machine, PhaseReport, Report, Search as Found, Step, judge};
use crate::scenario::{Phase, Scenario, Search};
use crate::target::Target;
use crate::verify::{self, Verification};
use crate::watch::{self, CLIENT, Watch};
use crate::wire::Wire;

/// Between two lines of progress.
const TELL: Duration = Duration::from_millis(500);

/// What a run is made of.
pub struct Session<'a> {
    scenario: &'a Scenario,
    target: &'a Target,
    world: Arc<World>,
    pool: Arc<Pool>,
    began: Duration,
    phases: Vec<PhaseReport>,
    search: Option<Found>,
}

/// Runs a scenario against a target, and reports.
pub async fn run(scenario: &Scenario, target: &Target, fleet: Fleet, command: String) -> Result<Report> {
    let (date, began, keys) = (SystemClock.now(), SystemClock.monotonic(), fleet.keys);
    let wire = Wire::new(&target.url, target.ca.as_deref(), scenario.connection)?;
    let world = World {
        wire,
        deployment: target.deployment.clone(),
        trust: Trust::new(target.root.clone()),
        behaviour: scenario.device,
    };
    let devices = fleet.devices.into_iter().map(Device::new).collect::<Result<Vec<_>>>()?;
    let mut session = Session {
        scenario,
        target,
        world: Arc::new(world),
        pool: Arc::new(Pool::new(devices)),
        began,
        phases: Vec::new(),
        search: None,
    };
    let load = process::load();
    let (busy, own) = (process::machine(), watch::usages(&watch::processes(target)));
    let watch = Watch::start(target, began);
    for (number, phase) in (0..).zip(&scenario.phase) {
        if phase.arrivals.is_share() && scenario.borne.is_none() {
            session.find().await?;
        }
        session.phase(phase, scenario.seed.wrapping_add(number)).await?;
    }
    session.find().await?;
    let (samples, took) = (watch.samples(), SystemClock.monotonic().saturating_sub(began));
    drop(watch);
    let machine = Machine::told(load, others(target, busy, &own, took));
    let Session { pool, phases, search, .. } = session;
    let verification = verified(target, pool, date)?;
    let mut report = Report {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        date: rfc3339(date),
        command,
        layout: scenario.layout,
        connection: scenario.connection,
        devices: scenario.devices,
        keys,
        machine,
        phases,
        search,
        verification,
        vault: None,
        judgements: Vec::new(),
        samples,
    };
    report.judgements = judge(&report, &scenario.thresholds);
    Ok(report)
}

/// The share of the machine's CPU time that went to processes which are no part of this run.
fn others(
    target: &Target,
    before: Option<Duration>,
    own: &BTreeMap<String, Usage>,
    took: Duration,
) -> Option<f64> {
    let all = process::machine()?.checked_sub(before?)?;
    let now = watch::usages(&watch::processes(target));
    let ours: Duration = now
        .iter()
        .map(|(name, usage)| usage.cpu.saturating_sub(own.get(name).copied().unwrap_or_default().cpu))
        .sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let there = took.as_secs_f64() * float(u64::try_from(cores).ok()?);
    Some(all.saturating_sub(ours).as_secs_f64() / there)
}

fn verified(
    target: &Target,
    pool: Arc<Pool>,
    since: keyturn_domain::time::UnixMillis,
) -> Result<Option<Verification>> {
    let (Some(operator), Some(pool)) = (&target.operator, Arc::into_inner(pool)) else { return Ok(None) };
    verify::verify(operator, &pool.into_devices(), since).map(Some)
}

impl Session<'_> {
    /// Runs a phase and adds its results. Returns what was measured.
    async fn phase(&mut self, phase: &Phase, seed: u64) -> Result<Summary> {
        let found = self.search.as_ref().and_then(|search| search.borne);
        let borne = self.scenario.borne.or(found).unwrap_or_default();
        let arrivals = phase.arrivals.of(self.scenario.devices, borne);
        if let Some(fault) = arrivals.fault() {
            anyhow::bail!("phase {}: {fault}", phase.name);
        }
        let schedule = arrivals.schedule(seed);
        let planned = u64::try_from(schedule.len())?;
        let record = Arc::new(Record::default());
        let telling = tokio::spawn(tell(phase.name.clone(), planned, Arc::clone(&record)));
        let processes = watch::processes(self.target);
        let (before, meters) = (watch::usages(&processes), watch::stages(self.target).await);
        let at = SystemClock.monotonic().saturating_sub(self.began);
        let took = drive::run(phase, schedule, &self.world, &self.pool, &record).await;
        telling.abort();
        let took = took?;
        let summary = record.summary();
        let server = watch::stages(self.target).await.since(&meters);
        let after = watch::usages(&processes);
        let costs = after.iter().map(|(name, now)| {
            let then = before.get(name).copied().unwrap_or_default();
            let cpu = now.cpu.saturating_sub(then.cpu);
            let cost = Cost {
                cpu_us: each(float(micros(cpu)), summary.given),
                cores: cpu.as_secs_f64() / took.as_secs_f64().max(1e-9),
                written: each(float(now.written.saturating_sub(then.written)), summary.given),
                memory: now.memory,
                peak: now.peak,
            };
            (name.clone(), cost)
        });
        let costs: BTreeMap<_, _> = costs.collect();
        let server_us = costs.iter().filter(|(name, _)| *name != CLIENT).map(|(_, cost)| cost.cpu_us).sum();
        self.phases.push(PhaseReport {
            name: phase.name.clone(),
            measured: phase.measured,
            presigned: phase.presign,
            at: at.as_secs_f64(),
            planned,
            arrivals_s: arrivals.span().as_secs_f64(),
            took_s: took.as_secs_f64(),
            rate: float(summary.given) / took.as_secs_f64().max(1e-9),
            server_us,
            costs,
            server,
            summary: summary.clone(),
        });
        eprintln!("{}", self.phases.last().map(PhaseReport::line).unwrap_or_default());
        Ok(summary)
    }

    /// Searches, if there is a search and it was not done yet.
    async fn find(&mut self) -> Result<()> {
        if let (Some(search), None) = (&self.scenario.search, &self.search) {
            self.search = Some(self.search(search).await?);
        }
        Ok(())
    }

    /// Doubles the rate until it is not borne, then halves the gap.
    async fn search(&mut self, search: &Search) -> Result<Found> {
        let mut found = Found { bound_us: micros(search.p99.0), steps: Vec::new(), borne: None };
        let (mut low, mut high, mut rate) = (None, None, search.from);
        let mut halvings = search.halvings;
        loop {
            let borne = self.step(search, rate, &mut found).await?;
            if borne {
                low = Some(rate);
            } else {
                high = Some(rate);
            }
            found.borne = low;
            rate = match (low, high) {
                (Some(low), None) if low < search.to => (low * 2.0).min(search.to),
                (Some(low), Some(high)) if halvings > 0 => {
                    halvings -= 1;
                    f64::midpoint(low, high)
                }
                _ => return Ok(found),
            };
        }
    }

    async fn step(&mut self, search: &Search, rate: f64, found: &mut Found) -> Result<bool> {
        let arrivals = Arrivals::Constant { rate, duration: Span(search.step.0), poisson: true };
        let name = format!("{rate:.0}/s");
        let phase = Phase { name, arrivals, presign: false, measured: false };
        let seed = self.scenario.seed.wrapping_add(u64::try_from(found.steps.len())?);
        let summary = self.phase(&phase, seed).await?;
        let p99_us = summary.stages.get(&Stage::AtHand).map_or(u64::MAX, |stage| stage.p99);
        let failed = summary.finished - summary.confirmed;
        let borne = failed == 0 && p99_us <= micros(search.p99.0);
        found.steps.push(Step { rate, p99_us, failed, borne });
        Ok(borne)
    }
}

/// Shows how far a phase is, until it is aborted.
async fn tell(name: String, planned: u64, record: Arc<Record>) {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(planned).with_prefix(name);
    let bar = style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style));
    let guard = Clear(bar);
    let mut last = 0;
    loop {
        tokio::time::sleep(TELL).await;
        let progress = record.progress();
        let rate = float(progress.confirmed - last) / TELL.as_secs_f64();
        last = progress.confirmed;
        let (p50, p99) = progress.at_hand;
        guard.0.set_position(progress.finished);
        guard.0.set_message(format!("{rate:.0}/s, password after {p50:.1?} (p99 {p99:.1?})"));
    }
}

/// Takes the bar away when its task is aborted.
struct Clear(ProgressBar);

impl Drop for Clear {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
