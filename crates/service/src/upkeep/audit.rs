//! Looking at the audit in the background: whether it can be written, whether its chain holds, and how often passwords
//! were shown. Rows are written by commands that end at once and that nobody scrapes, so they are counted where they end
//! up.

use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::chain::{self, Hash, START};
use keyturn_ports::audit::{Action, AuditSink, NewRow, Row};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Rows read at once.
const PAGE: usize = 500;

/// Follows the chain, from its start when a process begins, and from where it was when it is looked at again.
pub(crate) struct Watch {
    audit: Arc<dyn AuditSink>,
    seen: Seen,
}

/// How far the chain was followed.
#[derive(Clone, Copy)]
struct Seen {
    seq: u64,
    /// The hash of that row; none from the first row on that does not follow.
    hash: Option<Hash>,
    /// Rows that say that passwords were shown.
    reveals: u64,
}

impl Watch {
    pub(crate) fn new(audit: Arc<dyn AuditSink>) -> Self {
        Self { audit, seen: Seen { seq: 0, hash: Some(START), reveals: 0 } }
    }

    /// Tries whether the audit can be written, and follows the chain to its end.
    pub(crate) async fn round(&mut self, now: UnixMillis, pause: Duration, stop: &CancellationToken) {
        if let Err(error) = self.audit.probe(trial(now)).await {
            error!(%error, "the audit cannot be written, so no password can be shown");
        }
        match self.follow(pause, stop).await {
            Ok(true) => {
                metrics::counter!("keyturn_reveals_total").absolute(self.seen.reveals);
                let broken = if self.seen.hash.is_none() { 1.0 } else { 0.0 };
                metrics::gauge!("keyturn_audit_broken").set(broken);
            }
            // Not at the end: half a count would look like a counter that was reset.
            Ok(false) => {}
            Err(error) => warn!(%error, "the audit cannot be read, it is tried again"),
        }
    }

    /// Returns whether the end was reached.
    async fn follow(&mut self, pause: Duration, stop: &CancellationToken) -> Result<bool, Error> {
        let newest = self.audit.recent(1).await?.first().map_or(0, |row| row.seq);
        if newest < self.seen.seq {
            // A backup was put in the audit's place.
            self.seen = Seen { seq: 0, hash: Some(START), reveals: 0 };
        }
        while !stop.is_cancelled() {
            let rows = self.audit.after(self.seen.seq, PAGE).await?;
            for row in &rows {
                self.step(row);
            }
            if rows.len() < PAGE {
                return Ok(true);
            }
            tokio::time::sleep(pause).await;
        }
        Ok(false)
    }

    fn step(&mut self, row: &Row) {
        let Seen { seq, hash, reveals } = self.seen;
        let follows = hash.and_then(|previous| next(&previous, seq, row));
        if hash.is_some() && follows.is_none() {
            error!(seq = row.seq, "the audit is broken: this row does not follow from the one before it");
        }
        let shown = u64::from(row.row.action == Action::SecretGet);
        self.seen = Seen { seq: row.seq, hash: follows, reveals: reveals.saturating_add(shown) };
    }
}

/// The hash of a row, if it is the next one after a row of this place and hash.
fn next(previous: &Hash, seq: u64, row: &Row) -> Option<Hash> {
    let hash = chain::link(previous, row.seq, &row.row, row.row.action.as_str());
    (seq.checked_add(1) == Some(row.seq) && chain::hexadecimal(&hash) == row.hash).then_some(hash)
}

/// A row as long as a real one.
fn trial(at: UnixMillis) -> NewRow {
    let (actor, reason) = ("keyturn".to_owned(), "whether the audit can be written".to_owned());
    NewRow { at, actor, action: Action::SecretGet, device: None, reason, detail: String::new() }
}

#[cfg(test)]
mod tests;
