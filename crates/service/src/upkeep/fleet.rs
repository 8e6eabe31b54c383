//! Counting the fleet in the background, for `/metrics`: how many devices stand how, and never which.

use std::collections::BTreeMap;
use std::time::Duration;

use keyturn_domain::standing::DeviceStanding;
use keyturn_ports::Error;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::fleet::Surveyor;

/// Counts a fleet.
pub(crate) struct Census {
    pub(crate) surveyor: Surveyor,
    /// How often; zero means never.
    pub(crate) every: Duration,
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

    fn tell(&self, devices: &BTreeMap<DeviceStanding, u32>) {
        for state in DeviceStanding::ALL {
            let count = devices.get(&state).copied().unwrap_or_default();
            metrics::gauge!("keyturn_fleet_devices", "state" => state.as_str()).set(count);
        }
        let now = Duration::from_millis(self.surveyor.clock.now().0);
        metrics::gauge!("keyturn_fleet_counted_timestamp_seconds").set(now.as_secs_f64());
    }

    /// Every device that the directory lists and every one that the ledger knows, once.
    async fn count(&self) -> Result<BTreeMap<DeviceStanding, u32>, Error> {
        let mut counts = BTreeMap::new();
        let mut count = |state| {
            let count: &mut u32 = counts.entry(state).or_default();
            *count = count.saturating_add(1);
        };
        self.surveyor.each(|one, _| count(one.state)).await?;
        Ok(counts)
    }
}
