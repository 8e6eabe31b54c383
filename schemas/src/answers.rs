//! What the device API answers with when it is no problem and no result.

use serde::{Deserialize, Serialize};

use crate::nonce::Nonce;

/// The answer to `GET /v1/nonce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NonceAnswer {
    /// A fresh nonce.
    pub nonce: Nonce,
}

/// The answer to a message that was taken, and to a poll that came too early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TicketAnswer {
    /// Where the result will be found.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Ticket"))]
    pub ticket: String,
}
