//! All roles in one process.

use std::net::SocketAddr;
use std::sync::Arc;

use keyturn_ingress::Ingress;
use keyturn_notifier::Notifier;
use keyturn_notifier::webhooks::Webhooks;
use keyturn_ports::vault::Vault;
use keyturn_rotator::Rotator;
use keyturn_service::host::Host;
use keyturn_service::keys::{KeyError, KeyStore};
use keyturn_service::queues::QueueName;
use keyturn_service::shell::StartError;
use keyturn_validator::Validator;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Builds the roles of a host from its configuration, keys and engines.
#[derive(Clone)]
pub struct Roles {
    host: Host,
}

impl Roles {
    /// The roles of this host.
    pub fn new(host: Host) -> Self {
        Self { host }
    }

    /// The HTTP edge.
    pub fn ingress(&self) -> Result<Arc<Ingress>, KeyError> {
        let (config, keys, engines) = (&self.host.config, &self.host.keys, &self.host.engines);
        let section = &config.sections.ingress;
        let settings = keyturn_ingress::Settings {
            deployment: config.deployment.clone(),
            name: section.name.clone(),
            freshness: config.freshness,
            limits: keyturn_ingress::Limits {
                body_bytes: section.body_bytes,
                body_time: section.body_time.0,
                poll_wait: section.poll_wait.0,
                polls: section.polls,
                depth: section.depth,
            },
            admission: config.admission.clone(),
        };
        let keys = keys.live(|keys| {
            let (nonces, stamps, tickets) = (keys.nonces()?, keys.stamps()?, keys.tickets()?);
            Ok(keyturn_ingress::Keys { nonces, stamps, tickets, key_set: keys.key_set()? })
        })?;
        let ports = keyturn_ingress::Ports {
            intake: engines.intake(),
            queue: engines.queue(),
            results: engines.result_reader(),
            ledger: engines.ledger_reader(),
        };
        Ok(Ingress::new(settings, keys, ports, engines.clock(), engines.entropy()))
    }

    /// The validator.
    pub fn validator(&self) -> Result<Validator, KeyError> {
        let (config, keys, engines) = (&self.host.config, &self.host.keys, &self.host.engines);
        let settings = keyturn_validator::Settings {
            deployment: config.deployment.clone(),
            join_types: config.join_types,
            freshness: config.freshness,
            groups: config.policies.directory_groups(),
        };
        let keys = keys.live(|keys| {
            let (nonces, stamps, findings) = (keys.nonces()?, keys.stamps()?, keys.findings()?);
            Ok(keyturn_validator::Keys { nonces, stamps, findings })
        })?;
        Ok(Validator::new(settings, keys, engines.directory(), engines.clock()))
    }

    /// The rotator, on the deployment's vault.
    pub fn rotator(&self) -> Result<Rotator, KeyError> {
        self.rotator_on(self.host.engines.vault(|| self.host.keys.live(KeyStore::vault))?)
    }

    /// The rotator, on a vault of the caller's.
    pub fn rotator_on(&self, vault: Arc<dyn Vault>) -> Result<Rotator, KeyError> {
        let (config, keys, engines) = (&self.host.config, &self.host.keys, &self.host.engines);
        let settings = keyturn_rotator::Settings {
            deployment: config.deployment.clone(),
            policies: config.policies.clone(),
            freshness: config.freshness,
            finding_max_age: config.sections.trust.finding_max_age.0,
            result_ttl: config.sections.rotation.result_ttl.0,
        };
        let keys = keys.live(|keys| {
            let (nonces, stamps, findings) = (keys.nonces()?, keys.stamps()?, keys.findings()?);
            Ok(keyturn_rotator::Keys { nonces, stamps, findings, signing: keys.signing()? })
        })?;
        let ports =
            keyturn_rotator::Ports { ledger: engines.ledger(), reader: engines.ledger_reader(), vault };
        Ok(Rotator::new(settings, keys, ports, engines.clock(), engines.entropy()))
    }

    /// The notifier.
    pub fn notifier(&self) -> Notifier {
        Notifier::new(self.host.engines.result_writer())
    }

    /// The notifier's other half, which sends alarms to webhooks.
    pub fn webhooks(&self) -> Result<Webhooks, StartError> {
        let (config, clock) = (&self.host.config, self.host.engines.clock());
        let secrets = self.host.webhook_secrets()?;
        Webhooks::new(config.deployment.clone(), &config.alarms, secrets, clock).map_err(StartError::service)
    }

    /// Serves devices in the background. Returns the address and the server's task.
    pub async fn serve(&self) -> Result<(SocketAddr, JoinHandle<Result<(), StartError>>), StartError> {
        let (router, host) = (self.ingress()?.router(), self.host.clone());
        let (tell, told) = oneshot::channel();
        let serving = tokio::spawn(async move {
            host.serve(router, |address| {
                // Nobody waits for the address if the caller gave up.
                let _ = tell.send(address);
            })
            .await
        });
        match told.await {
            Ok(address) => Ok((address, serving)),
            Err(_) => match serving.await {
                Ok(Err(error)) => Err(error),
                _ => Err(StartError::System(std::io::Error::other("the server ended before it listened"))),
            },
        }
    }

    /// Runs the workers of all roles in the background, and what looks after the store.
    pub fn work(&self) -> Result<Vec<JoinHandle<()>>, StartError> {
        let (validator, rotator, notifier) = (self.validator()?, self.rotator()?, self.notifier());
        let webhooks = self.webhooks()?;
        let shipping = self.host.shipping()?;
        let [one, two, three, four, tending, following] = std::array::from_fn(|_| self.host.clone());
        Ok(vec![
            tokio::spawn(async move { one.work(QueueName::Requests, validator).await }),
            tokio::spawn(async move { two.work(QueueName::Findings, rotator).await }),
            tokio::spawn(async move { three.work(QueueName::Outcomes, notifier).await }),
            tokio::spawn(async move { four.work_on_alarms(webhooks).await }),
            tokio::spawn(async move { tending.tend().await }),
            tokio::spawn(async move { following.follow_directory().await }),
            tokio::spawn(shipping),
        ])
    }
}
