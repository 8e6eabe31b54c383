//! Putting dead letters back on their way.
//!
//! A replay keeps the device's message and its stamp byte for byte, is marked as one for telemetry, and enters at the validator, so that every
//! check is made again and what has expired stays expired. A dead outcome carries no device message: it is a
//! result already signed, and goes back to the notifier, which checks that its version is still outstanding. A dead
//! alarm goes to its webhook again, under the id it had.

pub mod eligible;

use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::QueueName;
use keyturn_schemas::alarm::AlarmRaised;
use keyturn_schemas::envelope::{Envelope, EnvelopeError, Found, Stamped};
use keyturn_schemas::outcome::Outcome;

/// A dead letter that cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("dead letter {} on {queue} cannot be replayed: {why}", id.0)]
pub struct NotReplayable {
    id: DeadLetterId,
    queue: QueueName,
    why: String,
}

impl NotReplayable {
    /// Why, in words.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// Where a dead letter goes and with what body.
pub fn plan(letter: &DeadLetter) -> Result<(DeadLetterId, QueueName, String), NotReplayable> {
    let body = &letter.message.body;
    let not_replayable = |why: String| NotReplayable { id: letter.id, queue: letter.queue, why };
    let said = |error: EnvelopeError| not_replayable(error.to_string());
    let number = letter.id.0;
    let (queue, body) = match letter.queue {
        QueueName::Requests => {
            (QueueName::Requests, Envelope::<Stamped>::parse(body).map_err(said)?.replayed(number).to_json())
        }
        QueueName::Findings => {
            let found = Envelope::<Found>::parse(body).map_err(said)?;
            (QueueName::Requests, found.replayed(number).back_to_validator().to_json())
        }
        QueueName::Outcomes => {
            (QueueName::Outcomes, Envelope::<Outcome>::parse(body).map_err(said)?.replayed(number).to_json())
        }
        QueueName::Alarms => (
            QueueName::Alarms,
            Envelope::<AlarmRaised>::parse(body).map_err(said)?.replayed(number).to_json(),
        ),
    };
    Ok((letter.id, queue, body))
}
