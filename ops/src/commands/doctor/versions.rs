//! Whether each service takes the version of its API that this release speaks.

use keyturn_domain::ids::DeviceId;
use keyturn_ports::queue::QueueName;
use keyturn_ports::{Error, Kind};
use keyturn_service::config::{DirectoryEngine, VaultEngine, versions};

use super::{Check, Deployment};

const NAME: &str = "api version";

/// One line for each service. Logs Ingestion is not asked, since whatever is sent there stays.
pub(super) async fn examine(deployment: &Deployment) -> Vec<Check> {
    let (config, engines) = (&deployment.config, &deployment.engines);
    let nobody = DeviceId::from_bytes(engines.entropy().bytes());
    let mut checks = Vec::new();
    if let Some(told) = engines.server_version().await {
        let version = told.as_ref().map_or("not told", String::as_str).to_owned();
        checks.push(tell("PostgreSQL", &version, told.map(drop)));
    }
    let depth = async |queue: QueueName| engines.queue().depth(queue).await.map(drop);
    if let (Some(queue), Some(account)) = (config.queues.azure_storage.first(), &config.queues.account) {
        checks.push(tell("Storage", &versions::storage(&account.endpoint), depth(*queue).await));
    }
    if let Some(queue) = config.queues.service_bus.first() {
        checks.push(tell("Service Bus", versions::SERVICE_BUS, depth(*queue).await));
    }
    if let (VaultEngine::KeyVault(..), Some(vault)) = (&config.vault, engines.key_vault()) {
        for (url, asked) in vault.try_reading(nobody).await {
            checks.push(tell(&format!("Key Vault {url}"), &versions::key_vault(), asked));
        }
    }
    if let DirectoryEngine::Graph(_) = &config.directory {
        let answer = engines.directory().look_up(vec![nobody]).await.pop();
        let answer = answer.unwrap_or_else(|| Err(Error::new(Kind::Corrupt, "asking", "no answer")));
        checks.push(tell("Graph", versions::GRAPH, answer.map(drop)));
    }
    checks
}

fn tell(who: &str, version: &str, asked: Result<(), Error>) -> Check {
    match asked {
        Ok(()) => Check::ok(NAME, format!("{who}: {version}, and it takes that")),
        Err(error) => Check::failed(
            NAME,
            format!("{who}: {version}; whether it takes that is not known: {error}"),
            "mend what other lines say of this service; if none does, take a later release",
        ),
    }
}
