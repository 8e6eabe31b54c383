//! The depth cap: when the pipeline is that far behind, it is kinder to say so than to take more on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_ports::queue::{Queue, QueueName};

/// How often the depth is looked up.
const REFRESH: Duration = Duration::from_millis(250);

/// The depth of the `requests` queue, looked up at most four times a second however many requests come in.
pub(crate) struct Load {
    queue: Arc<dyn Queue>,
    cap: u64,
    clock: Arc<dyn Clock>,
    next_look: AtomicU64,
    full: AtomicBool,
}

impl Load {
    pub(crate) fn new(queue: Arc<dyn Queue>, cap: u64, clock: Arc<dyn Clock>) -> Self {
        Self { queue, cap, clock, next_look: AtomicU64::new(0), full: AtomicBool::new(false) }
    }

    /// Whether the queue is over its cap. A queue that cannot tell is not: the commit will say.
    pub(crate) async fn is_over(&self) -> bool {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_look.load(Ordering::Relaxed);
        let next = now.saturating_add(u64::try_from(REFRESH.as_millis()).unwrap_or(u64::MAX));
        let mine = now >= due
            && self.next_look.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        // Whoever looks does not wait for an engine that is away, as it would for one outside the state.
        if mine
            && let Ok(Ok(depth)) = tokio::time::timeout(REFRESH, self.queue.depth(QueueName::Requests)).await
        {
            self.full.store(depth.total > self.cap, Ordering::Relaxed);
        }
        self.full.load(Ordering::Relaxed)
    }
}
