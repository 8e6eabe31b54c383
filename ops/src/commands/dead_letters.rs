//! `keyturn dead-letters`: looking at them, and putting them back on their way or away.

mod archive;
mod past;
mod reconcile;
mod select;
mod work;

use std::collections::BTreeSet;
use std::time::Duration;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::{replay, spans};
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::{DeadReason, NewMessage, QueueName};
use keyturn_schemas::envelope::TraceParent;
use keyturn_service::engines::Engines;
use serde::Serialize;
use serde_json::{Value, json};

use self::past::Gone;
use self::select::{Judged, Names, Selection};
use super::Deployment;
use crate::cli::{DeadLetters, Letters, Output};
use crate::failure::{Code, Context as _, Failure, OrFail as _, Result, no_reason, usage};
use crate::output::say;
use crate::{operator, output};

pub(super) async fn run(deployment: &Deployment, command: &DeadLetters) -> Result<()> {
    match command {
        DeadLetters::List { queue, filter, each, limit } => {
            list(deployment, queue.as_deref(), filter.as_deref(), *each, *limit).await
        }
        DeadLetters::Show { id } => show(deployment, DeadLetterId(*id)).await,
        DeadLetters::Replay(bulk) => {
            let exporting = keyturn_service::spans::start(&deployment.config, "keyturn")?;
            let replayed = work::replay(deployment, bulk).await;
            exporting.finish().await;
            replayed
        }
        DeadLetters::Discard(discard) => work::discard(deployment, discard).await,
        DeadLetters::Export(letters) => export(deployment, letters).await,
        DeadLetters::Jobs { limit } => work::list(deployment, *limit).await,
        DeadLetters::Reconcile => reconcile::run(deployment).await,
    }
}

async fn list(
    deployment: &Deployment,
    queue: Option<&str>,
    filter: Option<&str>,
    each: bool,
    limit: usize,
) -> Result<()> {
    let unknown = |name| {
        usage("--queue", format_args!("{name}: the queues are requests, findings, outcomes and alarms"))
    };
    let queue = queue.map(|name| QueueName::parse(name).ok_or_else(|| unknown(name))).transpose()?;
    let (mut names, now) = (Names::new(deployment), deployment.engines.clock().now());
    let selection = Selection::parse(&deployment.engines, filter, &[]).await?;
    let (mut pages, mut letters, mut groups) = (selection.letters(), Vec::new(), Vec::new());
    while let Some(mut page) = pages.next(&mut names).await? {
        page.retain(|letter| queue.is_none_or(|queue| letter.queue == queue));
        if each {
            letters.extend(page);
            if letters.len() >= limit {
                break;
            }
        } else {
            group(&mut groups, &mut names, &page).await?;
        }
    }
    if !each {
        return tell_groups(deployment, &groups, now);
    }
    letters.truncate(limit);
    let past = past::of(&deployment.engines, &letters).await?;
    let first = |letter: &DeadLetter| Some(past.get(&letter.id)?.first()?.id.0);
    let cells = letters.iter().map(|letter| {
        let age = output::ago(letter.died, now);
        let (id, device) = (letter.id.0.to_string(), letter.message.device.to_string());
        let first = first(letter).map(|first| first.to_string()).unwrap_or_default();
        [id, first, letter.queue.to_string(), letter.reason.to_string(), age, device, last_error(letter)]
    });
    let value: Vec<Value> = letters.iter().map(|letter| with_past(letter, past.get(&letter.id))).collect();
    let headings = ["ID", "FIRST DIED AS", "QUEUE", "REASON", "AGE", "DEVICE", "LAST ERROR"];
    output::table(deployment.output, headings, cells, &value)
}

/// Letters of one queue that died for one reason.
struct Group {
    queue: QueueName,
    reason: DeadReason,
    count: u64,
    replayable: u64,
    oldest: UnixMillis,
    newest: UnixMillis,
    error: String,
}

/// Puts letters into their groups: the group with the newest letter first, and its newest error.
async fn group(groups: &mut Vec<Group>, names: &mut Names<'_>, letters: &[DeadLetter]) -> Result<()> {
    for letter in letters {
        let replayable = u64::from(names.judge(letter).await?.is_ok());
        let same = |group: &&mut Group| (group.queue, group.reason) == (letter.queue, letter.reason);
        match groups.iter_mut().find(same) {
            Some(group) => {
                group.count += 1;
                group.replayable += replayable;
                group.oldest = group.oldest.min(letter.died);
                group.newest = group.newest.max(letter.died);
            }
            None => groups.push(Group {
                queue: letter.queue,
                reason: letter.reason,
                count: 1,
                replayable,
                oldest: letter.died,
                newest: letter.died,
                error: last_error(letter),
            }),
        }
    }
    Ok(())
}

