//! `/healthz`, `/readyz` and `/metrics` of a process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use keyturn_domain::clock::Clock;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::{Depth, Queue, QueueName};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::expiry;
use crate::standing::{Standings, of_hop};

/// What a process waits for before it can begin its work, if it does.
#[derive(Clone, Debug, Default)]
pub struct Waits(Arc<Mutex<Option<String>>>);

impl Waits {
    /// It waits for this, or no longer.
    pub(crate) fn set(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn now(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Routes that tell how the process is.
///
/// `/healthz` answers as long as the process runs; `/readyz` answers 200 only while the engines that it cannot do without
/// answer, and says how each engine stands, or what the process waits for; `/metrics` is in Prometheus's text format. No
/// engine is asked for longer than `patience` because somebody asks here.
pub fn router(
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    waits: Waits,
    standings: Standings,
    patience: Duration,
    metrics: Option<PrometheusHandle>,
) -> Router {
    let scraped = Arc::new(Scraped { queue, clock, standings: standings.clone(), patience, metrics });
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&standings, &waits)))
        .route("/metrics", get(async move || scraped.scrape().await))
}

fn ready(standings: &Standings, waits: &Waits) -> (StatusCode, String) {
    if let Some(what) = waits.now() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("waiting: {what}\n"));
    }
    let (ready, told) = standings.tell();
    if ready {
        (StatusCode::OK, format!("ready\n{told}"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{told}"))
    }
}

struct Scraped {
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    standings: Standings,
    patience: Duration,
    metrics: Option<PrometheusHandle>,
}

impl Scraped {
    /// What a queue holds. One that is known to be away is not asked: whoever scrapes does not wait for it, and so gets
    /// to hear that it is away.
    async fn depth(&self, name: QueueName) -> Option<Depth> {
        if self.standings.is_away("state") || self.standings.is_away(of_hop(name)) {
            return None;
        }
        tokio::time::timeout(self.patience, self.queue.depth(name)).await.ok()?.ok()
    }

    async fn scrape(&self) -> String {
        // All at once, so that their waits do not add up.
        let [one, two, three, four] = QueueName::ALL.map(|name| self.depth(name));
        let (one, two, three, four) = tokio::join!(one, two, three, four);
        for (name, depth) in QueueName::ALL.into_iter().zip([one, two, three, four]) {
            if let Some(depth) = depth {
                tell(name, &depth, self.clock.now());
            }
        }
        expiry::tell(self.clock.now());
        self.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default()
    }
}

fn tell(name: QueueName, depth: &Depth, now: UnixMillis) {
    let gauges = [
        ("keyturn_queue_messages", depth.total),
        ("keyturn_queue_leased", depth.leased),
        ("keyturn_queue_dead_letters", depth.dead),
    ];
    for (gauge, value) in gauges {
        // Gauges are floating point; a queue of 2^53 messages has other problems.
        metrics::gauge!(gauge, "queue" => name.as_str()).set(u32::try_from(value).unwrap_or(u32::MAX));
    }
    let age = depth.oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
    metrics::gauge!("keyturn_queue_oldest_message_age_seconds", "queue" => name.as_str())
        .set(age.as_secs_f64());
    if name == QueueName::Alarms {
        let undelivered = depth.total.saturating_add(depth.dead);
        metrics::gauge!("keyturn_alarms_undelivered").set(u32::try_from(undelivered).unwrap_or(u32::MAX));
    }
}
