//! Replaying and discarding many letters: a plan, then a stored job that is worked off.
//!
//! The command may be killed at any moment: what it moved stays moved, and the rest is done by the same words again or
//! by `--resume`. At Ctrl-C it ends after the letters in hand.

use std::io::{BufRead as _, IsTerminal as _};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keyturn_pipeline::replay as target;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::dead_letters::DeadLetterId;
use keyturn_ports::dead_letters::jobs::{Act, Job, JobId, Move, NewJob, Step};
use keyturn_ports::queue::QueueName;
use serde_json::{Value, json};

use super::Replaying;
use super::archive;
use super::select::{self, Names, Plan, Selection};
use crate::cli::{Discard, Output, Replay};
use crate::commands::Deployment;
use crate::commands::device::need_reason;
use crate::failure::{Code, Context as _, Failure, OrFail as _, Result};
use crate::output::say;
use crate::{operator, output};

/// Letters moved in one transaction.
const BATCH: usize = 64;

/// Jobs looked through for one that the same command left unfinished.
const RECENT: usize = 100;

pub(super) async fn replay(deployment: &Deployment, replay: &Replay) -> Result<()> {
    if let Some(id) = replay.resume {
        return resume(deployment, id).await;
    }
    let reason = replay.reason.as_deref().unwrap_or_default();
    if !replay.dry_run {
        need_reason(reason)?;
    }
    let by_number = !replay.letters.ids.is_empty();
    if by_number && !replay.dry_run && replay.plan.is_none() {
        return super::replay_by_number(deployment, &replay.letters.ids, reason).await;
    }
    let selection = selected(deployment, replay.letters.filter.as_deref(), &replay.letters.ids).await?;
    let per_minute = replay.max_rate.and_then(NonZeroU32::new);
    if !replay.dry_run
        && replay.plan.is_none()
        && let Some(job) = unfinished(deployment, Act::Replay, &selection.words(), reason).await?
    {
        return work(deployment, job).await;
    }
    // Cut short as the replay itself would be.
    super::planned(&deployment.engines, &replay.letters.ids).await?;
    let mut names = Names::new(deployment);
    let plan = select::plan(&mut names, Act::Replay, &selection).await?;
    if replay.dry_run {
        return tell(deployment, Act::Replay, &plan, per_minute);
    }
    unchanged(&plan, replay.plan.as_deref())?;
    if plan.eligible.is_empty() {
        let why = left_out(&plan);
        return Err(Failure::new(Code::NothingToDo, format!("there is no dead letter to replay{why}")));
    }
    begin(deployment, Act::Replay, selection.words(), reason, per_minute, plan).await
}

pub(super) async fn discard(deployment: &Deployment, discard: &Discard) -> Result<()> {
    if let Some(id) = discard.resume {
        return resume(deployment, id).await;
    }
    let reason = discard.reason.as_deref().unwrap_or_default();
    if !discard.dry_run {
        need_reason(reason)?;
    }
    let filter = discard.letters.filter.as_deref();
    if filter.is_none_or(|filter| filter.trim().is_empty()) && discard.letters.ids.is_empty() {
        let text = "a discard needs --where or numbers: nobody discards everything by leaving a word out";
        return Err(Failure::new(Code::Usage, text));
    }
    let selection = selected(deployment, filter, &discard.letters.ids).await?;
    if !discard.dry_run
        && discard.plan.is_none()
        && let Some(job) = unfinished(deployment, Act::Discard, &selection.words(), reason).await?
    {
        return work(deployment, job).await;
    }
    for id in &discard.letters.ids {
        super::find(&deployment.engines, DeadLetterId(*id)).await.context("nothing was discarded")?;
    }
    let mut names = Names::new(deployment);
    let plan = select::plan(&mut names, Act::Discard, &selection).await?;
    if discard.dry_run {
        return tell(deployment, Act::Discard, &plan, None);
    }
    unchanged(&plan, discard.plan.as_deref())?;
    let mut queues = plan.queues.iter();
    let Some(queue) = queues.next() else {
        return Err(Failure::new(Code::NothingToDo, "there is no dead letter to discard"));
    };
    if let Some(other) = queues.next() {
        let text = format!(
            "the letters are of several queues, {queue} and {other} among them; add queue:{queue}, and discard one \
             queue's at a time"
        );
        return Err(Failure::new(Code::Usage, text));
    }
    confirm(*queue, plan.matched, discard.confirmed.as_deref())?;
    let path = discard.archive.clone().unwrap_or_else(|| {
        let now = output::when(deployment.engines.clock().now()).replace([':', '-'], "");
        PathBuf::from(format!("{queue}-dead-{now}.jsonl"))
    });
    let undone = format_args!("{}: the letters could not be archived, so nothing was done", path.display());
    archive::store(&path, &selection, &mut names, &plan).await.context(undone)?;
    eprintln!("{} archived in {}.", output::are(plan.matched, "dead letter"), path.display());
    begin(deployment, Act::Discard, selection.words(), reason, None, plan).await
}

