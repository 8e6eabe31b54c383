//! A process from start to end: arguments, configuration, logs, engines, health, signals, drain.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Config, ConfigError};
use crate::engines::{Engines, OpenError};
use crate::health::Waits;
use crate::host::Host;
use crate::http::{self, Bounds, TlsError};
use crate::keys::{KeyError, KeyStore};
use crate::{health, telemetry};

/// The arguments of every role.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// The configuration file.
    #[arg(long, env = "KEYTURN_CONFIG", default_value = "/etc/keyturn/keyturn.toml")]
    config: PathBuf,
    /// Where to answer /healthz, /readyz and /metrics, or "off". The configuration's choice if not given.
    #[arg(long)]
    health: Option<String>,
}

/// Why a process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An engine.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The server certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The log filter.
    #[error("logs.level: {0}")]
    Logs(#[from] tracing_subscriber::filter::ParseError),
    /// An address.
    #[error("{address}: cannot listen there: {source}; choose another address, or stop what uses it")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something of the role's own.
    #[error("{0}")]
    Role(Box<dyn std::error::Error + Send + Sync>),
    /// The system.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

impl StartError {
    /// Something of the role's own.
    pub fn role(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Role(Box::new(error))
    }
}

/// Runs the role `name` until SIGTERM or SIGINT: the body of a role's `main`.
pub fn run<F>(name: &'static str, role: impl FnOnce(Host) -> F) -> ExitCode
where
    F: Future<Output = Result<(), StartError>>,
{
    let arguments = Arguments::parse();
    let started = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::from);
    match started.and_then(|runtime| runtime.block_on(live(name, arguments, role))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyturn-{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn live<F>(
    name: &'static str,
    arguments: Arguments,
    role: impl FnOnce(Host) -> F,
) -> Result<(), StartError>
where
    F: Future<Output = Result<(), StartError>>,
{
    let config = Config::load(&arguments.config)?;
    telemetry::start_logs(&config.sections.logs)?;
    let host = host_as(config, &format!("keyturn-{name}"))?;
    obey_signals(&host)?;
    let health = &host.config.sections.health;
    let configured = match name {
        "ingress" => &health.ingress,
        "validator" => &health.validator,
        "rotator" => &health.rotator,
        _ => &health.notifier,
    };
    let address = arguments.health.unwrap_or_else(|| configured.clone());
    let answering = answer(&host, &address, telemetry::start_metrics()).await?;
    info!(role = name, version = env!("CARGO_PKG_VERSION"), "started");
    let stop = host.stop.clone();
    let ended = role(host).await;
    stop.cancel();
    answering.await.unwrap_or_else(|panic| error!(error = %panic, "the health endpoint failed"));
    info!(role = name, "ended");
    ended
}

/// Opens what a process needs before it can host anything.
pub fn host(config: Config) -> Result<Host, StartError> {
    host_as(config, "keyturn")
}

fn host_as(config: Config, name: &str) -> Result<Host, StartError> {
    let engines = Engines::open_as(&config, name)?;
    let secrets = config.sections.alarms.webhook.iter().map(|webhook| webhook.secret_file.clone());
    let keys = KeyStore::of(&config).map_err(OpenError::from)?.watching(secrets);
    let (stop, waits_for) = (CancellationToken::new(), Waits::default());
    Ok(Host { config: Arc::new(config), keys, engines, stop, waits_for })
}

/// Answers health questions at `address`, unless it is "off".
pub async fn answer(
    host: &Host,
    address: &str,
    metrics: Option<PrometheusHandle>,
) -> Result<tokio::task::JoinHandle<()>, StartError> {
    if address == "off" {
        return Ok(tokio::spawn(async {}));
    }
    let failed = |source| StartError::Bind { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let router = health::router(host.engines.queue(), host.engines.clock(), host.waits_for.clone(), metrics);
    Ok(tokio::spawn(http::serve(listener, None, router, Bounds::default(), host.stop.clone())))
}

/// Tells the host to stop at the first SIGTERM or SIGINT; a second one ends the process at once. At SIGHUP, and
/// from time to time, key files are looked at again. At SIGUSR1, logs go down to `debug`, and at the next one back.
pub fn obey_signals(host: &Host) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut hangup, keys, stop) = (signal(SignalKind::hangup())?, host.keys.clone(), host.stop.clone());
    tokio::spawn(host.keys.clone().watch(host.stop.clone()));
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            keys.hang_up();
        }
    });
    let (mut more, config) = (signal(SignalKind::user_defined1())?, Arc::clone(&host.config));
    tokio::spawn(async move {
        let mut more_logged = false;
        while more.recv().await.is_some() {
            more_logged = !more_logged;
            if telemetry::log_more(&config.sections.logs, more_logged) {
                info!(debug = more_logged, "told to log more, or as configured");
            }
        }
    });
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("told to stop, finishing what is in hand");
        stop.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        std::process::exit(130);
    });
    Ok(())
}
