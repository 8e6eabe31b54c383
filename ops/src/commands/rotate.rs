//! `keyturn device rotate-now` and `device rotations`: asking for new passwords, of one device or of many.
//!
//! Of many, the list is stored before anything is asked, and each device is asked in a transaction of its own. So the
//! command may be killed at any moment: what was asked stays asked, and the rest is done by the same command again or
//! by `--resume`.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyturn_domain::ids::{DeviceId, LaneId};
use keyturn_domain::lane::{Lane, LaneEvent};
use keyturn_domain::standing;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::ledger::{Event, Happening};
use keyturn_ports::rotations::{Job, JobId, NewJob, Step};
use keyturn_schemas::envelope::{parse_rfc3339, rfc3339};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::device::need_reason;
use super::{Deployment, show};
use crate::cli::{Output, RotateNow};
use crate::failure::{Code, Context as _, Failure, OrFail as _, Result, usage};
use crate::output::say;
use crate::{operator, output, resolve};

/// Devices read at once.
const PAGE: usize = 1000;

/// Jobs looked through for one that the same command left unfinished.
const RECENT: usize = 100;

pub(super) async fn now(deployment: &Deployment, rotate: &RotateNow) -> Result<()> {
    if let Some(id) = rotate.resume {
        let id = JobId(id);
        let missing = format!("{}: there is no such job; see `device rotations`", id.0);
        let job = deployment.engines.rotations().job(id).await?.or_fail(Code::NothingByThatName, missing)?;
        return work(deployment, job).await;
    }
    let reason = rotate.reason.as_deref().unwrap_or_default();
    need_reason(reason)?;
    match &rotate.device {
        Some(device) => one(deployment, device, reason, rotate.dry_run).await,
        None => many(deployment, rotate, reason).await,
    }
}

async fn one(deployment: &Deployment, device: &str, reason: &str, dry_run: bool) -> Result<()> {
    let named = resolve::device(&deployment.engines, device).await?;
    if dry_run {
        return plan(deployment, &[named.id], None).await;
    }
    deployment.record(Action::RotationForced, Some(named.id), reason, "").await?;
    let lanes =
        deployment.engines.ledger_operator().force(named.id, deployment.engines.clock().now()).await?;
    let (now, policies) = (deployment.engines.clock().now(), &deployment.config.policies);
    let known = deployment.engines.ledger_reader().lanes(named.id).await?;
    let cap = standing::capped(&known, policies, now);
    let held = known.iter().filter(|lane| lane.closed.is_none()).filter_map(|lane| lane.held(now)).max();
    match (lanes, held, &cap) {
        (0, ..) => eprintln!("{} has no password yet; it gets one at its first check-in.", named.title()),
        (_, None, None) => eprintln!("{} rotates at its next check-in.", named.title()),
        _ => eprintln!("{} is asked to rotate, and does not yet:", named.title()),
    }
    if let Some(until) = held {
        eprintln!("  it is held until {}; `keyturn device release` ends that", output::when(until));
    }
    if let Some(cap) = &cap {
        eprintln!("  {}", show::limit(cap));
    }
    if deployment.output == Output::Json {
        let not_before = held.max(cap.map(|cap| cap.until));
        output::json(&json!({"device_id": named.id, "lanes": lanes, "not_before_ms": not_before}))?;
    }
    Ok(())
}

