//! `keyturn-validator`: a worker on `requests`, as a process of its own.

use std::process::ExitCode;

use keyturn_service::queues::QueueName;
use keyturn_validator::{Keys, Settings, Validator};

fn main() -> ExitCode {
    keyturn_service::shell::run("validator", async |host| {
        let (config, keys, engines) = (&host.config, &host.keys, &host.engines);
        let settings = Settings {
            deployment: config.deployment.clone(),
            join_types: config.join_types,
            freshness: config.freshness,
            groups: config.policies.directory_groups(),
        };
        let keys = keys.live(|keys| {
            Ok(Keys { nonces: keys.nonces()?, stamps: keys.stamps()?, findings: keys.findings()? })
        })?;
        let validator = Validator::new(settings, keys, engines.directory(), engines.clock());
        tokio::join!(host.work(QueueName::Requests, validator), host.follow_directory());
        Ok(())
    })
}
