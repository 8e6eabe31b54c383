//! A fake Service Bus with a clock that is ticked by hand.

use std::sync::Arc;
use std::time::Duration;

use keyturn_azure::service_bus::{Access, Namespace, SessionSettings, Settings};
use keyturn_azure::{Attempts, ServiceBus};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::Subject;
use keyturn_testkit::service_bus::{FakeServiceBus, KEY, POLICY};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Queues on a fake of their own, and the file with the index of their dead letters.
pub(crate) struct Deployment {
    pub(crate) queues: ServiceBus,
    pub(crate) fake: FakeServiceBus,
    pub(crate) state: Database,
    pub(crate) clock: ManualClock,
    settings: Settings,
    _folder: TempDir,
}

/// How the queues of a deployment are made.
pub(crate) fn queues(given: &Value) -> Value {
    json!({ "k-requests": given, "k-findings": given, "k-outcomes": given, "k-alarms": given })
}

/// The lock duration and the maximum of deliveries that docs/AZURE.md asks for, and duplicate detection.
pub(crate) fn usual() -> Value {
    json!({ "lockMs": 60_000, "maxDelivery": 2000, "dedupMs": 600_000 })
}

pub(crate) fn settings(url: &str) -> Settings {
    Settings {
        namespace: Namespace::parse(url).unwrap(),
        prefix: "k-".to_owned(),
        wait: Duration::from_millis(400),
        linger: Duration::from_millis(50),
        poll: Duration::from_secs(2),
        parallel: 16,
        attempts: Attempts {
            most: 4,
            first_delay: Duration::from_millis(20),
            max_delay: Duration::from_millis(200),
        },
        timeout: Duration::from_secs(10),
        refresh: Duration::from_mins(4),
        sessions: None,
        counted: 250,
        sweep: Duration::from_mins(1),
        ca: None,
    }
}

pub(crate) fn by_key(key: &str) -> Access {
    Access::SharedKey { policy: POLICY.to_owned(), key: key.into() }
}

impl Deployment {
    pub(crate) fn with(given: &Value) -> Self {
        Self::having(given, None)
    }

    /// One whose settings say this of sessions.
    pub(crate) fn having(given: &Value, sessions: Option<SessionSettings>) -> Self {
        let fake = FakeServiceBus::start(&queues(given), None);
        let clock = fake.clock();
        let settings = Settings { sessions, ..settings(&fake.url("amqp")) };
        let (queues, state, folder) = on(&settings, by_key(KEY), &clock);
        Self { queues, fake, state, clock, settings, _folder: folder }
    }

    /// Another process of the same deployment.
    pub(crate) fn sibling(&self) -> ServiceBus {
        let (clock, graveyard) = (Arc::new(self.clock.clone()), Arc::new(self.state.clone()));
        ServiceBus::new(self.settings.clone(), by_key(KEY), graveyard, clock, Arc::new(SystemEntropy))
            .unwrap()
    }
}

/// Queues, with a state of their own.
pub(crate) fn on(
    settings: &Settings,
    access: Access,
    clock: &ManualClock,
) -> (ServiceBus, Database, TempDir) {
    let folder = TempDir::new().unwrap();
    let time = Arc::new(clock.clone());
    let path = folder.path().join("keyturn.db");
    let state = Database::open(OpenOptions::new(path, time.clone(), Arc::new(SystemEntropy))).unwrap();
    let graveyard = Arc::new(state.clone());
    let queues = ServiceBus::new(settings.clone(), access, graveyard, time, Arc::new(SystemEntropy)).unwrap();
    (queues, state, folder)
}

impl Subject for Deployment {
    type Engine = ServiceBus;

    async fn fresh() -> Self {
        Self::with(&usual())
    }

    fn engine(&self) -> &ServiceBus {
        &self.queues
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}
