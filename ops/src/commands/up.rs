//! `keyturn up`: all roles in one process.

use std::io::ErrorKind;

use keyturn_service::config::Config;
use keyturn_service::shell::StartError;
use keyturn_service::standing::Part;
use keyturn_service::{levels, shell, spans, telemetry};
use tracing::info;

use crate::cli::{Arguments, Up};
use crate::demo;
use crate::failure::{Code, Failure, OrFail as _, Result, usage};
use crate::roles::Roles;

pub(super) async fn run(arguments: &Arguments, up: &Up) -> Result<()> {
    if let Some(level) = &up.log_level {
        levels::check(level).map_err(|error| usage("--log-level", error))?;
    }
    if let Some(devices) = up.demo {
        return demo::run(devices, up).await;
    }
    let mut config = Config::load(&arguments.config)?;
    if let Some(listen) = up.listen {
        config.sections.ingress.listen = listen;
    }
    if let Some(level) = &up.log_level {
        config.sections.logs.level.clone_from(level);
    }
    // What was said on the command line goes by the same rules as what stands in the file.
    let checked = config.sections.check();
    let config = checked.map_err(|problems| Failure::new(Code::ConfigInvalid, problems.join("; ")))?;
    // A level of the command line is not taken back by a file.
    let config = Config { file: up.log_level.is_none().then(|| arguments.config.clone()), ..config };
    let listen = config.sections.ingress.listen;
    if !listen.ip().is_loopback() && !up.danger_serve_beyond_loopback {
        let problem = format!(
            "{listen}: all roles in one process serve loopback only, because every key is in it; run the roles as \
             separate users, or add --danger-serve-beyond-loopback"
        );
        return Err(Failure::new(Code::ConfigInvalid, problem));
    }
    telemetry::start_logs(&config.sections.logs)?;
    let metrics = telemetry::start_metrics();
    let host = shell::host(config)?;
    let exporting = spans::start(&host.config, "keyturn")?;
    shell::obey_signals(&host).or_fail(Code::System, "signals cannot be listened to")?;
    let health = host.config.sections.health.all.clone();
    let answering = shell::answer(&host, Part::All, &health, metrics)
        .await
        .map_err(|error| taken(error, "health.all"))?;
    // The device API and the workers of four queues.
    host.supervisor.await_parts(5);
    if !host.unlock().await? {
        return Ok(());
    }
    let roles = Roles::new(host.clone());
    let workers = roles.work()?;
    let (address, serving) =
        roles.serve().await.map_err(|error| taken(error, "ingress.listen, or --listen,"))?;
    info!(address = %address, health, "all roles are up");
    serving.await.or_fail(Code::Defect, "the server panicked")??;
    host.stop.cancel();
    for worker in workers {
        worker.await.or_fail(Code::Defect, "a worker panicked")?;
    }
    answering.await.or_fail(Code::Defect, "the health endpoint panicked")?;
    exporting.finish().await;
    Ok(())
}

/// Says which setting names an address that somebody has already: most often this command, run twice.
fn taken(error: StartError, setting: &str) -> Failure {
    let in_use = matches!(&error, StartError::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse);
    let error = Failure::from(error);
    if !in_use {
        return error;
    }
    error.within(format!(
        "another process listens where {setting} says: one `keyturn up` is enough; a second one with the same data does no \
         harm, and needs another ingress.listen and health.all"
    ))
}
