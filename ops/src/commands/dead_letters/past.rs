//! What became of dead letters that are gone, and what living ones were before.
//!
//! A letter that is replayed is gone. If its message dies again, that is another letter with a number of its own, and
//! nothing in the message says so. The audit does: it has every number that left the dead letters, with its message, and
//! who had it leave. It is what is read here, so nothing is stored twice.
//!
//! An alarm is sent to each webhook under one message's name. So of alarms a letter that is told of may be the one for
//! another webhook.

use std::collections::BTreeMap;

use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, NewRow, Row, Wanted};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::QueueName;
use keyturn_service::engines::Engines;
use serde::Serialize;

use super::LOOKED_THROUGH;
use crate::cli::Output;
use crate::failure::{Code, Failure, OrFail as _, Result};
use crate::output::{self, printable, say, when};

/// Rows of the audit that are looked through for a number or for many messages, the newest.
const ROWS: usize = 10_000;

/// A letter that left the dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Gone {
    pub(super) id: DeadLetterId,
    pub(super) queue: QueueName,
    pub(super) request_id: RequestId,
    pub(super) device_id: Option<DeviceId>,
    /// Whether it was put back on its way, or discarded.
    pub(super) replayed: bool,
    pub(super) at_ms: UnixMillis,
    pub(super) by: String,
    pub(super) reason: String,
}

impl Gone {
    fn word(&self) -> &'static str {
        if self.replayed { "replayed" } else { "discarded" }
    }

    /// Whether a letter on `queue` may be of the same message. Alarms go by the name of the message that they are of.
    fn goes_with(&self, queue: QueueName, request: RequestId) -> bool {
        self.request_id == request && (self.queue == QueueName::Alarms) == (queue == QueueName::Alarms)
    }

    /// When and by whom.
    pub(super) fn told(&self) -> String {
        format!("{} {} by {}: {}", self.word(), when(self.at_ms), self.by, self.reason)
    }
}

/// What a row of the audit says of letters, in either of the texts that there are: that of a command which names them,
/// `dead letters 17 (message R of device D, on findings), 18 (...)`, and that of a job's step, `job 3: dead letter 17 of
/// findings, message R`.
fn read(row: &Row) -> Vec<Gone> {
    let Row { row: NewRow { at, actor, action, device, reason, detail }, .. } = row;
    let replayed = *action == Action::DeadLettersReplayed;
    let gone = |id: &str, queue: &str, request: &str, device_id: Option<DeviceId>| {
        Some(Gone {
            id: DeadLetterId(id.parse().ok()?),
            queue: QueueName::parse(queue)?,
            request_id: request.parse().ok()?,
            device_id,
            replayed,
            at_ms: *at,
            by: actor.clone(),
            reason: reason.clone(),
        })
    };
    if let Some(list) = detail.strip_prefix("dead letters ") {
        let one = |part: &str| {
            let (id, rest) = part.trim_start_matches(", ").split_once(" (message ")?;
            let (request, rest) = rest.split_once(" of device ")?;
            let (device, queue) = rest.split_once(", on ")?;
            gone(id, queue, request, device.parse().ok())
        };
        return list.split(')').filter_map(one).collect();
    }
    let step = || {
        let (_, letter) = detail.split_once(": dead letter ")?;
        let (id, rest) = letter.split_once(" of ")?;
        let (queue, request) = rest.split_once(", message ")?;
        gone(id, queue, request, *device)
    };
    step().into_iter().collect()
}

/// Letters that are gone, whose rows have one of these texts in them or any text, the newest first.
async fn departures(engines: &Engines, text: Option<String>) -> Result<Vec<Gone>> {
    let actions = vec![Action::DeadLettersReplayed, Action::DeadLettersDiscarded];
    let wanted = Wanted { actions, detail: text, ..Wanted::default() };
    let rows = engines.audit().select(wanted, ROWS).await?;
    Ok(rows.iter().flat_map(read).collect())
}