async fn many(deployment: &Deployment, rotate: &RotateNow, reason: &str) -> Result<()> {
    let (selection, devices) = select(deployment, rotate).await?;
    let per_minute = rotate.max_rate.and_then(NonZeroU32::new);
    if rotate.dry_run {
        return plan(deployment, &devices, per_minute).await;
    }
    if devices.is_empty() {
        return Err(Failure::new(Code::NothingToDo, format!("{selection}: there is no device to ask")));
    }
    let jobs = deployment.engines.rotations();
    let same = |job: &Job| !job.is_finished() && job.selection == selection && job.reason == reason;
    if let Some(job) = jobs.jobs(RECENT).await?.into_iter().find(same) {
        eprintln!(
            "Job {} was asked for with these very words and is not finished; going on with it.",
            job.id.0
        );
        return work(deployment, job).await;
    }
    let pace = per_minute.map_or_else(String::new, |rate| format!(", {rate} a minute"));
    let row = NewRow {
        at: deployment.engines.clock().now(),
        actor: operator::name(),
        action: Action::RotationForced,
        device: None,
        reason: reason.to_owned(),
        detail: format!("{selection}: {}{pace}", output::count(devices.len(), "device")),
    };
    let begun = jobs.begin(NewJob { row, selection, per_minute, devices }).await;
    let id = begun.context("the command could not be recorded, so nothing was done")?;
    let job = jobs.job(id).await?.or_fail(Code::Defect, "the job that was begun is gone")?;
    work(deployment, job).await
}

/// What was asked for in one line, and the devices, each once.
async fn select(deployment: &Deployment, rotate: &RotateNow) -> Result<(String, Vec<DeviceId>)> {
    let engines = &deployment.engines;
    if let Some(since) = &rotate.since {
        let wrong =
            || usage("--since", format_args!("{since}: expected an instant like 2026-11-22T00:00:00Z"));
        let since = parse_rfc3339(since).ok_or_else(wrong)?;
        return Ok((format!("since {}", rfc3339(since)), engines.rotations().minted_since(since).await?));
    }
    if let Some(file) = &rotate.file {
        let devices = resolve::list(&deployment.engines, file, "asked").await?;
        let mut hash = Sha256::new();
        for device in &devices {
            hash.update(device.as_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let name = digest.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
        return Ok((format!("list {name:016x}"), devices));
    }
    let (mut devices, mut after) = (Vec::new(), None);
    loop {
        let page = engines.ledger_reader().devices(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(("all".to_owned(), devices)) };
        after = Some(*last);
        devices.extend(page);
    }
}

/// Tells what would be done.
async fn plan(deployment: &Deployment, devices: &[DeviceId], per_minute: Option<NonZeroU32>) -> Result<()> {
    let (mut lanes, mut waiting, mut without, mut capped) = (0, 0, 0, 0);
    let (now, policies) = (deployment.engines.clock().now(), &deployment.config.policies);
    for device in devices {
        let known = deployment.engines.ledger_reader().lanes(*device).await?;
        let open = open(&known);
        capped += usize::from(standing::capped(&known, policies, now).is_some());
        lanes += open.len();
        waiting += usize::from(open.iter().any(|forced| *forced));
        without += usize::from(open.is_empty());
    }
    let count = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    let minutes = per_minute.map(|rate| count.div_ceil(rate.get()));
    if deployment.output == Output::Json {
        return output::json(&json!({
            "dry_run": true, "devices": devices.len(), "lanes": lanes, "asked_before": waiting,
            "without_password": without, "capped": capped, "minutes": minutes,
        }));
    }
    let (some, open) = (output::count(devices.len(), "device"), output::count(lanes, "open lane"));
    say!("{some} with {open} would be asked for a new password.");
    say!("Of these, {waiting} were asked before and have not rotated yet; {without} have no open lane.");
    if capped > 0 {
        say!(
            "{capped} have had as many new passwords as they may for now: `keyturn device show` tells until when."
        );
    }
    if let Some(minutes) = minutes {
        say!("At this rate that takes {minutes} min; then each device rotates at its next check-in.");
    }
    Ok(())
}

/// Whether a rotation is asked for already, for each open lane.
fn open(lanes: &[Lane]) -> Vec<bool> {
    lanes.iter().filter(|lane| lane.closed.is_none()).map(|lane| lane.forced.is_some()).collect()
}

/// Asks every device of a job that was not asked yet.
async fn work(deployment: &Deployment, job: Job) -> Result<()> {
    let (jobs, actor, id) = (deployment.engines.rotations(), operator::name(), job.id);
    if !job.is_finished() {
        eprintln!("Job {0}. If it is cut off: keyturn device rotate-now --resume {0}", id.0);
    }
    let bar = bar(&job);
    let mut lanes = 0;
    loop {
        match jobs.step(id, deployment.engines.clock().now(), &actor).await? {
            Step::Asked { lanes: open, .. } => {
                lanes += open;
                bar.inc(1);
            }
            Step::NotBefore(ready) => {
                tokio::time::sleep(ready.since(deployment.engines.clock().now())).await;
            }
            Step::Finished => break,
        }
    }
    bar.finish_and_clear();
    let job = jobs.job(id).await?.or_fail(Code::Defect, "the job is gone")?;
    eprintln!(
        "{} of job {} are asked; each rotates at its next check-in: `keyturn device rotations` tells how many have.",
        output::count(job.asked, "device"),
        id.0
    );
    if deployment.output == Output::Json {
        output::json(&json!({"job": job, "lanes_asked_now": lanes, "finished": true}))?;
    }
    Ok(())
}

/// On a terminal alone; elsewhere it draws nothing.
fn bar(job: &Job) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(job.devices), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} devices, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_position(job.asked)
}

