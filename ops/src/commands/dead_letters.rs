//! `keyturn dead-letters`.

use anyhow::{Context as _, Result, bail};
use keyturn_pipeline::replay;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::QueueName;
use keyturn_service::engines::Engines;
use serde_json::{Value, json};

use super::Deployment;
use crate::cli::{DeadLetters, Output};
use crate::failure::Failure;
use crate::output::say;
use crate::{operator, output};

pub(super) async fn run(deployment: &Deployment, command: &DeadLetters) -> Result<()> {
    match command {
        DeadLetters::List { queue, limit } => list(deployment, queue.as_deref(), *limit).await,
        DeadLetters::Show { id } => show(deployment, DeadLetterId(*id)).await,
        DeadLetters::Replay { ids, reason } => {
            let ids: Vec<DeadLetterId> = ids.iter().copied().map(DeadLetterId).collect();
            let moved = replay(&deployment.engines, &ids, &operator::name(), reason).await?;
            eprintln!("{} of {} dead letters are on their way again.", moved.len(), ids.len());
            Ok(())
        }
    }
}

async fn list(deployment: &Deployment, queue: Option<&str>, limit: usize) -> Result<()> {
    let unknown =
        |name: &str| format!("--queue {name}: the queues are requests, findings, outcomes and alarms");
    let queue = queue.map(|name| QueueName::parse(name).with_context(|| unknown(name))).transpose()?;
    let letters = deployment.engines.dead_letters().list(queue, limit).await?;
    let now = deployment.engines.clock().now();
    let cells = letters.iter().map(|letter| {
        let age = output::ago(letter.died, now);
        let (id, device) = (letter.id.0.to_string(), letter.message.device.to_string());
        [id, letter.queue.to_string(), letter.reason.to_string(), age, device, last_error(letter)]
    });
    let value: Vec<Value> = letters.iter().map(describe).collect();
    output::table(deployment.output, ["ID", "QUEUE", "REASON", "AGE", "DEVICE", "LAST ERROR"], cells, &value)
}

async fn show(deployment: &Deployment, id: DeadLetterId) -> Result<()> {
    let letter = find(&deployment.engines, id).await?;
    if deployment.output == Output::Json {
        return output::json(&describe(&letter));
    }
    say!("dead letter {} of {}: {}", id.0, letter.queue, letter.reason);
    say!("  device   {}", letter.message.device);
    say!("  message  {}", letter.message.request);
    say!(
        "  sent     {}, died {}, delivered {} times",
        output::when(letter.enqueued),
        output::when(letter.died),
        letter.deliveries
    );
    for attempt in &letter.attempts {
        say!("  {}  {}", output::when(attempt.at), output::printable(attempt.error.clone()));
    }
    match replay::plan(&letter) {
        Ok((_, queue, _)) => {
            say!("  can be replayed: it enters at {queue} and every check is made again");
        }
        Err(error) => say!("  {error}"),
    }
    say!("{}", serde_json::to_string_pretty(&redacted(&letter.message.body))?);
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
        bail!("--reason must say why: the audit keeps it");
    }
    let mut plans = Vec::with_capacity(ids.len());
    for id in ids {
        plans.push(replay::plan(&find(engines, *id).await?)?);
    }
    let names: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    let row = NewRow {
        at: engines.clock().now(),
        actor: actor.to_owned(),
        action: Action::DeadLettersReplayed,
        device: None,
        reason: reason.to_owned(),
        detail: format!("dead letters {}", names.join(" ")),
    };
    engines.audit().append(row).await.context("the replay could not be recorded, so nothing was done")?;
    let moved = engines.dead_letters().replay(plans).await?;
    if moved.len() < ids.len() {
        let text = format!("{} of {} dead letters were gone already", ids.len() - moved.len(), ids.len());
        return Err(Failure::Partial(text).into());
    }
    Ok(moved)
}

async fn find(engines: &Engines, id: DeadLetterId) -> Result<DeadLetter> {
    let missing =
        || Failure::NotFound(format!("{}: there is no such dead letter; it may have been replayed", id.0));
    Ok(engines.dead_letters().find(id).await?.ok_or_else(missing)?)
}

fn last_error(letter: &DeadLetter) -> String {
    letter.attempts.last().map(|attempt| attempt.error.clone()).unwrap_or_default()
}

fn describe(letter: &DeadLetter) -> Value {
    json!({
        "id": letter.id, "queue": letter.queue, "reason": letter.reason, "device_id": letter.message.device,
        "request_id": letter.message.request, "enqueued_ms": letter.enqueued, "died_ms": letter.died,
        "deliveries": letter.deliveries, "attempts": letter.attempts,
        "replayable": replay::plan(letter).is_ok(), "message": redacted(&letter.message.body),
    })
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
