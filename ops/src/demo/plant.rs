//! The demo's server: all roles in this process, and a vault that is cut off once, at the worst moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, LaneId, VersionId};
use keyturn_domain::password::Password;
use keyturn_ports::Error;
use keyturn_ports::queue::QueueName;
use keyturn_ports::vault::{Entry, NewVersion, Sought, Vault, VaultReader};
use keyturn_service::host::Host;
use keyturn_service::shell::StartError;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

use crate::output::{self, say};
use crate::roles::Roles;

/// The demo's server.
pub(super) struct Plant {
    pub(super) host: Host,
    pub(super) address: SocketAddr,
    pub(super) vault: Arc<dyn Vault>,
    roles: Roles,
    cut: Arc<CutOff>,
    serving: JoinHandle<Result<(), StartError>>,
    workers: Vec<JoinHandle<()>>,
    rotator: Mutex<JoinHandle<()>>,
}

impl Plant {
    /// Starts all roles.
    pub(super) async fn start(host: Host) -> Result<Self> {
        let roles = Roles::new(host.clone());
        let vault = host.engines.vault(|| host.keys.vault())?;
        let cut = Arc::new(CutOff::new(Arc::clone(&vault)));
        let rotator = work(&host, QueueName::Findings, roles.rotator_on(Arc::clone(&cut) as Arc<dyn Vault>)?);
        let workers = vec![
            work(&host, QueueName::Requests, roles.validator()?),
            work(&host, QueueName::Outcomes, roles.notifier()),
            work(&host, QueueName::Alarms, roles.webhooks()?),
        ];
        let (address, serving) = roles.serve().await?;
        Ok(Self { host, address, vault, roles, cut, serving, workers, rotator: Mutex::new(rotator) })
    }

    /// Resolves when the rotator has stored versions in the vault and not yet told the ledger.
    pub(super) async fn wait_for_accident(&self) {
        self.cut.happened.notified().await;
    }

    /// Stops the rotator where it stands, without a chance to clean up, and starts another.
    pub(super) async fn restart_rotator(&self) -> Result<()> {
        let mut rotator = self.rotator.lock().await;
        rotator.abort();
        let fresh = work(&self.host, QueueName::Findings, self.roles.rotator_on(Arc::clone(&self.vault))?);
        let lost = std::mem::replace(&mut *rotator, fresh).await;
        let stored = self.cut.stored.load(Ordering::Relaxed);
        say!(
            "  · the rotator is stopped hard{}: {} in the vault that the ledger does not know; \
             another one is started",
            if lost.is_err_and(|error| error.is_cancelled()) { "" } else { " (it had ended)" },
            output::are(stored, "version")
        );
        Ok(())
    }

    /// Ends all roles; the host must have been told to stop.
    pub(super) async fn end(self) -> Result<()> {
        self.serving.await??;
        for worker in self.workers.into_iter().chain([self.rotator.into_inner()]) {
            worker.await?;
        }
        Ok(())
    }
}

fn work(host: &Host, queue: QueueName, handler: impl keyturn_pipeline::handler::Handler) -> JoinHandle<()> {
    let host = host.clone();
    tokio::spawn(async move { host.work(queue, handler).await })
}

/// A vault whose first put is stored and never answered.
struct CutOff {
    vault: Arc<dyn Vault>,
    armed: AtomicBool,
    stored: AtomicUsize,
    happened: Notify,
}

impl CutOff {
    fn new(vault: Arc<dyn Vault>) -> Self {
        Self { vault, armed: AtomicBool::new(true), stored: AtomicUsize::new(0), happened: Notify::new() }
    }
}

#[async_trait]
impl VaultReader for CutOff {
    async fn read(
        &self,
        lane: LaneId,
        version: VersionId,
        vault_ref: &str,
    ) -> Result<Option<Password>, Error> {
        self.vault.read(lane, version, vault_ref).await
    }

    async fn history(&self, device: DeviceId) -> Result<Vec<Entry>, Error> {
        self.vault.history(device).await
    }
}

#[async_trait]
impl Vault for CutOff {
    async fn find(&self, sought: Vec<Sought>) -> Vec<Result<Option<Entry>, Error>> {
        self.vault.find(sought).await
    }

    async fn put(&self, versions: Vec<NewVersion>) -> Vec<Result<Entry, Error>> {
        let count = versions.len();
        let stored = self.vault.put(versions).await;
        if self.armed.swap(false, Ordering::Relaxed) {
            self.stored.store(count, Ordering::Relaxed);
            self.happened.notify_one();
            std::future::pending::<()>().await;
        }
        stored
    }
}
