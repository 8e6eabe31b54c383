//! `keyturn-notifier`: a worker on `outcomes`, one on `alarms`, and what ships the audit, as a process of its own.

use std::process::ExitCode;

use keyturn_notifier::Notifier;
use keyturn_notifier::webhooks::Webhooks;
use keyturn_service::queues::QueueName;
use keyturn_service::shell::StartError;

fn main() -> ExitCode {
    keyturn_service::shell::run("notifier", async |host| {
        let notifier = Notifier::new(host.engines.result_writer());
        let (config, clock) = (&host.config, host.engines.clock());
        let webhooks =
            Webhooks::new(config.deployment.clone(), &config.alarms, host.webhook_secrets()?, clock)
                .map_err(StartError::service)?;
        let shipping = host.shipping()?;
        tokio::join!(host.work(QueueName::Outcomes, notifier), host.work_on_alarms(webhooks), shipping);
        Ok(())
    })
}
