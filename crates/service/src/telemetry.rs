//! Logs on stderr and metrics for /metrics.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Logs;
use crate::shell::StartError;

/// Starts logging on stderr. A filter that cannot be read is an error; a second start in one process is ignored.
pub fn start_logs(logs: &Logs) -> Result<(), ParseError> {
    start(logs, std::io::stderr)
}

/// Starts logging to a file, for commands that talk to a person on the terminal.
pub fn start_logs_to_file(logs: &Logs, path: &Path) -> Result<(), StartError> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(start(logs, Arc::new(file))?)
}

fn start<W>(logs: &Logs, writer: W) -> Result<(), ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&logs.level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
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

/// Starts counting. None if this process counts already.
pub fn start_metrics() -> Option<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().ok()
}
