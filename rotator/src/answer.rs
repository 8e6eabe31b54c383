//! Signing answers and addressing them to the notifier.

use keyturn_domain::ids::LaneId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::NewMessage;
use keyturn_schemas::claims::{Deployment, Version1};
use keyturn_schemas::envelope::Envelope;
use keyturn_schemas::outcome::{Carried, Outcome};
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::signing::SigningKey;

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
    pub(crate) key: &'a SigningKey,
    pub(crate) now: UnixMillis,
    pub(crate) expires: UnixMillis,
}

impl Speaker<'_> {
    /// The message to the notifier that answers `judged`.
    pub(crate) fn say(&self, judged: &Judged, said: &Said<'_>) -> NewMessage {
        let (rid, lane) = (judged.message.message().rid(), judged.lane.id());
        let (result, carries) = match said {
            Said::Unsigned => (None, None),
            Said::Word(code, retry_at) => (self.sign(judged, lane, *code, *retry_at, None), None),
            Said::Version(ready) => {
                let enclosed = Enclosed::new(ready.version, ready.epk.thumbprint(), &ready.sealed);
                let carried = Carried { lane, version: ready.version };
                (self.sign(judged, lane, Code::Rotate, None, Some(enclosed)), Some(carried))
            }
        };
        let outcome = Outcome { rid, carries, result, expires_ms: self.expires };
        let device = judged.lane.device;
        let body = Envelope::new(rid, device, "rotator", self.now, judged.trace, outcome).to_json();
        NewMessage { request: rid, device, body }
    }

    fn sign(
        &self,
        judged: &Judged,
        lane: LaneId,
        code: Code,
        retry_at: Option<UnixMillis>,
        enclosed: Option<Enclosed>,
    ) -> Option<String> {
        let answer = Answer {
            v: Version1,
            deployment: self.deployment.clone(),
            rid: judged.message.message().rid(),
            lane,
            code,
            retry_at,
            issued_at: self.now,
            enclosed,
        };
        // An answer has string keys and no failing serialisers; without a signature it would be the refusal.
        result::sign(&answer, self.key).ok()
    }
}
