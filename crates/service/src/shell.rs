//! A process from start to end: arguments, configuration, logs, engines, health, signals, drain.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError};
use crate::engines::{Engines, OpenError};
use crate::failure::{Code, Failure};
use crate::health::Waits;
use crate::host::Host;
use crate::http::{self, Bounds, TlsError};
use crate::keys::{KeyError, KeyStore};
use crate::levels::Levels;
use crate::standing::{self, Part, Rhythm, Standings};
use crate::supervise::Supervisor;
use crate::{health, spans, telemetry};

#[derive(Debug, Parser)]
#[command(version)]
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
    /// A service that the role talks to and whose client cannot be made.
    #[error("{0}")]
    Service(Box<dyn std::error::Error + Send + Sync>),
    /// The log file of a command that talks to a person.
    #[error("{}: the log cannot be written: {source}", path.display())]
    LogFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system.
    #[error("the system does not give what the process needs (threads, signals): {0}")]
    System(#[from] std::io::Error),
}

impl StartError {
    /// A service that the role talks to and whose client cannot be made.
    pub fn service(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Service(Box::new(error))
    }
}

/// Runs the role `name` until SIGTERM or SIGINT: the body of a role's `main`.
pub fn run<F>(name: &'static str, role: impl FnOnce(Host) -> F) -> ExitCode
where
    F: Future<Output = Result<(), StartError>>,
{
    let arguments = match arguments(name) {
        Ok(arguments) => arguments,
        Err(ended) => return ended,
    };
    let started = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::from);
    match started.and_then(|runtime| runtime.block_on(live(name, arguments, role))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::from(error).report(&format!("keyturn-{name}")),
    }
}

/// What was said to the role `name`, or what it ends with: help was asked for, or it was said wrongly.
fn arguments(name: &'static str) -> Result<Arguments, ExitCode> {
    let said = command(name).try_get_matches().and_then(|said| Arguments::from_arg_matches(&said));
    said.map_err(|error| {
        // A reader that has gone away is nothing to tell of.
        drop(error.print());
        if !error.use_stderr() {
            return ExitCode::SUCCESS;
        }
        let code = Code::Usage;
        eprintln!("{0}: `keyturn explain {0}`", code.code());
        ExitCode::from(code.exit())
    })
}

/// The command line of the role `name`, whose `--help` begins with what the role does.
fn command(name: &'static str) -> clap::Command {
    let (program, does) = match name {
        "ingress" => (
            "keyturn-ingress",
            "Keyturn's ingress: takes messages of devices over HTTP, and hands out answers.",
        ),
        "validator" => (
            "keyturn-validator",
            "Keyturn's validator: checks the messages of devices against the directory.",
        ),
        "rotator" => (
            "keyturn-rotator",
            "Keyturn's rotator: decides, makes passwords, keeps them in the vault, and signs every answer.",
        ),
        _ => ("keyturn-notifier", "Keyturn's notifier: has answers ready for devices, and delivers alarms."),
    };
    Arguments::command().name(program).about(does)
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
    let metrics = telemetry::start_metrics();
    let host = host_as(config, &format!("keyturn-{name}"))?;
    let exporting = spans::start(&host.config, &format!("keyturn-{name}"))?;
    obey_signals(&host)?;
    let health = &host.config.sections.health;
    let configured = match name {
        "ingress" => &health.ingress,
        "validator" => &health.validator,
        "rotator" => &health.rotator,
        _ => &health.notifier,
    };
    let address = arguments.health.unwrap_or_else(|| configured.clone());
    let answering = answer(&host, Part::of(name), &address, metrics).await?;
    info!(role = name, version = env!("CARGO_PKG_VERSION"), "started");
    let stop = host.stop.clone();
    let ended = role(host).await;
    stop.cancel();
    answering.await.unwrap_or_else(|panic| error!(error = %panic, "the health endpoint failed"));
    exporting.finish().await;
    info!(role = name, "ended");
    ended
}

/// Opens what a process needs before it can host anything.
pub fn host(config: Config) -> Result<Host, StartError> {
    host_as(config, "keyturn")
}

