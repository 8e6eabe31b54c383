//! The engines of those hops that are not the state's.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyturn_azure::storage_queues::Access;
use keyturn_azure::{ServiceBus, StorageQueues, service_bus};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::dead_letters::{Graveyard, Strays};
use keyturn_ports::queue::{Queue, QueueName};
use keyturn_ports::{Error, Kind};

use super::OpenError;
use crate::config::{AccessBy, AzureAccess, BusNamespace, QueueEngines, StorageAccount};
use crate::keys;

/// Engines of hops, and what lies dead beside them.
#[derive(Default)]
pub(super) struct Outside {
    pub(super) queues: BTreeMap<QueueName, Arc<dyn Queue>>,
    pub(super) strays: BTreeMap<QueueName, Arc<dyn Strays>>,
    pub(super) storage_queues: Option<Arc<StorageQueues>>,
    pub(super) service_bus: Option<Arc<ServiceBus>>,
}

impl Outside {
    /// Those that the configuration names. No service is asked yet.
    pub(super) fn open(
        config: &QueueEngines,
        azure: Option<&AzureAccess>,
        graveyard: &Arc<dyn Graveyard>,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let mut outside = Self::default();
        if let Some(account) = &config.account {
            let engine = Arc::new(storage(account, azure, graveyard, clock)?);
            for queue in &config.azure_storage {
                outside.queues.insert(*queue, Arc::clone(&engine) as _);
                outside.strays.insert(*queue, Arc::clone(&engine) as _);
            }
            outside.storage_queues = Some(engine);
        }
        if let Some((namespace, azure)) = config.namespace.as_ref().zip(azure) {
            let bus = bus(namespace, azure, graveyard, clock, entropy)?;
            outside.queues.extend(config.service_bus.iter().map(|queue| (*queue, Arc::clone(&bus) as _)));
            outside.service_bus = Some(bus);
        }
        Ok(outside)
    }
}

fn bus(
    BusNamespace { settings, policy }: &BusNamespace,
    AzureAccess { credential, reach }: &AzureAccess,
    graveyard: &Arc<dyn Graveyard>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<ServiceBus>, OpenError> {
    let access = match policy {
        None => service_bus::Access::Token(credential.open(reach)?),
        Some((policy, file)) => {
            let key = keys::secret_of_service(file)?;
            service_bus::Access::SharedKey { policy: policy.clone(), key }
        }
    };
    let settings = service_bus::Settings { ca: reach.ca.clone(), ..settings.clone() };
    let (graveyard, clock, entropy) = (Arc::clone(graveyard), Arc::clone(clock), Arc::clone(entropy));
    Ok(Arc::new(ServiceBus::new(settings, access, graveyard, clock, entropy)?))
}

fn storage(
    StorageAccount { endpoint, access }: &StorageAccount,
    azure: Option<&AzureAccess>,
    graveyard: &Arc<dyn Graveyard>,
    clock: &Arc<dyn Clock>,
) -> Result<StorageQueues, OpenError> {
    let access = match access {
        AccessBy::Identity => {
            let unset = || Error::new(Kind::Denied, "using a storage queue", "there is no azure.credential");
            let AzureAccess { credential, reach } = azure.ok_or_else(unset)?;
            Access::Token { credential: credential.open(reach)?, reach: reach.clone() }
        }
        AccessBy::Key { account, file } => {
            Access::SharedKey { account: account.clone(), key: keys::secret_of_service(file)? }
        }
        AccessBy::Signature(file) => Access::Signature(keys::secret_of_service(file)?),
    };
    Ok(StorageQueues::new(endpoint, &access, Arc::clone(graveyard), Arc::clone(clock))?)
}