/// What became of the letter of this number; none if the audit does not say.
async fn gone(engines: &Engines, id: DeadLetterId) -> Result<Option<Gone>> {
    for text in [format!("{} (message ", id.0), format!("dead letter {} of ", id.0)] {
        let found = departures(engines, Some(text)).await?.into_iter().find(|gone| gone.id == id);
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The replays that the messages of these letters had before they died as these, by the letter, the first one first.
pub(super) async fn of(
    engines: &Engines,
    letters: &[DeadLetter],
) -> Result<BTreeMap<DeadLetterId, Vec<Gone>>> {
    let text = match letters {
        [] => return Ok(BTreeMap::new()),
        [one] => Some(one.message.request.to_string()),
        _ => None,
    };
    let departed = departures(engines, text).await?;
    let mut found = BTreeMap::new();
    for letter in letters {
        let was = |gone: &&Gone| {
            let earlier = gone.id < letter.id && gone.at_ms <= letter.died;
            gone.replayed && earlier && gone.goes_with(letter.queue, letter.message.request)
        };
        let mut past: Vec<Gone> = departed.iter().filter(was).cloned().collect();
        past.sort_by_key(|gone| gone.id);
        if !past.is_empty() {
            found.insert(letter.id, past);
        }
    }
    Ok(found)
}

/// In a few words what a letter was before.
pub(super) fn told(past: &[Gone], queue: QueueName) -> Option<String> {
    let (first, last) = (past.first()?, past.last()?);
    let which = if queue == QueueName::Alarms { ", for this webhook or another" } else { "" };
    Some(if first == last {
        format!("first died as {}{which}, {}", first.id.0, first.told())
    } else {
        format!("first died as {}{which}, last as {}, {}", first.id.0, last.id.0, last.told())
    })
}

/// Whether the message of a letter that is gone died again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// As this letter.
    As(DeadLetterId),
    /// It did not.
    No,
    /// Not among the newest letters; there are too many to say more.
    Unknown,
}

async fn again(engines: &Engines, gone: &Gone) -> Result<Again> {
    const PAGE: usize = 500;
    let departed = departures(engines, Some(gone.request_id.to_string())).await?;
    let later = departed.iter().filter(|one| one.id > gone.id && gone.goes_with(one.queue, one.request_id));
    let mut next = later.map(|one| one.id).min();
    let (mut before, mut seen) = (None, 0);
    loop {
        let page = engines.letter_jobs().before(before, PAGE).await?;
        seen += page.len();
        before = page.last().map(|letter| letter.id);
        let same = page.iter().filter(|letter| {
            letter.id > gone.id
                && letter.died >= gone.at_ms
                && gone.goes_with(letter.queue, letter.message.request)
        });
        next = same.map(|letter| letter.id).chain(next).min();
        let all = page.len() < PAGE || before.is_some_and(|before| before <= gone.id);
        match next {
            Some(next) if all || seen >= LOOKED_THROUGH => return Ok(Again::As(next)),
            None if all => return Ok(Again::No),
            None if seen >= LOOKED_THROUGH => return Ok(Again::Unknown),
            _ => {}
        }
    }
}

/// Tells what became of a letter that is not there.
///
/// # Errors
/// [`Code::NothingByThatName`] if there never was one of this number, or nobody knows.
pub(super) async fn show(engines: &Engines, output: Output, id: DeadLetterId) -> Result<()> {
    let Some(gone) = gone(engines, id).await? else {
        return Err(Failure::new(Code::NothingByThatName, format!("{}: there is no such dead letter", id.0)));
    };
    let again = if gone.replayed { again(engines, &gone).await? } else { Again::No };
    if output == Output::Json {
        let mut value = serde_json::to_value(&gone).or_defect()?;
        if let Some(fields) = value.as_object_mut() {
            let number = if let Again::As(next) = again { Some(next) } else { None };
            fields.insert("gone".to_owned(), true.into());
            fields.insert("died_again_as".to_owned(), serde_json::to_value(number).or_defect()?);
        }
        return output::json(&value);
    }
    say!("dead letter {} of {} is gone: {}", id.0, gone.queue, printable(gone.told()));
    if let Some(device) = gone.device_id {
        say!("  device   {device}");
    }
    say!("  message  {}", gone.request_id);
    match again {
        _ if !gone.replayed => {}
        Again::As(next) => say!("  died again as {0}: `keyturn dead-letters show {0}`", next.0),
        Again::No => say!("  it has not died again"),
        Again::Unknown => say!("  it did not die again among the newest {LOOKED_THROUGH} dead letters"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use keyturn_ports::queue::NewMessage;

    use super::*;

    fn row(detail: String, device: Option<DeviceId>) -> Row {
        let (actor, reason) = ("ada (uid 7)".to_owned(), "why (so), dead letters 9 (message".to_owned());
        let action = Action::DeadLettersReplayed;
        Row {
            seq: 1,
            row: NewRow { at: UnixMillis(5), actor, action, device, reason, detail },
            hash: String::new(),
        }
    }

    #[test]
    fn both_texts_of_the_audit_are_read_back() {
        let (request, device) = (RequestId([7; 32]), DeviceId::from_bytes([9; 16]));
        let letter = |id, queue| DeadLetter {
            id: DeadLetterId(id),
            queue,
            message: NewMessage { request, device, body: String::new() },
            reason: keyturn_ports::queue::DeadReason::Exhausted,
            attempts: Vec::new(),
            deliveries: 1,
            enqueued: UnixMillis(1),
            died: UnixMillis(2),
        };
        let letters = [letter(17, QueueName::Findings), letter(118, QueueName::Alarms)];
        let named: Vec<String> = letters.iter().map(super::super::named).collect();
        let read_back = read(&row(format!("dead letters {}", named.join(", ")), None));
        let told = |gone: &Gone| (gone.id.0, gone.queue, gone.request_id, gone.device_id);
        let expected = [
            (17, QueueName::Findings, request, Some(device)),
            (118, QueueName::Alarms, request, Some(device)),
        ];
        assert_eq!(read_back.iter().map(told).collect::<Vec<_>>(), expected);
        let step = row(format!("job 3: dead letter 17 of findings, message {request}"), Some(device));
        assert_eq!(read(&step).iter().map(told).collect::<Vec<_>>(), expected[..1]);
        for other in ["job 3: plan x, all: 7 dead letters", "dead letters ", "dead letters 17 (message", ""] {
            assert_eq!(read(&row(other.to_owned(), None)), [], "{other}");
        }
    }
}
