//! `keyturn-ingress`: the HTTP edge for devices, as a process of its own.

use std::process::ExitCode;

use keyturn_ingress::{Ingress, Keys, Limits, Ports, Settings};

fn main() -> ExitCode {
    keyturn_service::shell::run("ingress", async |host| {
        let (config, keys, engines) = (&host.config, &host.keys, &host.engines);
        let section = &config.sections.ingress;
        let settings = Settings {
            deployment: config.deployment.clone(),
            name: section.name.clone(),
            freshness: config.freshness,
            limits: Limits {
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
            Ok(Keys { nonces, stamps, tickets, key_set: keys.key_set()? })
        })?;
        let ports = Ports {
            intake: engines.intake(),
            queue: engines.queue(),
            results: engines.result_reader(),
            ledger: engines.ledger_reader(),
        };
        let ingress = Ingress::new(settings, keys, ports, engines.clock(), engines.entropy());
        host.serve(ingress.router(), |_| ()).await
    })
}
