//! What the hops of a pipeline go over: queues in Azure, which can be taken away and put back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::deployment::Deployment;

pub(super) const HOPS: [&str; 4] = ["requests", "findings", "outcomes", "alarms"];

/// Queues for all the hops.
pub(super) trait Hops: Send + Sync {
    /// The part of a deployment's configuration that is about queues.
    fn config(&self, deployment: &Deployment) -> String;

    /// What `keyturn doctor --write` says of each of them, beyond how many messages wait.
    fn doctored(&self) -> [&'static str; 2];

    /// Takes them away: connections are taken, and nothing is answered.
    fn pause(&self);

    /// Puts them back, with all that they had.
    fn resume(&self);
}

/// Every hop on one engine, with a secret that only its owner reads.
#[cfg(any(feature = "azurite", feature = "service-bus"))]
fn every_hop(engine: &str, deployment: &Deployment, secret: &str, rest: &str) -> String {
    let key = deployment.path("queues.key");
    fs::write(&key, secret).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let hops = HOPS.map(|hop| format!("{hop} = \"{engine}\"\n")).concat();
    let section = engine.replace('-', "_");
    format!(
        "[queues]\n{hops}[queues.{section}]\naccess = \"key\"\nsecret_file = \"{}\"\n{rest}",
        key.display()
    )
}

/// Storage queues on a real Azurite.
#[cfg(feature = "azurite")]
mod storage {
    use keyturn_testkit::azurite::{ACCOUNT, API_VERSION, Azurite, KEY};

    use super::{Deployment, Hops, every_hop};

    pub(in super::super) async fn start() -> Box<dyn Hops> {
        Box::new(Azurite::start(&[], None).await)
    }

    impl Hops for Azurite {
        fn config(&self, deployment: &Deployment) -> String {
            let rest = format!(
                "endpoint = \"{}\"\naccount = \"{ACCOUNT}\"\npoll = \"20ms\"\napi_version = \"{API_VERSION}\"\n",
                self.url("http")
            );
            every_hop("azure-storage", deployment, KEY, &rest)
        }

        fn doctored(&self) -> [&'static str; 2] {
            [
                "ok      settling       findings: this identity may renew, put off and delete messages",
                "ok      sending        findings: a message that nobody sees was sent, and deleted",
            ]
        }

        fn pause(&self) {
            Self::pause(self);
        }

        fn resume(&self) {
            Self::resume(self);
        }
    }
}
#[cfg(feature = "azurite")]
pub(super) use storage::start as azure_storage;

/// Queues with sessions on the fake Service Bus.
#[cfg(feature = "service-bus")]
mod bus {
    use keyturn_testkit::service_bus::{FakeServiceBus, KEY, POLICY};
    use serde_json::json;

    use super::{Deployment, HOPS, Hops, every_hop};

    pub(in super::super) async fn start() -> Box<dyn Hops> {
        // Who is killed keeps its locks until they run out, so they are short.
        let queue = json!({ "lockMs": 5000, "maxDelivery": 2000, "dedupMs": 600_000, "sessions": true });
        let queues: serde_json::Map<_, _> =
            HOPS.iter().map(|hop| (format!("keyturn-{hop}"), queue.clone())).collect();
        Box::new(FakeServiceBus::start(&queues.into(), None))
    }

    impl Hops for FakeServiceBus {
        fn config(&self, deployment: &Deployment) -> String {
            let rest = format!(
                "endpoint = \"{}\"\npolicy = \"{POLICY}\"\nlock = \"5s\"\nsessions = true\n",
                self.url("amqp")
            );
            every_hop("service-bus", deployment, KEY, &rest)
        }

        fn doctored(&self) -> [&'static str; 2] {
            [
                "ok      sessions       findings: it requires sessions, as configured",
                "ok      sending        findings: this identity may send",
            ]
        }

        fn pause(&self) {
            Self::pause(self);
        }

        fn resume(&self) {
            Self::resume(self);
        }
    }
}
#[cfg(feature = "service-bus")]
pub(super) use bus::start as service_bus;
