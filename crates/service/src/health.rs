//! `/healthz`, `/readyz` and `/metrics` of a process.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use keyturn_domain::clock::Clock;
use keyturn_ports::queue::{Queue, QueueName};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::expiry;
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
/// `/healthz` answers as long as the process runs; `/readyz` answers 200 only while its engines answer, and says
/// which does not, or what the process waits for; `/metrics` is in Prometheus's text format.
pub fn router(
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    waits: Waits,
    metrics: Option<PrometheusHandle>,
) -> Router {
    let scraped = Arc::clone(&queue);
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready(&*queue, &waits).await))
        .route("/metrics", get(async move || scrape(&*scraped, &*clock, metrics.as_ref()).await))
}

async fn ready(queue: &dyn Queue, waits: &Waits) -> (StatusCode, String) {
    if let Some(what) = waits.now() {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("waiting: {what}\n"));
    }
    for name in QueueName::ALL {
        if let Err(error) = queue.depth(name).await {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("queue {name}: {error}\n"));
        }
    }
    (StatusCode::OK, "ready\n".to_owned())
}

async fn scrape(queue: &dyn Queue, clock: &dyn Clock, metrics: Option<&PrometheusHandle>) -> String {
    for name in QueueName::ALL {
        if let Ok(depth) = queue.depth(name).await {
            let gauges = [
                ("keyturn_queue_messages", depth.total),
                ("keyturn_queue_leased", depth.leased),
                ("keyturn_queue_dead_letters", depth.dead),
            ];
            for (gauge, value) in gauges {
                // Gauges are floating point; a queue of 2^53 messages has other problems.
                metrics::gauge!(gauge, "queue" => name.as_str())
                    .set(u32::try_from(value).unwrap_or(u32::MAX));
            }
            let age = depth.oldest.map(|oldest| clock.now().since(oldest)).unwrap_or_default();
            metrics::gauge!("keyturn_queue_oldest_message_age_seconds", "queue" => name.as_str())
                .set(age.as_secs_f64());
            if name == QueueName::Alarms {
                let undelivered = depth.total.saturating_add(depth.dead);
                metrics::gauge!("keyturn_alarms_undelivered")
                    .set(u32::try_from(undelivered).unwrap_or(u32::MAX));
            }
        }
    }
    expiry::tell(clock.now());
    metrics.map(PrometheusHandle::render).unwrap_or_default()
}
