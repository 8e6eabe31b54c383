//! Reading envelopes: one that cannot be read dead-letters alone, never its batch.

use keyturn_ports::queue::{DeadReason, Leased};
use keyturn_schemas::envelope::{Data, Envelope, EnvelopeError};

use crate::handler::Handled;
use crate::spans;

/// The envelope in a leased message, or what becomes of the message instead. Its `traceparent` is that of what is sent on
/// because of it.
pub fn decode<D: Data>(leased: &Leased) -> Result<Envelope<D>, Handled> {
    let parsed = Envelope::<D>::parse(&leased.message.body);
    let sent_on = |mut envelope: Envelope<D>| {
        envelope.traceparent = spans::sent_on(envelope.traceparent);
        envelope
    };
    parsed.map(sent_on).map_err(|error| {
        let reason = match error {
            EnvelopeError::Shape(_) => DeadReason::Undecodable,
            EnvelopeError::Unsupported { .. } => DeadReason::UnsupportedVersion,
        };
        Handled::dead(reason, error.to_string())
    })
}
