//! Answers kept for a while, and one question at a time for each device.
//!
//! An answer is served only so often: a message that needs one newer than itself comes back, and must not be told the
//! same until the answer has grown old.
//!
//! Where a feed of changes is read, it says which answers to forget. While it is late, and for a while after a device
//! changed, answers are good for [`Keep::unfed`] at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Either, at most, while the feed of changes is late.
    pub unfed: Duration,
    /// How often one answer is given again.
    pub uses: u32,
    /// The most devices.
    pub entries: usize,
}

pub(super) struct Cache {
    keep: Keep,
    /// For how long a device that changed is taken for changing.
    settle: Duration,
    /// Whether a feed is to be read at all.
    expects_feed: bool,
    fed: AtomicBool,
    slots: Mutex<HashMap<DeviceId, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    /// Until when the device is taken for changing.
    settles: Option<UnixMillis>,
    kept: tokio::sync::Mutex<Option<Kept>>,
}

struct Kept {
    records: Vec<DeviceRecord>,
    answered: UnixMillis,
    left: u32,
}

impl Cache {
    pub(super) fn new(keep: Keep, settle: Duration, expects_feed: bool) -> Self {
        Self { keep, settle, expects_feed, fed: AtomicBool::new(false), slots: Mutex::default() }
    }

    /// Whoever is asking now gets an answer that nobody else gets.
    pub(super) fn forget(&self, changed: Option<&[DeviceId]>, now: UnixMillis) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(changed) = changed else { return slots.clear() };
        for device in changed {
            slots.remove(device);
            self.make_room(&mut slots);
            let settles = Some(now.plus(self.settle));
            slots.insert(*device, Arc::new(Slot { settles, ..Slot::default() }));
        }
    }

    pub(super) fn is_fed(&self, fed: bool) {
        self.fed.store(fed, Ordering::Relaxed);
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
        let settles = slot.settles.is_some_and(|until| now < until);
        let mut slot = slot.kept.lock().await;
        if let Some(kept) = slot.as_mut().filter(|kept| kept.left > 0 && self.is_fresh(kept, now, settles)) {
            kept.left -= 1;
            return Ok((kept.records.clone(), kept.answered));
        }
        *slot = None;
        let (records, answered) = ask().await?;
        *slot = Some(Kept { records: records.clone(), answered, left: self.keep.uses });
        Ok((records, answered))
    }

    /// One that says several, or that lies ahead because the clock was set back, is not kept either.
    fn is_fresh(&self, kept: &Kept, now: UnixMillis, settles: bool) -> bool {
        let life = match kept.records.len() {
            0 => self.keep.unknown,
            1 => self.keep.known,
            _ => return false,
        };
        let unfed = self.expects_feed && (settles || !self.fed.load(Ordering::Relaxed));
        let life = if unfed { life.min(self.keep.unfed) } else { life };
        kept.answered <= now && now.since(kept.answered) < life
    }

    fn slot(&self, device: DeviceId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if !slots.contains_key(&device) {
            self.make_room(&mut slots);
        }
        Arc::clone(slots.entry(device).or_default())
    }

    /// Whoever is asking now goes on; the others are asked for anew.
    fn make_room(&self, slots: &mut HashMap<DeviceId, Arc<Slot>>) {
        if slots.len() >= self.keep.entries {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
    }
}
