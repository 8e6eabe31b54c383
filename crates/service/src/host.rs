//! What a role gets from its process: configuration, keys, engines, and a way to work until it is told to stop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use keyturn_domain::live::Live;
use keyturn_domain::webhook::WebhookName;
use keyturn_pipeline::handler::Handler;
use keyturn_pipeline::worker::Worker;
use keyturn_ports::queue::QueueName;
use keyturn_ports::shipping::Holder;
use keyturn_schemas::alarm::WebhookSecrets;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, Ingress};
use crate::copies::Copier;
use crate::directory_feed::Follower;
use crate::engines::Engines;
use crate::fleet::{Clerk, Surveyor};
use crate::handles;
use crate::health::Waits;
use crate::http::{self, Bounds, Tls};
use crate::keys::{KeyError, KeyStore};
use crate::shell::StartError;
use crate::shipping::Forwarder;
use crate::supervise::Supervisor;
use crate::upkeep::audit::Watch;
use crate::upkeep::fleet::Census;
use crate::upkeep::{Shipped, Tender};

/// A process that hosts one role, or all of them.
#[derive(Clone)]
pub struct Host {
    /// The configuration.
    pub config: Arc<Config>,
    /// The keys.
    pub keys: KeyStore,
    /// The engines.
    pub engines: Engines,
    /// Told when the process is to end.
    pub stop: CancellationToken,
    /// Who is told how the process is.
    pub supervisor: Supervisor,
    /// What it waits for, for `/readyz`.
    pub waits_for: Waits,
}

