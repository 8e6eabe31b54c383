//! Which device keys the ledger knows, remembered for a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::ids::KeyHash;
use keyturn_ports::Error;
use keyturn_ports::ledger::LedgerReader;
use tokio::sync::Semaphore;

use super::buckets::Generations;

/// A known key stays known, so this only bounds how long a key that is not used takes up room.
const KNOWN: Duration = Duration::from_hours(24);

/// A stranger becomes known with its first lane, some tenths of a second after its first message.
const UNKNOWN: Duration = Duration::from_secs(1);

/// Look-ups under way at once. Strangers with many keys then keep no more of the readers busy than this.
const LOOK_UPS: usize = 2;

/// A cache in front of [`LedgerReader::knows_key`].
pub(super) struct KnownKeys {
    reader: Arc<dyn LedgerReader>,
    remembered: Mutex<Remembered>,
    look_ups: Semaphore,
}

struct Remembered {
    known: Generations<KeyHash, ()>,
    unknown: Generations<KeyHash, ()>,
}

impl KnownKeys {
    /// Remembers at most twice `tracked` keys of each sort.
    pub(super) fn new(reader: Arc<dyn LedgerReader>, tracked: usize) -> Self {
        let known = Generations::new(tracked, KNOWN);
        let unknown = Generations::new(tracked, UNKNOWN);
        let remembered = Mutex::new(Remembered { known, unknown });
        Self { reader, remembered, look_ups: Semaphore::new(LOOK_UPS) }
    }

    /// Whether the ledger has a lane of this key, or had none a moment ago.
    pub(super) async fn knows(&self, key: KeyHash, now: Duration) -> Result<bool, Error> {
        if let Some(remembered) = self.recall(key, now) {
            return Ok(remembered);
        }
        let _turn = self.look_ups.acquire().await;
        // Somebody else may have asked about this key meanwhile.
        if let Some(remembered) = self.recall(key, now) {
            return Ok(remembered);
        }
        let known = self.reader.knows_key(key).await?;
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let sort = if known { &mut remembered.known } else { &mut remembered.unknown };
        sort.put(key, (), now);
        Ok(known)
    }

    fn recall(&self, key: KeyHash, now: Duration) -> Option<bool> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.known.get(key, now).is_some() {
            // Used, so it stays.
            remembered.known.put(key, (), now);
            return Some(true);
        }
        remembered.unknown.get(key, now).map(|()| false)
    }
}
