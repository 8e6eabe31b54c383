//! Shipping: how far the audit and the events have left the house, in order.
//!
//! The store is the spool. What was appended stays where it is, and a cursor says up to which place it was taken over by
//! somebody outside. One process at a time ships a stream: it holds the cursor for a while, and holds it anew with each
//! step. Whoever lost it notices before it moves the cursor, so rows may leave twice and none is passed over.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;

use crate::Error;

/// What is shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// The rows of the audit, by their places in the chain ([`crate::audit::AuditSink::after`]).
    Audit,
    /// What happened on devices, by its places ([`crate::ledger::LedgerReader::events`]).
    Events,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Audit, Self::Events];

    /// Its name, in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Events => "events",
        }
    }
}

/// A process that ships, by random bits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder([u8; 16]);

impl Holder {
    /// The one with these bits.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bits.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// How far a stream was shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last place that was taken over; 0 before the first.
    pub place: u64,
    /// The last place there is; 0 if there is none.
    pub newest: u64,
    /// When the first row after `place` was stored; none if all were taken over.
    pub waiting_since: Option<UnixMillis>,
    /// Who holds the cursor, if somebody does at this moment.
    pub held_by: Option<Holder>,
}

/// The cursors of a deployment. Each starts before the first row, and is part of the store: it is backed up with the rows
/// and goes back with them.
#[async_trait]
pub trait Shipping: Send + Sync {
    /// How far a stream was shipped. Only reads.
    async fn position(&self, stream: Stream) -> Result<Position, Error>;

    /// Holds a cursor for `lasts` from now, if it is at `place` and nobody else holds it. Returns whether it did.
    ///
    /// When it returns true, everything committed before is durable: what was read until then may be shown outside.
    async fn hold(&self, stream: Stream, holder: Holder, place: u64, lasts: Duration) -> Result<bool, Error>;

    /// Moves a held cursor from one place to a later one and holds it for `lasts` more. Returns false, and changes
    /// nothing, if it is elsewhere or was held by somebody else since.
    async fn advance(
        &self,
        stream: Stream,
        holder: Holder,
        from: u64,
        to: u64,
        lasts: Duration,
    ) -> Result<bool, Error>;
}