impl Host {
    /// Has the vault's keys unwrapped, if they are wrapped, and the key that signs compared with what its file says, if it is
    /// in Key Vault; for a role that holds them. While Key Vault cannot be asked it waits, and `/readyz` says so. False if the
    /// process is to end before that.
    pub async fn unlock(&self) -> Result<bool, StartError> {
        let every = self.config.sections.vault.unwrap_every.0;
        let mut complaint = None;
        self.waits_for
            .set(Some("the vault's keys are being unwrapped, or the signing key compared".to_owned()));
        loop {
            let unlocked = match self.keys.unlock().await {
                Ok(()) => self.keys.check_signing().await,
                locked => locked,
            };
            let error = match unlocked {
                Ok(()) => {
                    self.waits_for.set(None);
                    return Ok(true);
                }
                Err(error) if error.is_passing() => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            self.waits_for.set(Some(error.clone()));
            if complaint.as_ref() != Some(&error) {
                warn!(error = %error, "waiting until Key Vault unwraps the vault's keys, or tells the public half of the signing key");
                complaint = Some(error);
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Works on a queue until the process is to end, then finishes the batch in hand.
    pub async fn work(&self, queue: QueueName, handler: impl Handler) {
        let worker = self.worker(queue, handler);
        info!(queue = %queue, "working");
        self.supervisor.begun();
        tokio::join!(worker.run(self.stop.clone()), self.carry(queue));
        self.supervisor.forget(queue.as_str());
        info!(queue = %queue, "stopped after the batch in hand");
    }

    /// Works on the alarms until the process is to end, with their own schedule.
    pub async fn work_on_alarms(&self, handler: impl Handler) {
        let settings = self.config.alarm_workers.clone();
        let worker = Worker { settings, ..self.worker(QueueName::Alarms, handler) };
        info!(queue = %QueueName::Alarms, webhooks = self.config.alarms.webhooks.len(), "working");
        self.supervisor.begun();
        tokio::join!(worker.run(self.stop.clone()), self.carry(QueueName::Alarms));
        self.supervisor.forget(QueueName::Alarms.as_str());
        info!(queue = %QueueName::Alarms, "stopped after the batch in hand");
    }

    /// Carries messages of a hop with an engine of its own over from the state. Whoever works on the hop does this.
    async fn carry(&self, queue: QueueName) {
        if let Some((from, relay)) = self.engines.relay(queue) {
            let name = match queue {
                QueueName::Requests => "relay of requests",
                QueueName::Findings => "relay of findings",
                QueueName::Outcomes => "relay of outcomes",
                QueueName::Alarms => "relay of alarms",
            };
            let from = self.supervisor.marked(name, from);
            let worker = Worker { queue: from, ..self.worker(queue, relay) };
            worker.run(self.stop.clone()).await;
            self.supervisor.forget(name);
        }
    }

    /// What deliveries to the webhooks are signed with, by name, read again when the files change.
    pub fn webhook_secrets(&self) -> Result<Live<BTreeMap<WebhookName, WebhookSecrets>>, KeyError> {
        let entries = &self.config.sections.alarms.webhook;
        let names = self.config.alarms.webhooks.iter().map(|webhook| webhook.name.clone());
        let files: Vec<_> = names.zip(entries.iter().map(|entry| entry.secret_file.clone())).collect();
        self.keys.live(move |keys| {
            let one = |(name, file): &(WebhookName, PathBuf)| Ok((name.clone(), keys.webhook(file)?));
            files.iter().map(one).collect()
        })
    }

    /// Looks after the store, and counts the fleet, until the process is to end. One process of a deployment is enough; several do no harm.
    pub async fn tend(&self) {
        let tender = Tender {
            upkeep: self.engines.upkeep(),
            strays: self.engines.strays().clone(),
            clock: self.engines.clock(),
            retention: self.config.sections.retention.clone(),
            clerk: Some(Clerk {
                surveyor: self.surveyor().leisurely(self.config.sections.retention.pause.0),
                chores: self.engines.chores(),
                settings: self.config.sections.fleet.clone(),
            }),
            shipped: self
                .config
                .logs
                .as_ref()
                .map(|logs| Shipped { shipping: self.engines.shipping(), keep: logs.keep_unshipped }),
            old_letters: 0,
            audit: Watch::new(self.engines.audit()),
        };
        let census = Census {
            surveyor: self.surveyor().leisurely(self.config.sections.retention.pause.0),
            every: self.config.sections.health.fleet_every.0,
        };
        tokio::join!(tender.run(self.stop.clone()), census.run(self.stop.clone()), self.keep_copies());
    }

    /// Copies confirmed passwords for people with plain vault tools, if that is asked for.
    async fn keep_copies(&self) {
        let (Some(settings), Some((vault, copies))) = (self.config.copies, self.engines.copies()) else {
            return;
        };
        let (ledger, chores) = (self.engines.ledger_reader(), self.engines.chores());
        let copier = Copier { ledger, vault, copies, chores, clock: self.engines.clock(), settings };
        // On the heap: what it holds while it writes is much, and whoever waits for it waits for other things too.
        Box::pin(copier.run(self.stop.clone())).await;
    }

    /// Reads what changes in the directory and forgets what was answered of it, until the process is to end: at once if
    /// the directory has no feed. Of several processes that do this one reads.
    pub async fn follow_directory(&self) {
        let Some((graph, roster)) = self.engines.directory_feed() else { return };
        let Some(settings) = graph.feed() else { return };
        let (clock, holder) = (self.engines.clock(), Holder::from_bytes(self.engines.entropy().bytes()));
        Follower { graph, roster, settings, clock, holder }.run(self.stop.clone()).await;
    }

    /// What tells how the fleet stands.
    pub fn surveyor(&self) -> Surveyor {
        Surveyor::new(&self.config, &self.engines)
    }

    /// What ships audit and events to Azure Monitor until the process is to end: at once if they are not shipped. Of
    /// several processes that do this one ships.
    pub fn shipping(&self) -> Result<impl Future<Output = ()> + use<>, StartError> {
        let (engines, stop) = (&self.engines, self.stop.clone());
        let logs = engines.logs(&self.config).map_err(StartError::service)?;
        let forwarder = logs.zip(self.config.logs.clone()).map(|(logs, settings)| Forwarder {
            shipping: engines.shipping(),
            audit: engines.audit(),
            ledger: engines.ledger_reader(),
            directory: engines.directory(),
            logs,
            settings,
            clock: engines.clock(),
            holder: Holder::from_bytes(engines.entropy().bytes()),
        });
        // On the heap: what it holds while it sends is much, and whoever waits for it waits for other things too.
        Ok(Box::pin(async move {
            if let Some(forwarder) = forwarder {
                forwarder.run(stop).await;
            }
        }))
    }

    /// A worker on a queue, not yet running.
    pub fn worker(&self, queue: QueueName, handler: impl Handler) -> Worker {
        Worker {
            queue: self.supervisor.marked(queue.as_str(), self.engines.queue()),
            name: queue,
            handler: Arc::new(handler),
            settings: self.config.workers.clone(),
            clock: self.engines.clock(),
            entropy: self.engines.entropy(),
        }
    }

    /// Serves the device API until the process is to end, then finishes what is under way. Tells the address to
    /// `bound`, for configurations that leave the port to the system.
    pub async fn serve(
        &self,
        router: Router,
        bound: impl FnOnce(std::net::SocketAddr),
    ) -> Result<(), StartError> {
        let Ingress { listen, tls, header_bytes, header_time, connections, connections_per_address, .. } =
            &self.config.sections.ingress;
        let tls = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some(Tls::open(certificate, key, self.stop.clone())?),
            _ => None,
        };
        let failed = |source| StartError::Bind { address: listen.to_string(), source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        info!(address = %address, tls = tls.is_some(), "serving devices");
        bound(address);
        self.supervisor.begun();
        let bounds = Bounds {
            header_bytes: *header_bytes,
            header_time: header_time.0,
            connections: handles::provide(*connections),
            connections_per_address: *connections_per_address,
            proxies: self.config.admission.trusted_proxies.clone(),
            ..Bounds::default()
        };
        http::serve(listener, tls, router, bounds, self.stop.clone()).await;
        Ok(())
    }
}
