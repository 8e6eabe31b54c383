//! Answers kept for a while, and one question at a time for each device.
//!
//! An answer is served only so often: a message that needs one newer than itself comes back, and must not be told the
//! same until the answer has grown old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::directory::DeviceRecord;

/// For how long answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// A device that is there.
    pub known: Duration,
    /// A device that is not.
    pub unknown: Duration,
    /// How often one answer is given again.
    pub uses: u32,
    /// The most devices.
    pub entries: usize,
}

pub(super) struct Cache {
    keep: Keep,
    slots: Mutex<HashMap<DeviceId, Arc<tokio::sync::Mutex<Slot>>>>,
}

#[derive(Default)]
struct Slot(Option<Kept>);

struct Kept {
    records: Vec<DeviceRecord>,
    answered: UnixMillis,
    left: u32,
}

impl Cache {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, slots: Mutex::default() }
    }

    /// What was answered about `device`, now or a while ago, and when. Who asks while somebody else does waits for that
    /// answer. A failure is not kept.
    pub(super) async fn get<F>(
        &self,
        device: DeviceId,
        now: UnixMillis,
        ask: impl FnOnce() -> F,
    ) -> Result<(Vec<DeviceRecord>, UnixMillis), Error>
    where
        F: Future<Output = Result<(Vec<DeviceRecord>, UnixMillis), Error>>,
    {
        let slot = self.slot(device);
        let mut slot = slot.lock().await;
        if let Some(kept) = slot.0.as_mut().filter(|kept| kept.left > 0 && self.is_fresh(kept, now)) {
            kept.left -= 1;
            return Ok((kept.records.clone(), kept.answered));
        }
        slot.0 = None;
        let (records, answered) = ask().await?;
        slot.0 = Some(Kept { records: records.clone(), answered, left: self.keep.uses });
        Ok((records, answered))
    }

    /// One that says several, or that lies ahead because the clock was set back, is not kept either.
    fn is_fresh(&self, kept: &Kept, now: UnixMillis) -> bool {
        let life = match kept.records.len() {
            0 => self.keep.unknown,
            1 => self.keep.known,
            _ => return false,
        };
        kept.answered <= now && now.since(kept.answered) < life
    }

    fn slot(&self, device: DeviceId) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= self.keep.entries && !slots.contains_key(&device) {
            // Whoever is asking now goes on; the others are asked for anew.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(device).or_default())
    }
}
