//! Following a directory elsewhere: one process of the deployment reads what changed and files it in the roster, and each
//! process forgets what it was answered about devices that changed.
//!
//! A page is filed together with the place after it, so whoever dies anywhere leaves a place from which another goes on.
//! What is filed twice, or late, changes nothing.

use std::sync::Arc;

use keyturn_azure::graph::feed::Link;
use keyturn_azure::graph::{Feed, GraphDirectory};
use keyturn_domain::clock::Clock;
use keyturn_ports::Error;
use keyturn_ports::roster::{Next, Roster};
use keyturn_ports::shipping::Holder;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The most devices that are forgotten one by one; where more changed, all are.
const ONE_BY_ONE: usize = 10_000;

pub(crate) struct Follower {
    pub(crate) graph: GraphDirectory,
    pub(crate) roster: Arc<dyn Roster>,
    pub(crate) settings: Feed,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) holder: Holder,
}

impl Follower {
    /// Follows until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            ((), ()) = async { tokio::join!(self.keep_reading(), self.keep_forgetting()) } => {}
        }
        // Whoever is left goes on at once. If this fails, the turn ends by itself.
        drop(self.roster.give_back(self.holder, std::time::Duration::ZERO).await);
    }

    async fn keep_reading(&self) {
        metrics::counter!("keyturn_directory_feed_failures_total").increment(0);
        metrics::counter!("keyturn_directory_feed_restarts_total").increment(0);
        loop {
            if let Err(error) = self.round().await {
                metrics::counter!("keyturn_directory_feed_failures_total").increment(1);
                warn!(%error, "what changed in the directory could not be read, it is tried again");
                if let Err(error) = self.roster.give_back(self.holder, self.settings.every).await {
                    warn!(%error, "the turn to read devices ends by itself");
                }
            }
            tokio::time::sleep(self.settings.look).await;
        }
    }

    /// Reads from where the feed was left to its end, if that is due and nobody else is at it.
    async fn round(&self) -> Result<(), Error> {
        let Feed { every, hold, .. } = self.settings;
        let (mut told, mut restarted) = (0, false);
        while let Some(turn) = self.roster.take(self.holder, hold).await? {
            let page = self.graph.changes(turn.place.as_deref()).await?;
            if page.unread > 0 {
                warn!(
                    objects = page.unread,
                    "the directory told of objects without an id; they are passed over"
                );
            }
            told += page.changes.len();
            let next = match page.next {
                Link::More(place) => Next::More(place),
                Link::Done(place) => Next::Done(place, every),
                // Twice in a row is no matter of an old place.
                Link::Lost if restarted => return self.roster.give_back(self.holder, every).await,
                Link::Lost => {
                    metrics::counter!("keyturn_directory_feed_restarts_total").increment(1);
                    warn!(
                        "the directory does not know where its feed was left; it is read from the beginning"
                    );
                    restarted = true;
                    Next::Restart
                }
            };
            let ends = matches!(next, Next::Done(..));
            if !self.roster.file(self.holder, turn.step, page.changes, next, hold).await? {
                info!("another process reads what changed in the directory");
                return Ok(());
            }
            if ends {
                metrics::counter!("keyturn_directory_changes_total").increment(told.try_into().unwrap_or(0));
                info!(objects = told, "what changed in the directory was read");
                return Ok(());
            }
        }
        Ok(())
    }

    async fn keep_forgetting(&self) {
        let mut known = None;
        loop {
            if let Err(error) = self.forget(&mut known).await {
                self.graph.is_fed(false);
                warn!(%error, "which devices changed could not be looked up, it is tried again");
            }
            tokio::time::sleep(self.settings.look).await;
        }
    }

    /// Forgets what changed since the step that is `known`. A process that begins has nothing to forget.
    async fn forget(&self, known: &mut Option<u64>) -> Result<(), Error> {
        let changed = self.roster.changed(known.unwrap_or(u64::MAX), ONE_BY_ONE).await?;
        if known.is_none_or(|known| changed.step != known) {
            // A store that was put back to an earlier step may have lost some.
            let went_back = known.is_some_and(|known| changed.step < known);
            self.graph.forget(changed.devices.as_deref().filter(|_| !went_back));
        }
        *known = Some(changed.step);
        let age = changed.read.map(|read| self.clock.now().since(read));
        self.graph.is_fed(age.is_some_and(|age| age <= self.settings.late));
        let read = changed.read.map(|read| std::time::Duration::from_millis(read.0).as_secs_f64());
        metrics::gauge!("keyturn_directory_feed_read_timestamp_seconds").set(read.unwrap_or_default());
        Ok(())
    }
}
