//! Everything one message does, as one transaction.

use keyturn_domain::ids::{EventId, RequestId};
use keyturn_domain::lane::{self, LaneEvent};
use keyturn_pipeline::signing::ResultKey;
use keyturn_ports::ledger::{Commit, Happening, Issued, NewEvent, Stored};
use keyturn_ports::queue::{NewMessage, QueueName};
use keyturn_schemas::alarm::AlarmRaised;
use keyturn_schemas::envelope::Envelope;
use sha2::{Digest, Sha256};

use crate::answer::{Said, Speaker, Spoken, Unsigned};
use crate::handler::Inner;
use crate::judge::Judged;
use crate::plan::{self, Act, Answering};
use crate::versions::Ready;

/// The effect of a message, and its answer if the signature of that is still missing; then it is not in the outbox yet.
pub(crate) struct Draft {
    pub(crate) commit: Commit,
    pub(crate) unsigned: Option<Box<Unsigned>>,
}

impl Inner {
    /// The effect of a message: its lane, what happened, and the answer on its way to the notifier.
    pub(crate) fn effect(
        &self,
        judged: &Judged,
        mut act: Act,
        ready: Option<Ready>,
        key: &ResultKey,
    ) -> Draft {
        let now = self.clock.now();
        let wanted = plan::wanted(judged);
        let (answer, unsigned) = match self.say(judged, act.reply, ready.as_ref(), key) {
            Spoken::Whole(answer) => (Some(answer), None),
            Spoken::Unsigned(unsigned) => (None, Some(unsigned)),
        };
        let made = ready.and_then(|ready| ready.issued);
        if let (Answering::Fresh(reason), Some(Stored { value, .. }), Some(Issued { version, .. })) =
            (act.reply, act.lane.as_mut(), made.as_ref())
        {
            let policy = self.settings.policies.choose(&*value);
            let event = lane::minted(value, *version, reason, &policy.rotation, now);
            act.happenings.push(Happening::Lane { lane: wanted.lane, event });
        }
        // A version made for this message by a worker that died is among those found, too.
        let mut issued = act.found;
        issued.extend(made.filter(|made| issued.iter().all(|found| found.version != made.version)));
        let event = |(index, what): (u64, Happening)| NewEvent {
            id: event_id(wanted.request, index),
            at: now,
            device: wanted.device,
            request: wanted.request,
            what,
        };
        let events: Vec<NewEvent> = (0..).zip(act.happenings).map(event).collect();
        let alarms = events.iter().filter_map(|event| alarm(judged, event));
        let outbox = answer.map(|answer| (QueueName::Outcomes, answer)).into_iter().chain(alarms).collect();
        let (request, nonce, mark) = (wanted.request, wanted.nonce, wanted.mark);
        Draft { commit: Commit { request, nonce, mark, lane: act.lane, issued, events, outbox }, unsigned }
    }

    /// The answer to a message, on its way to the notifier.
    pub(crate) fn say(
        &self,
        judged: &Judged,
        answering: Answering,
        ready: Option<&Ready>,
        key: &ResultKey,
    ) -> Spoken {
        let now = self.clock.now();
        let speaker = Speaker {
            deployment: &self.settings.deployment,
            key,
            now,
            expires: now.plus(self.settings.result_ttl),
        };
        let said = match (answering, ready) {
            (_, Some(ready)) => Said::Version(ready),
            (Answering::Word(code, retry_at), None) => Said::Word(code, retry_at),
            (Answering::Unsigned | Answering::Outstanding(_) | Answering::Fresh(_), None) => Said::Unsigned,
        };
        speaker.say(judged, &said)
    }
}

/// An alarm on its way out of the house. It is sent with the transaction that raises it, so there is neither an alarm
/// that nobody sends nor one of something that never happened; its id is the event's, so repeats can be merged.
fn alarm(judged: &Judged, event: &NewEvent) -> Option<(QueueName, NewMessage)> {
    let Happening::Lane { lane, event: LaneEvent::AlarmRaised { alarm } } = &event.what else { return None };
    let raised = AlarmRaised { event: event.id, at_ms: event.at, lane: *lane, alarm: *alarm, webhook: None };
    let envelope = Envelope::new(event.request, event.device, "rotator", event.at, judged.trace, raised);
    let message = NewMessage { request: event.request, device: event.device, body: envelope.to_json() };
    Some((QueueName::Alarms, message))
}

/// The same for the same fact, so that a repeat is merged.
fn event_id(request: RequestId, index: u64) -> EventId {
    let digest = Sha256::new().chain_update(request.as_bytes()).chain_update(index.to_be_bytes()).finalize();
    let mut id = [0; 16];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    EventId(id)
}
