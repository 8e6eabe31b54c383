//! A throw-away deployment with a simulated fleet: real keys, real agents, the real API, and everything that can
//! be expected to go wrong in a day, in half a minute.
//!
//! One device is disabled in the directory and must be refused. One has a damaged directory record: its message
//! is dead-lettered, the record is mended, the message replayed. One rotator is stopped hard between the vault
//! and the ledger and started again. Then every device rotates a second time. At the end each account must accept
//! the very password that a reveal shows as confirmed.

mod device;
mod fleet;
mod plant;
mod proof;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyturn_domain::span::Span;
use keyturn_ports::audit::Verified;
use keyturn_service::config::{Config, Logs};
use keyturn_service::shell::{self, StartError};
use keyturn_service::telemetry;
use tempfile::TempDir;

use self::fleet::{Fleet, Settled};
use self::plant::Plant;
use crate::cli::Up;
use crate::commands::{dead_letters, init};
use crate::failure::{Code, Failure};
use crate::operator;
use crate::output::say;

/// The deployment's name.
const NAME: &str = "demo";
/// A demo that takes longer than this is stuck.
const STUCK: Duration = Duration::from_mins(5);

/// The folder of a demo; a temporary one goes with it.
enum Home {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Home {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Runs the demo.
pub(crate) async fn run(devices: u16, up: &Up) -> std::result::Result<(), Failure> {
    play(devices, up).await.map_err(failed)
}

/// What has a code keeps it. Everything else is a demo that did not come to its end.
fn failed(error: anyhow::Error) -> Failure {
    let error = match error.downcast::<Failure>() {
        Ok(failure) => return failure,
        Err(error) => error,
    };
    match error.downcast::<StartError>() {
        Ok(start) => start.into(),
        Err(error) => Failure::of(Code::DemoFailed, error.as_ref()),
    }
}

async fn play(devices: u16, up: &Up) -> Result<()> {
    let home = match &up.folder {
        Some(folder) => Home::Kept(folder.clone()),
        None => Home::Temporary(TempDir::with_prefix("keyturn-demo-")?),
    };
    let folder = home.path();
    init::create(folder, NAME)?;
    let config = config(folder, up)?;
    telemetry::start_logs_to_file(&config.sections.logs, &folder.join("demo.log"))?;
    say!("A throw-away deployment in {}; its log is demo.log.", folder.display());
    let host = shell::host(config)?;
    shell::obey_signals(&host)?;
    let plant = Plant::start(host.clone()).await?;
    say!(
        "The device API is at http://{}. Making {devices} devices with RSA keys of their own …",
        plant.address
    );
    let fleet = Fleet::make(devices, folder, plant.address, &host).await?;
    let play = async {
        let story = tokio::time::timeout(STUCK, story(&plant, &fleet)).await;
        story.context("the demo did not settle in time")?
    };
    let told = tokio::select! {
        told = play => told,
        () = host.stop.cancelled() => Err(anyhow::anyhow!("stopped before the fleet had settled")),
    };
    if told.is_ok() && !up.until_settled {
        stay(folder, &fleet, &host.stop).await?;
    }
    host.stop.cancel();
    plant.end().await?;
    told
}

/// As good as no limit for one machine.
const FLEET_RATE: u32 = 1_000_000;

/// The demo's configuration: the defaults, with shorter leases and delays so that recovery can be watched.
fn config(folder: &Path, up: &Up) -> Result<Config> {
    let mut sections = Config::load(&folder.join("keyturn.toml"))?.sections;
    sections.ingress.listen = up.listen.unwrap_or(([127, 0, 0, 1], 0).into());
    // The whole fleet is strangers at first, and all of it behind one address.
    sections.ingress.admission.unknown_rate = FLEET_RATE;
    sections.ingress.admission.unknown_address_rate = FLEET_RATE;
    sections.ingress.admission.address_rate = FLEET_RATE;
    sections.ingress.admission.poll_rate = FLEET_RATE;
    sections.workers.lease = Span(Duration::from_secs(3));
    sections.workers.first_delay = Span(Duration::from_millis(200));
    sections.workers.max_deliveries = 3;
    sections.logs = Logs {
        level: up.log_level.clone().unwrap_or_else(|| "info".to_owned()),
        format: "json".to_owned(),
        ..sections.logs
    };
    sections.check().map_err(|problems| anyhow::anyhow!("the demo's configuration: {}", problems.join("; ")))
}

async fn story(plant: &Plant, fleet: &Fleet) -> Result<()> {
    say!("\nFirst round: every device gets its first password.");
    let accident = async {
        plant.wait_for_accident().await;
        plant.restart_rotator().await
    };
    let mend = mend(plant, fleet);
    let (settled, accident, mended) = tokio::join!(fleet.round(), accident, mend);
    accident?;
    mended?;
    judge(plant, fleet, &settled?, 1).await?;
    say!("\nSecond round: an operator asks every device to rotate.");
    fleet.force(plant).await?;
    let settled = fleet.round().await?;
    judge(plant, fleet, &settled, 2).await?;
    summary(plant, fleet).await
}

/// Waits for the dead letter of the device with the damaged record, mends the record and replays the letter.
async fn mend(plant: &Plant, fleet: &Fleet) -> Result<()> {
    let letters = plant.host.engines.dead_letters();
    let letter = loop {
        if let Some(letter) = letters.list(None, 1).await?.into_iter().next() {
            break letter;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let error = letter.attempts.last().map(|attempt| attempt.error.clone()).unwrap_or_default();
    fleet.note(&format!(
        "a message of {} is dead-lettered on «{}» after {} deliveries: {error}",
        fleet.damaged().name,
        letter.queue,
        letter.deliveries
    ));
    fleet.mend(plant).await?;
    let actor = operator::name();
    let moved =
        dead_letters::replay(&plant.host.engines, &[letter.id], &actor, "record mended (demo)").await?;
    ensure!(moved == [letter.id], "the dead letter was not replayed");
    fleet.note("its directory record is mended and the dead letter replayed");
    Ok(())
}

/// Prints the round and checks that every device is as it should be.
async fn judge(plant: &Plant, fleet: &Fleet, settled: &[Settled], round: usize) -> Result<()> {
    watch::table(settled);
    let proved = proof::check(plant, fleet, settled, round).await?;
    say!("{proved} accounts accept exactly the password that a reveal shows as confirmed.");
    Ok(())
}

async fn summary(plant: &Plant, fleet: &Fleet) -> Result<()> {
    let Verified::Intact { rows } = plant.host.engines.audit().verify().await? else {
        anyhow::bail!("the audit chain is broken");
    };
    say!(
        "\nSettled: {} devices rotated twice, 1 refused as it should be, 1 dead letter replayed, 1 rotator lost in \
         mid-work without a trace; {rows} audit rows, the chain is whole.",
        fleet.len() - 1
    );
    Ok(())
}

/// Keeps the fleet going until told to stop.
async fn stay(folder: &Path, fleet: &Fleet, stop: &tokio_util::sync::CancellationToken) -> Result<()> {
    let config = folder.join("keyturn.toml");
    let keyturn = format!("keyturn --config {}", config.display());
    say!("\nThe fleet goes on checking in every few seconds. Try, in another terminal:");
    for line in [
        "device list".to_owned(),
        format!("reveal {} --reason \"printer driver\"", fleet.first().name),
        format!("device rotate-now {} --reason \"just to see\"", fleet.first().name),
        format!("device show {}", fleet.refused().name),
        "queues".to_owned(),
        "audit list".to_owned(),
    ] {
        say!("  {keyturn} {line}");
    }
    say!("Ctrl-C ends it.");
    fleet.live(Arc::new(stop.clone())).await
}