fn tell_groups(deployment: &Deployment, groups: &[Group], now: UnixMillis) -> Result<()> {
    let cells = groups.iter().map(|group| {
        let (oldest, newest) = (output::ago(group.oldest, now), output::ago(group.newest, now));
        let (count, replayable) = (group.count.to_string(), group.replayable.to_string());
        let (queue, reason) = (group.queue.to_string(), group.reason.to_string());
        [queue, reason, count, oldest, newest, replayable, group.error.clone()]
    });
    let value = groups.iter().map(|group| {
        json!({
            "queue": group.queue, "reason": group.reason, "count": group.count, "replayable": group.replayable,
            "oldest_ms": group.oldest, "newest_ms": group.newest, "last_error": group.error,
        })
    });
    let value: Vec<Value> = value.collect();
    let headings = ["QUEUE", "REASON", "COUNT", "OLDEST", "NEWEST", "REPLAYABLE", "LAST ERROR"];
    output::table(deployment.output, headings, cells, &value)
}

async fn show(deployment: &Deployment, id: DeadLetterId) -> Result<()> {
    let engines = &deployment.engines;
    let Some(letter) = engines.dead_letters().find(id).await? else {
        return past::show(engines, deployment.output, id).await;
    };
    let past = past::of(engines, std::slice::from_ref(&letter)).await?.remove(&id);
    let mut names = Names::new(deployment);
    let judged = names.judge(&letter).await?;
    if deployment.output == Output::Json {
        let mut value = with_past(&letter, past.as_ref());
        if let (Some(fields), Err(skip)) = (value.as_object_mut(), &judged) {
            fields.insert("left_out".to_owned(), json!(skip));
        }
        return output::json(&value);
    }
    say!("dead letter {} of {}: {}", id.0, letter.queue, letter.reason);
    say!("  device   {}", letter.message.device);
    say!("  message  {}", letter.message.request);
    say!("  trace    {}", trace(&letter));
    let (sent, died) = (output::when(letter.enqueued), output::when(letter.died));
    say!("  sent     {sent}, died {died}, delivered {}", output::count(letter.deliveries, "time"));
    if let Some(told) = past.and_then(|past| past::told(&past, letter.queue)) {
        say!("  before   {}", output::printable(told));
    }
    say!("  attempts, the last {} of {}:", letter.attempts.len(), letter.deliveries);
    for attempt in &letter.attempts {
        say!("  {}  {}", output::when(attempt.at), output::printable(attempt.error.clone()));
    }
    tell(&letter, judged);
    say!("{}", serde_json::to_string_pretty(&redacted(&letter.message.body)).or_defect()?);
    Ok(())
}

fn tell(letter: &DeadLetter, judged: Judged) {
    match (replay::plan(letter), judged) {
        (Err(error), _) => say!("  {error}"),
        (Ok((_, queue, _)), Ok(_)) => {
            say!("  can be replayed: it enters at {queue} and every check is made again");
        }
        (Ok((_, queue, _)), Err(skip)) => {
            say!("  a replay of many leaves it out ({}): {}", skip.as_str(), skip.meaning());
            say!(
                "  by its number it can be replayed all the same: it enters at {queue} and every check is made again"
            );
        }
    }
}

async fn export(deployment: &Deployment, letters: &Letters) -> Result<()> {
    let mut names = Names::new(deployment);
    let selection = Selection::parse(&deployment.engines, letters.filter.as_deref(), &letters.ids).await?;
    let mut pages = selection.letters();
    while let Some(page) = pages.next(&mut names).await? {
        for letter in page {
            output::json_line(&describe(&letter))?;
        }
    }
    Ok(())
}

