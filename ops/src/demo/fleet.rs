//! The simulated fleet.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use keyturn_agent::Outcome;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::directory::DirectoryAdmin;
use keyturn_service::host::Host;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::device::{Device, Registered, register};
use super::plant::Plant;
use super::watch::Stages;
use crate::operator;
use crate::output::say;

/// Agents at work at once.
const AT_ONCE: usize = 64;
/// The device that the directory has disabled.
const REFUSED: usize = 1;
/// The device whose directory record is damaged.
const DAMAGED: usize = 2;

/// The simulated fleet.
pub(super) struct Fleet {
    devices: Vec<Arc<Device>>,
    progress: ProgressBar,
}

/// How one device came out of a round.
pub(super) struct Settled {
    pub(super) device: Arc<Device>,
    pub(super) outcome: Result<Outcome, String>,
    pub(super) stages: Arc<Stages>,
}

impl Fleet {
    /// Makes a fleet, and registers it in the directory: one device disabled, one with a damaged record.
    pub(super) async fn make(count: u16, home: &Path, server: SocketAddr, host: &Host) -> Result<Self> {
        let registered = register_all(count, host).await?;
        let install = |(at, registered): (usize, &Registered)| {
            Ok(Arc::new(Device::install(at + 1, registered, home, server, host)?))
        };
        let devices = registered.iter().enumerate().map(install).collect::<Result<Vec<_>>>()?;
        let fleet = Self { devices, progress: ProgressBar::hidden() };
        let admin = admin(host)?;
        admin.put(fleet.devices.iter().map(|device| device.record.clone()).collect()).await?;
        admin.enable(fleet.refused().id, false).await?;
        damage(host, fleet.damaged())?;
        Ok(fleet)
    }

    /// How many devices there are.
    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    /// A device that nothing is wrong with.
    pub(super) fn first(&self) -> &Device {
        self.nth(0)
    }

    /// The device that the directory has disabled.
    pub(super) fn refused(&self) -> &Device {
        self.nth(REFUSED)
    }

    /// The device whose directory record is damaged.
    pub(super) fn damaged(&self) -> &Device {
        self.nth(DAMAGED)
    }

    #[expect(clippy::indexing_slicing, reason = "the command line takes no fewer than four devices")]
    fn nth(&self, at: usize) -> &Device {
        &self.devices[at]
    }

    /// Tells something between the lines of the progress display.
    pub(super) fn note(&self, text: &str) {
        self.progress.suspend(|| say!("  · {text}"));
    }

    /// Runs every agent once and waits for all of them.
    pub(super) async fn round(&self) -> Result<Vec<Settled>> {
        let bar = ProgressBar::new(self.devices.len() as u64);
        bar.set_style(ProgressStyle::with_template("  {bar:30} {pos}/{len} devices settled, {elapsed}")?);
        bar.enable_steady_tick(Duration::from_millis(100));
        let (places, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for (at, device) in self.devices.iter().enumerate() {
            let (device, places) = (Arc::clone(device), Arc::clone(&places));
            running.spawn(async move {
                let place = places.acquire_owned().await;
                let settled = settle(device).await;
                drop(place);
                (at, settled)
            });
        }
        let mut settled = Vec::with_capacity(self.devices.len());
        while let Some(one) = running.join_next().await {
            settled.push(one?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        settled.sort_by_key(|(at, _)| *at);
        Ok(settled.into_iter().map(|(_, settled)| settled).collect())
    }

    /// Asks every device to rotate.
    pub(super) async fn force(&self, plant: &Plant) -> Result<()> {
        let engines = &plant.host.engines;
        for device in &self.devices {
            let at = engines.clock().now();
            let row = NewRow {
                at,
                actor: operator::name(),
                action: Action::RotationForced,
                device: Some(device.id),
                reason: "second round (demo)".to_owned(),
                detail: String::new(),
            };
            engines.audit().append(row).await?;
            engines.ledger_operator().force(device.id, at).await?;
        }
        Ok(())
    }

    /// Mends the damaged directory record.
    pub(super) async fn mend(&self, plant: &Plant) -> Result<()> {
        Ok(admin(&plant.host)?.put(vec![self.damaged().record.clone()]).await?)
    }

    /// Lets every agent check in again and again until `stop`.
    pub(super) async fn live(&self, stop: Arc<CancellationToken>) -> Result<()> {
        let mut running = JoinSet::new();
        for device in &self.devices {
            let (agent, stop) = (device.agent(Arc::new(()))?, Arc::clone(&stop));
            running.spawn(async move { agent.run(stop.cancelled()).await });
        }
        while let Some(ended) = running.join_next().await {
            ended?.context("an agent ended")?;
        }
        Ok(())
    }
}

async fn settle(device: Arc<Device>) -> Settled {
    let stages = Arc::new(Stages::start());
    let outcome = match device.agent(Arc::clone(&stages) as _) {
        Ok(agent) => agent.once().await.map_err(|error| error.chain()),
        Err(error) => Err(error.to_string()),
    };
    Settled { device, outcome, stages }
}

/// The demo's own directory.
fn admin(host: &Host) -> Result<Arc<dyn DirectoryAdmin>> {
    host.engines.directory_admin().context("the demo needs the embedded directory")
}

/// Makes keys on as many threads as there are cores: an RSA key takes a tenth of a second.
async fn register_all(count: u16, host: &Host) -> Result<Vec<Registered>> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (places, mut making) = (Arc::new(Semaphore::new(threads)), JoinSet::new());
    for _ in 0..count {
        let (entropy, places) = (host.engines.entropy(), Arc::clone(&places));
        making.spawn(async move {
            let place = places.acquire_owned().await;
            let made = tokio::task::spawn_blocking(move || register(&*entropy)).await;
            drop(place);
            made?
        });
    }
    let mut registered = Vec::with_capacity(count.into());
    while let Some(one) = making.join_next().await {
        registered.push(one??);
    }
    Ok(registered)
}

/// Cuts a device's directory record short, as a half-finished import by some other tool would.
fn damage(host: &Host, device: &Device) -> Result<()> {
    let database = rusqlite::Connection::open(&host.config.sections.data.file)?;
    let cut = "UPDATE directory SET record = substr(record, 1, 40) WHERE device = ?1";
    let changed = database.execute(cut, [device.id.as_bytes().as_slice()])?;
    ensure!(changed == 1, "the record could not be damaged");
    Ok(())
}