async fn selected(deployment: &Deployment, filter: Option<&str>, ids: &[u64]) -> Result<Selection> {
    Selection::parse(&deployment.engines, filter, ids).await
}

/// Has the queue's name typed: what is discarded does not come back by itself.
fn confirm(queue: QueueName, count: usize, said: Option<&str>) -> Result<()> {
    let letters = output::count(count, "dead letter");
    let typed = match said {
        Some(said) => said.to_owned(),
        None if std::io::stdin().is_terminal() => {
            eprint!("{letters} of {queue} will be discarded. Type the queue's name to confirm: ");
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).or_fail(Code::NotConfirmed, "nothing was typed")?;
            line.trim().to_owned()
        }
        None => {
            let text = format!("{letters} of {queue} would be discarded; confirm with --yes-discard {queue}");
            return Err(Failure::new(Code::NotConfirmed, text));
        }
    };
    if typed != queue.as_str() {
        let text = format!("{} is not the queue's name, {queue}; nothing was done", output::quoted(&typed));
        return Err(Failure::new(Code::NotConfirmed, text));
    }
    Ok(())
}

fn unchanged(plan: &Plan, expected: Option<&str>) -> Result<()> {
    match expected {
        Some(expected) if expected != plan.name => {
            let text = format!(
                "the dead letters are not those of plan {} any more; nothing was done. Look again with --dry-run",
                output::quoted(expected)
            );
            Err(Failure::new(Code::PlanStale, text))
        }
        _ => Ok(()),
    }
}

fn left_out(plan: &Plan) -> String {
    let reasons: Vec<String> = plan
        .skipped
        .iter()
        .map(|(skip, count)| format!("{count} {} ({})", skip.as_str(), skip.meaning()))
        .collect();
    if reasons.is_empty() { String::new() } else { format!("; left out: {}", reasons.join(", ")) }
}

/// Tells what would be done.
fn tell(deployment: &Deployment, act: Act, plan: &Plan, per_minute: Option<NonZeroU32>) -> Result<()> {
    let count = plan.eligible.len();
    let minutes = per_minute.map(|rate| u32::try_from(count).unwrap_or(u32::MAX).div_ceil(rate.get()));
    if deployment.output == Output::Json {
        let skipped: Vec<Value> = plan
            .skipped
            .iter()
            .map(|(skip, count)| json!({"why": skip, "count": count, "meaning": skip.meaning()}))
            .collect();
        return output::json(&json!({
            "dry_run": true, "act": act, "plan": plan.name, "matched": plan.matched, "eligible": count,
            "skipped": skipped, "minutes": minutes,
        }));
    }
    let word = if act == Act::Replay { "replayed" } else { "discarded" };
    let skipped = plan.matched - count;
    say!("Plan {}: {} matched, {count} would be {word}, {skipped} left out", plan.name, plan.matched);
    for (skip, count) in &plan.skipped {
        say!("  {count}  {}  {}", skip.as_str(), skip.meaning());
    }
    if let Some(minutes) = minutes {
        say!("  at this rate that takes {minutes} min");
    }
    say!("Nothing was changed.");
    Ok(())
}

async fn unfinished(deployment: &Deployment, act: Act, selection: &str, reason: &str) -> Result<Option<Job>> {
    let jobs = deployment.engines.letter_jobs().jobs(RECENT).await?;
    let same = |job: &Job| {
        !job.is_finished() && job.act == act && job.selection == selection && job.reason == reason
    };
    let job = jobs.into_iter().find(same);
    if let Some(job) = &job {
        eprintln!("Job {} was begun with these very words and is not finished; going on with it.", job.id.0);
    }
    Ok(job)
}

async fn begin(
    deployment: &Deployment,
    act: Act,
    selection: String,
    reason: &str,
    per_minute: Option<NonZeroU32>,
    plan: Plan,
) -> Result<()> {
    let action = match act {
        Act::Replay => Action::DeadLettersReplayed,
        Act::Discard => Action::DeadLettersDiscarded,
    };
    let pace = per_minute.map_or_else(String::new, |rate| format!(", {rate} a minute"));
    let left_out = left_out(&plan);
    let row = NewRow {
        at: deployment.engines.clock().now(),
        actor: operator::name(),
        action,
        device: None,
        reason: reason.to_owned(),
        detail: output::printable(format!(
            "plan {}, {selection}: {}{pace}{left_out}",
            plan.name,
            output::count(plan.eligible.len(), "dead letter")
        )),
    };
    let jobs = deployment.engines.letter_jobs();
    let begun = jobs.begin(NewJob { row, act, selection, per_minute, letters: plan.eligible }).await;
    let id = begun.context("the command could not be recorded, so nothing was done")?;
    let job = jobs.job(id).await?.or_fail(Code::Defect, "the job that was begun is gone")?;
    work(deployment, job).await
}