/// Puts dead letters back on their way. The audit row is committed first.
pub(crate) async fn replay(
    engines: &Engines,
    ids: &[DeadLetterId],
    actor: &str,
    reason: &str,
) -> Result<Vec<DeadLetterId>> {
    if reason.trim().is_empty() {
        return Err(no_reason());
    }
    let numbers: Vec<u64> = ids.iter().map(|id| id.0).collect();
    let planned = planned(engines, &numbers).await?;
    let devices: BTreeSet<DeviceId> = planned.iter().map(|(letter, _)| letter.message.device).collect();
    let names: Vec<String> = planned.iter().map(|(letter, _)| named(letter)).collect();
    let plans: Vec<_> = planned.into_iter().map(|(_, plan)| plan).collect();
    let row = NewRow {
        at: engines.clock().now(),
        actor: actor.to_owned(),
        action: Action::DeadLettersReplayed,
        device: devices.first().copied().filter(|_| devices.len() == 1),
        reason: reason.to_owned(),
        detail: format!("dead letters {}", names.join(", ")),
    };
    engines.audit().append(row).await.context("the replay could not be recorded, so nothing was done")?;
    let replaying = Replaying::begin(engines);
    let moved = engines.dead_letters().replay(plans.clone()).await?;
    replaying
        .end(plans.iter().filter(|(id, ..)| moved.contains(id)).map(|(id, queue, body)| (*id, *queue, body)));
    if moved.len() < plans.len() {
        let (gone, all) = (plans.len() - moved.len(), output::count(plans.len(), "dead letter"));
        return Err(Failure::new(Code::Partial, format!("of {all}, {gone} had gone already")));
    }
    Ok(moved)
}

/// A letter, and where it goes.
type Planned = (DeadLetter, (DeadLetterId, QueueName, String));

/// Where letters of these numbers go, each once.
///
/// # Errors
/// If one of them does not exist or cannot be replayed: then none is.
async fn planned(engines: &Engines, numbers: &[u64]) -> Result<Vec<Planned>> {
    let mut planned = Vec::with_capacity(numbers.len());
    for number in numbers.iter().copied().collect::<BTreeSet<u64>>() {
        let letter = find(engines, DeadLetterId(number)).await.context("nothing was moved")?;
        let plan = replay::plan(&letter).context(format_args!("{number}: nothing was moved"))?;
        planned.push((letter, plan));
    }
    Ok(planned)
}

/// A letter in the audit: its number is gone with it.
fn named(letter: &DeadLetter) -> String {
    let NewMessage { request, device, .. } = &letter.message;
    format!("{} (message {request} of device {device}, on {})", letter.id.0, letter.queue)
}

/// The letters of a device, as far as they are looked for.
#[derive(Serialize)]
pub(super) struct OfDevice {
    /// How many.
    pub(super) count: usize,
    /// When the last of them died.
    pub(super) last_died_ms: UnixMillis,
    /// Whether all letters were looked at, or the newest alone.
    pub(super) complete: bool,
    /// The newest of them.
    pub(super) newest: Vec<Brief>,
}

/// One of them.
#[derive(Serialize)]
pub(super) struct Brief {
    pub(super) id: DeadLetterId,
    queue: QueueName,
    reason: DeadReason,
    died_ms: UnixMillis,
    first_died_as: Option<DeadLetterId>,
    /// What it was before, in words.
    #[serde(skip)]
    before: Option<String>,
}

impl Brief {
    /// In a line.
    pub(super) fn told(&self, now: UnixMillis) -> String {
        let Self { id, queue, reason, died_ms, before, .. } = self;
        let before = before.as_ref().map(|before| format!("; {before}")).unwrap_or_default();
        format!("{} on {queue}, {reason}, died {} ago{before}", id.0, output::ago(*died_ms, now))
    }
}

/// How many letters of a device are named.
const NAMED: usize = 5;

/// Letters that are looked through for those of one device, the newest.
const LOOKED_THROUGH: usize = 5000;

/// The dead letters of a device among the newest; none if there are none.
pub(super) async fn of_device(engines: &Engines, device: DeviceId) -> Result<Option<OfDevice>> {
    const PAGE: usize = 500;
    let (mut before, mut seen, mut count, mut newest, mut complete) = (None, 0, 0, Vec::new(), true);
    loop {
        let page = engines.letter_jobs().before(before, PAGE).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen += page.len();
        for letter in page.into_iter().filter(|letter| letter.message.device == device) {
            count += 1;
            if newest.len() < NAMED {
                newest.push(letter);
            }
        }
        if seen >= LOOKED_THROUGH {
            complete = false;
            break;
        }
    }
    let Some(last_died_ms) = newest.first().map(|letter| letter.died) else { return Ok(None) };
    let past = past::of(engines, &newest).await?;
    let brief = |letter: &DeadLetter| {
        let past = past.get(&letter.id).map(Vec::as_slice).unwrap_or_default();
        Brief {
            id: letter.id,
            queue: letter.queue,
            reason: letter.reason,
            died_ms: letter.died,
            first_died_as: past.first().map(|first| first.id),
            before: past::told(past, letter.queue),
        }
    };
    Ok(Some(OfDevice { count, last_died_ms, complete, newest: newest.iter().map(brief).collect() }))
}

