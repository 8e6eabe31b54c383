//! Logs on stderr and metrics for /metrics.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use keyturn_ports::queue::{DeadReason, QueueName};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Logs;
use crate::shell::StartError;

/// Starts logging on stderr. A filter that cannot be read is an error; a second start in one process is ignored.
pub fn start_logs(logs: &Logs) -> Result<(), StartError> {
    Ok(start(logs, std::io::stderr)?)
}

/// Starts logging to a file, for commands that talk to a person on the terminal.
pub fn start_logs_to_file(logs: &Logs, path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::LogFile { path: path.to_owned(), source };
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed)?;
    Ok(start(logs, Arc::new(file))?)
}

fn start<W>(logs: &Logs, writer: W) -> Result<(), ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&logs.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
    // A line that cannot be written, as on a full disk, is lost. It would be told of on stderr, which is likely where it
    // could not be written: that ends the process.
    let builder = builder.log_internal_errors(false);
    let (started, changing) = if logs.format == "text" {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        (builder.try_init(), changer(move |filter| handle.reload(filter).is_ok()))
    } else {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        (builder.try_init(), changer(move |filter| handle.reload(filter).is_ok()))
    };
    // Somebody else's subscriber, in a test, is as good.
    if started.is_ok() {
        drop(CHANGE.set(changing));
    }
    Ok(())
}

type Change = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// Puts another filter in place of the one in use.
static CHANGE: OnceLock<Change> = OnceLock::new();

fn changer(change: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) -> Change {
    Box::new(change)
}

/// Logs everything of Keyturn's own from `debug` up, or, if `more` is not set, what the configuration says. Returns
/// whether that could be done.
pub fn log_more(logs: &Logs, more: bool) -> bool {
    let level = if more { format!("{},keyturn=debug", logs.level) } else { logs.level.clone() };
    let filter = EnvFilter::try_new(level).ok();
    CHANGE.get().zip(filter).is_some_and(|(change, filter)| change(filter))
}

/// Starts counting. None if this process counts already. Call it before engines are opened: what they find then is
/// counted, too.
pub fn start_metrics() -> Option<PrometheusHandle> {
    let ours = Matcher::Prefix("keyturn_".to_owned());
    let builder = PrometheusBuilder::new().set_buckets(&DURATIONS).ok()?;
    let builder = builder.set_buckets_for_metric(ours, &WAITS).ok()?;
    let handle = builder.install_recorder().ok()?;
    announce();
    Some(handle)
}

/// Bounds of the buckets of durations in seconds, as OpenTelemetry's conventions for messaging recommend them
/// (`messaging.process.duration`, `messaging.client.operation.duration`).
const DURATIONS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Those of our own measurements: the same, and some below and above. A message on a queue in a file waits for less than a
/// millisecond, and one whose engine is away for as long as that is.
const WAITS: [f64; 20] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    60.0, 300.0, 900.0,
];

/// Counters that alerts look for the first increase of start at zero: to Prometheus, a counter that appears with a one
/// has not grown.
fn announce() {
    let version = env!("CARGO_PKG_VERSION");
    metrics::gauge!("keyturn_build_info", "version" => version).set(1.0);
    for queue in QueueName::ALL.map(QueueName::as_str) {
        metrics::counter!("keyturn_engine_errors_total", "queue" => queue).increment(0);
        metrics::counter!("keyturn_handler_panics_total", "queue" => queue).increment(0);
        metrics::counter!("keyturn_leases_lost_total", "queue" => queue).increment(0);
        for outcome in OUTCOMES {
            metrics::counter!("keyturn_messages_settled_total", "queue" => queue, "outcome" => outcome)
                .increment(0);
        }
        for reason in DeadReason::ALL.map(DeadReason::as_str) {
            metrics::counter!("keyturn_dead_letters_total", "queue" => queue, "reason" => reason)
                .increment(0);
        }
    }
    for operation in ["append", "probe", "read"] {
        metrics::counter!("keyturn_audit_failures_total", "operation" => operation).increment(0);
    }
    for outcome in ["stored", "failed"] {
        metrics::counter!("keyturn_vault_writes_total", "outcome" => outcome).increment(0);
    }
    for service in ["graph", "key_vault", "storage_queue"] {
        metrics::counter!("keyturn_azure_throttled_total", "service" => service).increment(0);
    }
    metrics::counter!("keyturn_recovery_log_failures_total").increment(0);
    metrics::counter!("keyturn_log_rows_lost_total").increment(0);
    metrics::counter!("keyturn_store_restored_total").increment(0);
}

/// How a delivery may end.
const OUTCOMES: [&str; 4] = ["done", "released", "retried", "dead_lettered"];