async fn resume(deployment: &Deployment, id: u64) -> Result<()> {
    let missing = format!("{id}: there is no such job; see `dead-letters jobs`");
    let job =
        deployment.engines.letter_jobs().job(JobId(id)).await?.or_fail(Code::NothingByThatName, missing)?;
    work(deployment, job).await
}

/// Works a job off.
async fn work(deployment: &Deployment, job: Job) -> Result<()> {
    let (jobs, actor, id) = (deployment.engines.letter_jobs(), operator::name(), job.id);
    let verb = job.act.as_str();
    if !job.is_finished() {
        eprintln!("Job {0}. If it is cut off: keyturn dead-letters {verb} --resume {0}", id.0);
    }
    let stopped = stop_at_interrupt();
    let bar = bar(&job);
    let batch = if job.per_minute.is_some() { 1 } else { BATCH };
    while !stopped.load(Ordering::Relaxed) {
        let pending = jobs.pending(id, batch).await?;
        let mut moves = Vec::with_capacity(pending.len());
        for letter in pending {
            moves.push((letter, destination(deployment, job.act, letter).await?));
        }
        let now = deployment.engines.clock().now();
        let (replaying, sent) = (Replaying::begin(&deployment.engines), moves.clone());
        match jobs.step(id, now, &actor, moves).await? {
            Step::Done(done) => {
                bar.inc(done);
                replaying.end(sent.iter().filter_map(|(letter, to)| match to {
                    Move::To(queue, body) => Some((*letter, *queue, body)),
                    Move::Away | Move::Stay => None,
                }));
            }
            Step::NotBefore(ready) => {
                // Short naps: an interrupt is noticed soon however slow the pace is.
                let wait = ready.since(deployment.engines.clock().now());
                tokio::time::sleep(wait.min(std::time::Duration::from_millis(200))).await;
            }
            Step::Finished => break,
        }
    }
    bar.finish_and_clear();
    let job = jobs.job(id).await?.or_fail(Code::Defect, "the job is gone")?;
    if deployment.output == Output::Json {
        output::json(&json!({"job": job, "finished": job.is_finished()}))?;
    }
    if !job.is_finished() {
        let text = format!(
            "interrupted: job {} is done with {} of {} dead letters; go on with: keyturn dead-letters {verb} --resume {0}",
            id.0, job.done, job.letters
        );
        return Err(Failure::new(Code::Interrupted, text));
    }
    let word = if job.act == Act::Replay { "on the way again" } else { "discarded" };
    eprintln!("{}: {} {word}.", output::count(job.letters, "dead letter"), job.moved);
    if job.moved < job.letters {
        let (gone, all) = (job.letters - job.moved, output::count(job.letters, "dead letter"));
        return Err(Failure::new(Code::Partial, format!("of {all}, {gone} had gone already")));
    }
    Ok(())
}

/// Where a letter of a job goes.
async fn destination(deployment: &Deployment, act: Act, id: DeadLetterId) -> Result<Move> {
    if act == Act::Discard {
        return Ok(Move::Away);
    }
    let letter = deployment.engines.dead_letters().find(id).await?;
    let planned = letter.and_then(|letter| target::plan(&letter).ok());
    Ok(planned.map_or(Move::Stay, |(_, queue, body)| Move::To(queue, body)))
}

fn stop_at_interrupt() -> Arc<AtomicBool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stopped);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            told.store(true, Ordering::Relaxed);
        }
    });
    stopped
}

/// On a terminal alone; elsewhere it draws nothing.
fn bar(job: &Job) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(job.letters), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} dead letters, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_position(job.done)
}

pub(super) async fn list(deployment: &Deployment, limit: usize) -> Result<()> {
    let jobs = deployment.engines.letter_jobs().jobs(limit).await?;
    let cells = jobs.iter().map(|job| {
        let of = |count: u64| format!("{count}/{}", job.letters);
        let (id, at) = (job.id.0.to_string(), output::when(job.at));
        let (act, which) = (job.act.as_str().to_owned(), job.selection.clone());
        [id, at, job.actor.clone(), act, which, of(job.done), of(job.moved), job.reason.clone()]
    });
    output::table(
        deployment.output,
        ["JOB", "BEGUN", "BY", "WHAT", "WHICH", "DONE", "MOVED", "REASON"],
        cells,
        &jobs,
    )
}
