//! What ships: one task for each stream, of one process at a time.
//!
//! One round, always in this order: look where the cursor is, read the rows behind it, hold the cursor (which makes
//! what was read durable), send, move the cursor. Whoever dies between the last two has its rows sent again.

use std::sync::Arc;
use std::time::Duration;

use keyturn_azure::logs::{LogsIngestion, StreamName};
use keyturn_domain::clock::Clock;
use keyturn_ports::audit::AuditSink;
use keyturn_ports::directory::Directory;
use keyturn_ports::ledger::LedgerReader;
use keyturn_ports::shipping::{Holder, Position, Shipping, Stream};
use keyturn_ports::{Error, Kind};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::columns;
use super::names::Names;
use crate::config::LogShipping;

/// Ships both streams.
pub(crate) struct Forwarder {
    pub(crate) shipping: Arc<dyn Shipping>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) ledger: Arc<dyn LedgerReader>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) logs: LogsIngestion,
    pub(crate) settings: LogShipping,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) holder: Holder,
}

/// How a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Everything there was is taken over.
    Done,
    /// There may be more.
    More,
    /// Another process ships.
    Elsewhere,
}

impl Forwarder {
    /// Ships until told to stop. What fails is tried again, for ever, with growing pauses.
    pub(crate) async fn run(self, stop: CancellationToken) {
        info!(endpoint = %self.settings.client.endpoint, "shipping audit and events");
        tokio::join!(self.keep_up(Stream::Audit, &stop), self.keep_up(Stream::Events, &stop));
    }

    async fn keep_up(&self, stream: Stream, stop: &CancellationToken) {
        let (every, mut failed) = (self.settings.every, 0_u32);
        loop {
            // A round may be dropped anywhere: what was sent and not noted is sent again.
            let round =
                tokio::select! { () = stop.cancelled() => return, round = self.round(stream) => round };
            let pause = match round {
                Ok(Round::More) => {
                    failed = 0;
                    continue;
                }
                Ok(_) => {
                    failed = 0;
                    every
                }
                Err(error) => {
                    failed = failed.saturating_add(1);
                    metrics::counter!("keyturn_log_failures_total", "stream" => stream.as_str()).increment(1);
                    warn!(stream = stream.as_str(), failed, %error, "rows are not shipped, and wait in the store");
                    every.saturating_mul(2_u32.saturating_pow(failed.min(16))).min(self.settings.max_delay)
                }
            };
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
        }
    }

    async fn round(&self, stream: Stream) -> Result<Round, Error> {
        let position = self.shipping.position(stream).await?;
        self.tell(stream, &position);
        if position.place > position.newest {
            let detail = format!(
                "rows through {} were shipped, and the last one is {}",
                position.place, position.newest
            );
            return Err(Error::new(Kind::Corrupt, "looking what is to be shipped", detail));
        }
        if position.held_by.is_some_and(|other| other != self.holder) {
            return Ok(Round::Elsewhere);
        }
        let (places, rows) = self.read(stream, position.place).await?;
        if rows.is_empty() {
            return Ok(Round::Done);
        }
        let lease = self.settings.lease;
        if !self.shipping.hold(stream, self.holder, position.place, lease).await? {
            return Ok(Round::Elsewhere);
        }
        let (mut from, mut sent) = (position.place, 0);
        while let (Some(rows), Some(places)) = (rows.get(sent..), places.get(sent..)) {
            let count = self.logs.send(self.name(stream), rows).await?;
            let Some(to) = count.checked_sub(1).and_then(|last| places.get(last)).copied() else { break };
            if !self.shipping.advance(stream, self.holder, from, to, lease).await? {
                return Ok(Round::Elsewhere);
            }
            let counted = u64::try_from(count).unwrap_or(u64::MAX);
            metrics::counter!("keyturn_log_rows_shipped_total", "stream" => stream.as_str())
                .increment(counted);
            (from, sent) = (to, sent + count);
        }
        Ok(if sent < self.settings.page { Round::Done } else { Round::More })
    }

    /// The rows behind a place, and their own places.
    async fn read(&self, stream: Stream, after: u64) -> Result<(Vec<u64>, Vec<String>), Error> {
        let mut names = Names::new(Arc::clone(&self.directory), Arc::clone(&self.ledger));
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        match stream {
            Stream::Audit => {
                for row in self.audit.after(after, self.settings.page).await? {
                    places.push(row.seq);
                    rows.push(columns::audit(&row, &names.of(row.row.device).await?).shipped());
                }
            }
            Stream::Events => {
                for (place, event) in self.ledger.events(after, self.settings.page).await? {
                    places.push(place);
                    rows.push(columns::event(place, &event, &names.of(Some(event.device)).await?).shipped());
                }
            }
        }
        Ok((places, rows))
    }

    fn name(&self, stream: Stream) -> &StreamName {
        match stream {
            Stream::Audit => &self.settings.audit_stream,
            Stream::Events => &self.settings.events_stream,
        }
    }

    fn tell(&self, stream: Stream, position: &Position) {
        let waiting = position.newest.saturating_sub(position.place);
        let lag = position.waiting_since.map_or(Duration::ZERO, |since| self.clock.now().since(since));
        metrics::gauge!("keyturn_log_rows_waiting", "stream" => stream.as_str())
            .set(u32::try_from(waiting).unwrap_or(u32::MAX));
        metrics::gauge!("keyturn_log_lag_seconds", "stream" => stream.as_str()).set(lag.as_secs_f64());
    }
}
