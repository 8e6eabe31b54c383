//! What all entities of a namespace share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::Settings;
use super::tokens::Access;

pub(super) struct Home {
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) tls: TlsConnector,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Nobody asks anything before this: the namespace is throttled as a whole.
    pub(super) quiet_until: Mutex<Option<Instant>>,
}

impl Home {
    /// Waits while the service wants to be left alone.
    pub(super) async fn wait_for_quiet(&self) {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Leaves the service alone for a while.
    pub(super) fn hush(&self, pause: Duration) {
        let until = Some(Instant::now() + pause);
        let mut quiet = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet = (*quiet).max(until);
    }
}
