//! `keyturn-notifier`: a worker on `outcomes`, as a process of its own.

use std::process::ExitCode;

use keyturn_notifier::Notifier;
use keyturn_service::queues::QueueName;

fn main() -> ExitCode {
    keyturn_service::shell::run("notifier", async |host| {
        let notifier = Notifier::new(host.engines.result_writer());
        host.work(QueueName::Outcomes, notifier).await;
        Ok(())
    })
}
