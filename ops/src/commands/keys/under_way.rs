//! What a key sealed that is still under way: on a queue, or among the dead letters that may be replayed.

use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::QueueName;
use keyturn_schemas::mac::{FiledKey, KeyId};
use serde_json::Value;

use super::super::Deployment;
use crate::cli::Kind;
use crate::failure::{Code, Failure, Result};

/// Bodies are read in pages of this many.
const PAGE: usize = 512;

/// The most dead letters that are looked at.
const LETTERS: usize = 100_000;

/// How to tell whether a message depends on a key.
struct Mark<'a> {
    kind: Kind,
    key: &'a FiledKey,
    /// A message that came in after this cannot carry a nonce of the key.
    nonces_until: UnixMillis,
}

/// Refuses while a message still depends on the key.
pub(super) async fn refuse_while_needed(
    deployment: &Deployment,
    kind: Kind,
    key: &FiledKey,
    margin: Duration,
) -> Result<()> {
    let Some(until) = key.sealed_until else { return Ok(()) };
    let mark = Mark { kind, key, nonces_until: until.plus(margin) };
    let mut found = 0;
    // Messages move from the first to the second, and now and then back: looking at the first again meets them.
    for queue in [QueueName::Requests, QueueName::Findings, QueueName::Requests] {
        found += waiting(deployment, queue, &mark).await?;
    }
    if found > 0 {
        let id = key.id.0;
        let problem =
            format!("{found} messages on the queues depend on key {id}; try again when they are done");
        return Err(Failure::new(Code::KeyNeeded, problem));
    }
    let letters = deployment.engines.dead_letters().list(None, LETTERS).await?;
    let needing = letters.iter().filter(|letter| {
        kind != Kind::Finding && carries_a_message(letter.queue) && mark.is_on(&letter.message.body)
    });
    match needing.count() {
        0 => Ok(()),
        count => Err(Failure::new(
            Code::KeyNeeded,
            format!(
                "{count} dead letters depend on key {} and could not be replayed without it; replay them first, or give \
             them up with --danger-now",
                key.id.0
            ),
        )),
    }
}

/// Whether what is on this queue is a message of a device, with what was sealed for it.
fn carries_a_message(queue: QueueName) -> bool {
    matches!(queue, QueueName::Requests | QueueName::Findings)
}

async fn waiting(deployment: &Deployment, queue: QueueName, mark: &Mark<'_>) -> Result<usize> {
    let (backlog, mut after, mut found) = (deployment.engines.backlog(), None, 0);
    loop {
        let page = backlog.waiting(queue, after, PAGE).await?;
        found += page.iter().filter(|(_, body)| mark.is_on(body)).count();
        after = match page.last() {
            None => return Ok(found),
            Some((last, _)) => Some(*last),
        };
    }
}

impl Mark<'_> {
    /// Whether a message depends on the key. One that cannot be read depends on nothing.
    fn is_on(&self, body: &str) -> bool {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let sealed = |what: &str| {
            let id = body.pointer(&format!("/data/{what}/key")).and_then(Value::as_u64);
            id == Some(self.key.id.0.into())
        };
        match self.kind {
            Kind::Stamp => sealed("stamp"),
            Kind::Finding => sealed("finding"),
            Kind::Nonce => {
                let received = body.pointer("/data/stamp/received_ms").and_then(Value::as_u64);
                received.is_some_and(|received| received <= self.nonces_until.0)
            }
            Kind::Ticket | Kind::Vault | Kind::Signing => false,
        }
    }
}

/// The number of a ring's key.
pub(super) fn number(id: &str) -> Result<KeyId> {
    let shown = crate::output::quoted(id);
    let problem = || format!("{shown}: the keys of a ring have numbers; `keyturn keys list` shows them");
    id.parse().map(KeyId).map_err(|_| Failure::new(Code::Usage, problem()))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_message_depends_on_the_keys_of_its_seals() {
        let key = FiledKey {
            id: KeyId(1),
            secret: Zeroizing::new([1; 32]),
            added: None,
            sealed_until: Some(UnixMillis(10)),
        };
        let mark = |kind| Mark { kind, key: &key, nonces_until: UnixMillis(20) };
        let body = |stamp: u8, finding: u8, received: u64| {
            format!(
                r#"{{"data":{{"stamp":{{"key":{stamp},"received_ms":{received}}},"finding":{{"key":{finding}}}}}}}"#
            )
        };
        for (kind, needed, free) in [
            (Kind::Stamp, body(1, 2, 30), body(2, 1, 5)),
            (Kind::Finding, body(2, 1, 30), body(1, 2, 5)),
            (Kind::Nonce, body(2, 2, 20), body(1, 1, 21)),
            (Kind::Stamp, body(1, 1, 1), "garbage".to_owned()),
        ] {
            assert!(mark(kind).is_on(&needed) && !mark(kind).is_on(&free), "{kind:?}");
        }
    }
}