fn host_as(config: Config, name: &str) -> Result<Host, StartError> {
    let secrets = config.sections.alarms.webhook.iter().map(|webhook| webhook.secret_file.clone());
    let keys = KeyStore::of(&config).map_err(OpenError::from)?.watching(secrets);
    // No agent would take an answer: better not to begin.
    keys.not_of_another_deployment()?;
    let engines = Engines::open_as(&config, name)?;
    let schema = engines.schema();
    if schema.is_ahead() {
        warn!(
            found = schema.found,
            known = schema.known,
            "a later release brought the database forward; this one goes on with it and leaves what it does not know alone"
        );
    }
    let supervisor = Supervisor::of_environment(engines.clock());
    let (stop, waits_for) = (CancellationToken::new(), Waits::default());
    Ok(Host { config: Arc::new(config), keys, engines, stop, supervisor, waits_for })
}

/// Looks from now on whether the engines that this part of the deployment uses answer, and answers health questions at
/// `address`, unless it is "off".
pub async fn answer(
    host: &Host,
    part: Part,
    address: &str,
    metrics: Option<PrometheusHandle>,
) -> Result<tokio::task::JoinHandle<()>, StartError> {
    if let Some(metrics) = metrics.clone() {
        tokio::spawn(keep_small(metrics, host.stop.clone()));
    }
    let (health, clock) = (&host.config.sections.health, host.engines.clock());
    let (every, timeout) = (health.probe_every.0, health.probe_timeout.0);
    let rhythm = Rhythm { every, timeout, away_after: health.away_after };
    let standings = Standings::default();
    standings.watch(
        standing::asked(part, &host.engines, &host.keys, &host.config)?,
        rhythm,
        &clock,
        &host.stop,
    );
    if address == "off" {
        return Ok(tokio::spawn(async {}));
    }
    let failed = |source| StartError::Bind { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let router =
        health::router(host.engines.queue(), clock, host.waits_for.clone(), standings, timeout, metrics);
    Ok(tokio::spawn(http::serve(listener, None, router, Bounds::default(), host.stop.clone())))
}

/// How often measurements are put together.
const PUT_TOGETHER: Duration = Duration::from_secs(5);

/// Puts measurements together from time to time. Otherwise each one is kept until somebody asks for `/metrics`, which
/// nobody may ever do.
async fn keep_small(metrics: PrometheusHandle, stop: CancellationToken) {
    while tokio::time::timeout(PUT_TOGETHER, stop.cancelled()).await.is_err() {
        metrics.run_upkeep();
    }
}

/// Tells the host to stop at the first SIGTERM or SIGINT; a second one ends the process at once. At SIGHUP, and
/// from time to time, key files are looked at again; at SIGHUP the log level of the configuration file, too; what an operator
/// says of it (`keyturn log-level`) is looked at every `logs.look_every`. At SIGUSR1,
/// logs go down to `debug`, and at the next one back. From now on the service manager is told how the process is.
pub fn obey_signals(host: &Host) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut hangup, keys, stop) = (signal(SignalKind::hangup())?, host.keys.clone(), host.stop.clone());
    let levels = Arc::new(Levels::of(&host.config));
    levels.look();
    let (rereading, looking) = (Arc::clone(&levels), Arc::clone(&levels));
    let (every, ended) = (host.config.sections.logs.look_every.0, host.stop.clone());
    tokio::spawn(async move {
        while tokio::time::timeout(every, ended.cancelled()).await.is_err() {
            let looking = Arc::clone(&looking);
            // Whatever the disk does, nobody else waits for it.
            let _looked = tokio::task::spawn_blocking(move || looking.look()).await;
        }
    });
    tokio::spawn(host.keys.clone().watch(host.stop.clone()));
    let patience = host.config.sections.workers.stuck_after.0;
    tokio::spawn(host.supervisor.clone().ping(patience, host.stop.clone()));
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            keys.hang_up();
            rereading.reread();
        }
    });
    let mut more = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while more.recv().await.is_some() {
            levels.toggle();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_a_role_begins_with_what_it_does() {
        for role in ["ingress", "validator", "rotator", "notifier"] {
            let help = command(role).render_help().to_string();
            assert!(help.starts_with(&format!("Keyturn's {role}: ")), "{help}");
            assert!(help.contains(&format!("keyturn-{role} [OPTIONS]")), "{help}");
            assert_eq!(
                command(role).render_version(),
                format!("keyturn-{role} {}\n", env!("CARGO_PKG_VERSION"))
            );
        }
    }
}
