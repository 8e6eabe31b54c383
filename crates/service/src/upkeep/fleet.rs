//! Counting the fleet in the background, for `/metrics`: how many devices stand how, and never which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::fleet::{Standing, standing};
use keyturn_domain::ids::DeviceId;
use keyturn_domain::policies::Policies;
use keyturn_ports::Error;
use keyturn_ports::directory::Directory;
use keyturn_ports::ledger::LedgerReader;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Devices read at once.
const PAGE: usize = 500;

/// Counts a fleet.
pub(crate) struct Census {
    pub(crate) ledger: Arc<dyn LedgerReader>,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) policies: Policies,
    pub(crate) clock: Arc<dyn Clock>,
    /// How often; zero means never.
    pub(crate) every: Duration,
    /// The pause after a page, for others to read.
    pub(crate) pause: Duration,
}

impl Census {
    /// Counts until told to stop. What cannot be counted now keeps its last figures, whose age is told as well.
    pub(crate) async fn run(self, stop: CancellationToken) {
        if self.every.is_zero() {
            return;
        }
        loop {
            let counted =
                tokio::select! { () = stop.cancelled() => return, counted = self.count() => counted };
            match counted {
                Ok(devices) => self.tell(&devices),
                Err(error) => warn!(%error, "the fleet could not be counted, it is tried again"),
            }
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(self.every) => {} }
        }
    }

    fn tell(&self, devices: &BTreeMap<Standing, u32>) {
        for state in Standing::ALL {
            let count = devices.get(&state).copied().unwrap_or_default();
            metrics::gauge!("keyturn_fleet_devices", "state" => state.as_str()).set(count);
        }
        let now = Duration::from_millis(self.clock.now().0);
        metrics::gauge!("keyturn_fleet_counted_timestamp_seconds").set(now.as_secs_f64());
    }

    /// Every device that the directory lists and every one that the ledger knows, once.
    async fn count(&self) -> Result<BTreeMap<Standing, u32>, Error> {
        let (listed, now) = (self.listed().await?, self.clock.now());
        let mut devices: BTreeSet<DeviceId> = self.known().await?;
        devices.extend(&listed);
        let mut counts = BTreeMap::new();
        for (number, device) in (1..).zip(&devices) {
            let lanes = self.ledger.lanes(*device).await?;
            let state = standing(*device, listed.contains(device), &lanes, &self.policies, now);
            let count: &mut u32 = counts.entry(state).or_default();
            *count = count.saturating_add(1);
            if number % PAGE == 0 {
                tokio::time::sleep(self.pause).await;
            }
        }
        Ok(counts)
    }

    async fn listed(&self) -> Result<BTreeSet<DeviceId>, Error> {
        let (mut listed, mut after) = (BTreeSet::new(), None);
        loop {
            let page = self.directory.page(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(listed) };
            after = Some(last.id);
            listed.extend(page.iter().map(|one| one.id));
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn known(&self) -> Result<BTreeSet<DeviceId>, Error> {
        let (mut known, mut after) = (BTreeSet::new(), None);
        loop {
            let page = self.ledger.devices(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(known) };
            after = Some(*last);
            known.extend(page);
            tokio::time::sleep(self.pause).await;
        }
    }
}