/// Letters that are being put back on their way, each of which is a span of its message's trace.
struct Replaying<'a> {
    engines: &'a Engines,
    began: UnixMillis,
    at: Duration,
}

impl<'a> Replaying<'a> {
    fn begin(engines: &'a Engines) -> Self {
        let clock = engines.clock();
        Self { engines, began: clock.now(), at: clock.monotonic() }
    }

    fn end<'b>(self, moved: impl Iterator<Item = (DeadLetterId, QueueName, &'b String)>) {
        let took = self.engines.clock().monotonic().saturating_sub(self.at);
        let queues = self.engines.queue();
        for (id, queue, body) in moved {
            spans::replayed(queues.system(queue), queue, id, body, (self.began, took));
        }
    }
}

/// Puts the letters of these numbers back on their way, also those that a replay of many would leave out.
async fn replay_by_number(deployment: &Deployment, ids: &[u64], reason: &str) -> Result<()> {
    let ids: Vec<DeadLetterId> = ids.iter().copied().map(DeadLetterId).collect();
    let moved = replay(&deployment.engines, &ids, &operator::name(), reason).await?;
    eprintln!("{} on the way again.", output::are(moved.len(), "dead letter"));
    eprintln!(
        "One that dies again gets another number; `keyturn dead-letters show` of the old one tells it."
    );
    Ok(())
}

async fn find(engines: &Engines, id: DeadLetterId) -> Result<DeadLetter> {
    let missing = format!("{}: there is no such dead letter; it may have been replayed", id.0);
    engines.dead_letters().find(id).await?.or_fail(Code::NothingByThatName, missing)
}

fn last_error(letter: &DeadLetter) -> String {
    letter.attempts.last().map(|attempt| attempt.error.clone()).unwrap_or_default()
}

/// The trace that the letter's message belongs to: as its envelope says, or, if that cannot be read, as the ingress names
/// traces.
fn trace(letter: &DeadLetter) -> String {
    let envelope: Option<Value> = serde_json::from_str(&letter.message.body).ok();
    let written = envelope.and_then(|envelope| envelope.get("traceparent")?.as_str()?.parse().ok());
    written.unwrap_or_else(|| TraceParent::of(letter.message.request)).trace_id()
}

fn describe(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id, "queue": letter.queue, "reason": letter.reason, "device_id": letter.message.device,
        "request_id": letter.message.request, "trace_id": trace(letter), "enqueued_ms": letter.enqueued,
        "died_ms": letter.died, "deliveries": letter.deliveries, "attempts": letter.attempts,
        "replayable": replay::plan(letter).is_ok(), "message": redacted(&letter.message.body),
    })
}

/// The same, with the numbers that its message died under before.
fn with_past(letter: &DeadLetter, past: Option<&Vec<Gone>>) -> Value {
    let mut value = describe(letter);
    if let Some(fields) = value.as_object_mut() {
        fields.insert(
            "first_died_as".to_owned(),
            json!(past.and_then(|past| past.first()).map(|gone| gone.id)),
        );
        fields.insert("before".to_owned(), json!(past.map(Vec::as_slice).unwrap_or_default()));
    }
    value
}

/// The envelope without what makes its message usable: signatures are cut off, sealed results left out.
fn redacted(body: &str) -> Value {
    let Ok(mut envelope) = serde_json::from_str::<Value>(body) else {
        return json!({ "unreadable": output::printable(body.chars().take(200).collect()) });
    };
    if let Some(data) = envelope.get_mut("data") {
        for (key, cut) in [("jws", true), ("result", false)] {
            if let Some(Value::String(text)) = data.get_mut(key) {
                let kept = if cut {
                    text.rsplit_once('.').map_or("", |(signed, _)| signed).to_owned()
                } else {
                    String::new()
                };
                *text = format!("{kept}[redacted]");
            }
        }
    }
    envelope
}
