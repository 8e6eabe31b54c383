//! Signing answers and addressing them to the notifier.

use keyturn_domain::ids::LaneId;
use keyturn_domain::time::UnixMillis;
use keyturn_pipeline::handler::Failure;
use keyturn_pipeline::signing::{RemoteKey, ResultKey};
use keyturn_ports::queue::NewMessage;
use keyturn_schemas::claims::{Deployment, Version1};
use keyturn_schemas::envelope::Envelope;
use keyturn_schemas::outcome::{Carried, Outcome};
use keyturn_schemas::result::{self, Answer, Code, Enclosed};

use crate::judge::Judged;
use crate::versions::Ready;

/// What is said to a device.
pub(crate) enum Said<'a> {
    /// The one unsigned refusal.
    Unsigned,
    /// A signed word.
    Word(Code, Option<UnixMillis>),
    /// A sealed version.
    Version(&'a Ready),
}

/// Who says it, and how long it is kept.
pub(crate) struct Speaker<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) key: &'a ResultKey,
    pub(crate) now: UnixMillis,
    pub(crate) expires: UnixMillis,
}

/// The message to the notifier that answers another.
pub(crate) enum Spoken {
    /// As it is sent.
    Whole(NewMessage),
    /// Its signature is made elsewhere, and missing.
    Unsigned(Box<Unsigned>),
}

/// A message to the notifier without its signature. It becomes one by [`sign_all`] alone: without a signature it would be
/// the refusal.
pub(crate) struct Unsigned {
    input: String,
    envelope: Envelope<Outcome>,
}

impl Speaker<'_> {
    /// The message to the notifier that answers `judged`.
    pub(crate) fn say(&self, judged: &Judged, said: &Said<'_>) -> Spoken {
        let lane = judged.lane.id();
        let (answer, carries) = match said {
            Said::Unsigned => (None, None),
            Said::Word(code, retry_at) => (Some(self.answer(judged, lane, *code, *retry_at, None)), None),
            Said::Version(ready) => {
                let enclosed = Enclosed::new(ready.version, ready.epk.thumbprint(), &ready.sealed);
                let carried = Carried { lane, version: ready.version };
                (Some(self.answer(judged, lane, Code::Rotate, None, Some(enclosed))), Some(carried))
            }
        };
        match (&answer, self.key) {
            (None, _) => Spoken::Whole(sent(&self.envelope(judged, carries, None))),
            // An answer has string keys and no failing serialisers; without a signature it would be the refusal.
            (Some(answer), ResultKey::Here(key)) => {
                Spoken::Whole(sent(&self.envelope(judged, carries, result::sign(answer, key).ok())))
            }
            (Some(answer), ResultKey::Elsewhere(key)) => {
                let envelope = self.envelope(judged, carries, None);
                match result::signing_input(answer, key.public()) {
                    Ok(input) => Spoken::Unsigned(Box::new(Unsigned { input, envelope })),
                    Err(_) => Spoken::Whole(sent(&envelope)),
                }
            }
        }
    }

    fn envelope(
        &self,
        judged: &Judged,
        carries: Option<Carried>,
        result: Option<String>,
    ) -> Envelope<Outcome> {
        let (rid, device) = (judged.message.message().rid(), judged.lane.device);
        let outcome = Outcome { rid, carries, result, expires_ms: self.expires };
        Envelope::new(rid, device, "rotator", self.now, judged.trace, outcome)
    }

    fn answer(
        &self,
        judged: &Judged,
        lane: LaneId,
        code: Code,
        retry_at: Option<UnixMillis>,
        enclosed: Option<Enclosed>,
    ) -> Answer {
        Answer {
            v: Version1,
            deployment: self.deployment.clone(),
            rid: judged.message.message().rid(),
            lane,
            code,
            retry_at,
            issued_at: self.now,
            enclosed,
        }
    }
}

fn sent(envelope: &Envelope<Outcome>) -> NewMessage {
    NewMessage { request: envelope.id, device: envelope.subject, body: envelope.to_json() }
}

/// Has messages signed by a key that is elsewhere, in their order. One that cannot be signed now fails alone and waits:
/// whatever is wrong, it is with the key and not with the message.
pub(crate) async fn sign_all(
    key: &RemoteKey,
    unsigned: impl IntoIterator<Item = Unsigned>,
) -> Vec<Result<NewMessage, Failure>> {
    let (inputs, envelopes): (Vec<String>, Vec<Envelope<Outcome>>) =
        unsigned.into_iter().map(|one| (one.input, one.envelope)).unzip();
    let mut signed = key.sign(inputs).await.into_iter();
    let complete = |mut envelope: Envelope<Outcome>| {
        let lost = || Failure::Engine("signing lost count of its answers".to_owned());
        let (input, signature) =
            signed.next().ok_or_else(lost)?.map_err(|error| Failure::Engine(error.to_string()))?;
        envelope.data.result = Some(result::complete(input, &signature));
        Ok(sent(&envelope))
    };
    envelopes.into_iter().map(complete).collect()
}
