//! Reading envelopes: one that cannot be read dead-letters alone, never its batch.

use keyturn_ports::queue::{DeadReason, Leased};
use keyturn_schemas::envelope::{Data, Envelope, EnvelopeError};

use crate::handler::Handled;

/// The envelope in a leased message, or what becomes of the message instead.
pub fn decode<D: Data>(leased: &Leased) -> Result<Envelope<D>, Handled> {
    Envelope::parse(&leased.message.body).map_err(|error| {
        let reason = match error {
            EnvelopeError::Shape(_) => DeadReason::Undecodable,
            EnvelopeError::Unsupported { .. } => DeadReason::UnsupportedVersion,
        };
        Handled::dead(reason, error.to_string())
    })
}
