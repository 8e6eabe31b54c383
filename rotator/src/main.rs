//! `keyturn-rotator`: a worker on `findings`, as a process of its own. It listens nowhere.

use std::process::ExitCode;

use keyturn_rotator::{Keys, Ports, Rotator, Settings};
use keyturn_service::keys::KeyStore;
use keyturn_service::queues::QueueName;

fn main() -> ExitCode {
    keyturn_service::shell::run("rotator", async |host| {
        if !host.unlock().await? {
            return Ok(());
        }
        let (config, keys, engines) = (&host.config, &host.keys, &host.engines);
        let settings = Settings {
            deployment: config.deployment.clone(),
            policies: config.policies.clone(),
            freshness: config.freshness,
            finding_max_age: config.sections.trust.finding_max_age.0,
            result_ttl: config.sections.rotation.result_ttl.0,
        };
        let ports = Ports {
            ledger: engines.ledger(),
            reader: engines.ledger_reader(),
            vault: engines.vault(|| keys.live(KeyStore::vault))?,
        };
        let keys = keys.live(|keys| {
            let (nonces, stamps, findings) = (keys.nonces()?, keys.stamps()?, keys.findings()?);
            Ok(Keys { nonces, stamps, findings, signing: keys.signing()? })
        })?;
        let rotator = Rotator::new(settings, keys, ports, engines.clock(), engines.entropy());
        tokio::join!(host.work(QueueName::Findings, rotator), host.tend());
        Ok(())
    })
}