/// Facts about a device that are looked through for the rotation that was asked for.
const FACTS: usize = 200;

/// Whether a device has done what was asked of it at `asked`: each lane that was there then and is open confirmed a version
/// that was made later. Once so, it stays so, whatever is asked of it afterwards.
async fn is_met(deployment: &Deployment, device: DeviceId, asked: UnixMillis) -> Result<bool> {
    let ledger = deployment.engines.ledger_reader();
    let lanes = ledger.lanes(device).await?;
    let asked_of = lanes.iter().filter(|lane| lane.closed.is_none() && lane.opened <= asked);
    let mut again = Vec::new();
    for lane in asked_of {
        match lane.forced {
            None => {}
            Some(forced) if forced <= asked => return Ok(false),
            Some(_) => again.push(lane.key.id()),
        }
    }
    if again.is_empty() {
        return Ok(true);
    }
    // It was asked once more since, and what the lane has is that alone. The timeline has what was before.
    let facts = ledger.timeline(device, FACTS).await?;
    Ok(again.into_iter().all(|lane| rotated_since(&facts, lane, asked)))
}

/// Whether the timeline, newest first, has a version that was made for this lane at `asked` or later and was confirmed.
fn rotated_since(facts: &[Event], lane: LaneId, asked: UnixMillis) -> bool {
    // So much happened since that the rest was not read: it has rotated many times.
    if facts.len() >= FACTS && facts.iter().all(|fact| fact.at > asked) {
        return true;
    }
    let mut confirmed = BTreeSet::new();
    for fact in facts.iter().filter(|fact| fact.at >= asked) {
        match &fact.what {
            Happening::Lane { lane: of, event: LaneEvent::PasswordConfirmed { version } } if *of == lane => {
                confirmed.insert(*version);
            }
            Happening::Lane { lane: of, event: LaneEvent::PasswordMinted { version, .. } }
                if *of == lane && confirmed.contains(version) =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

pub(super) async fn list(deployment: &Deployment, limit: usize) -> Result<()> {
    let jobs = deployment.engines.rotations();
    let (mut cells, mut values) = (Vec::new(), Vec::new());
    for job in jobs.jobs(limit).await? {
        let mut rotated: u64 = 0;
        for (device, asked) in jobs.devices_of(job.id).await? {
            if let Some(asked) = asked {
                rotated += u64::from(is_met(deployment, device, asked).await?);
            }
        }
        let of = |count: u64| format!("{count}/{}", job.devices);
        let (id, at) = (job.id.0.to_string(), output::when(job.at));
        cells.push([
            id,
            at,
            job.actor.clone(),
            job.selection.clone(),
            of(job.asked),
            of(rotated),
            job.reason.clone(),
        ]);
        values.push(json!({"job": job, "rotated": rotated, "finished": job.is_finished()}));
    }
    let headings = ["JOB", "BEGUN", "BY", "WHICH", "ASKED", "ROTATED", "REASON"];
    output::table(deployment.output, headings, cells, &values)
}
