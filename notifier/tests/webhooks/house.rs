//! A notifier's worker on the real queue, with a clock that is ticked by hand.

use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock;
use keyturn_domain::ids::{EventId, LaneId};
use keyturn_domain::lane::Alarm;
use keyturn_domain::webhook::{AlarmPolicy, Webhook};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_notifier::webhooks::{Secrets, Webhooks};
use keyturn_pipeline::settle::RetryPolicy;
use keyturn_pipeline::worker::{Worker, WorkerSettings};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetters as _};
use keyturn_ports::queue::{NewMessage, Queue as _, QueueName};
use keyturn_schemas::alarm::{AlarmRaised, WebhookSecrets};
use keyturn_schemas::envelope::{Envelope, TraceParent};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use tempfile::TempDir;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const GIVE_UP: Duration = Duration::from_hours(72);
pub(crate) const LONGEST: Duration = Duration::from_mins(10);

/// A notifier's worker on its own file.
pub(crate) struct House {
    pub(crate) database: Database,
    pub(crate) clock: ManualClock,
    pub(crate) worker: Worker,
    _folder: TempDir,
}

impl House {
    /// With these webhooks: a name, an address, and the alarms it wants.
    pub(crate) fn new(webhooks: &[(&str, String, &[Alarm])]) -> Self {
        Self::reaching_out(webhooks, None, None)
    }

    /// The same, by way of a proxy, or with certificates of its own to trust.
    pub(crate) fn reaching_out(
        webhooks: &[(&str, String, &[Alarm])],
        ca: Option<String>,
        proxy: Option<String>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::default();
        let time: Arc<dyn Clock> = Arc::new(clock.clone());
        let options =
            OpenOptions::new(folder.path().join("x.db"), Arc::clone(&time), Arc::new(SystemEntropy));
        let database = Database::open(options).unwrap();
        let webhook = |(name, url, kinds): &(&str, String, &[Alarm])| Webhook {
            name: name.parse().unwrap(),
            url: url.parse().unwrap(),
            kinds: kinds.iter().copied().collect(),
        };
        let policy = AlarmPolicy {
            webhooks: webhooks.iter().map(webhook).collect(),
            timeout: Duration::from_secs(1),
            ca: ca.map(String::into_bytes),
            proxy: proxy.map(|url| url.parse().unwrap()),
        };
        let secret = |webhook: &Webhook| (webhook.name.clone(), WebhookSecrets::parse(SECRET).unwrap());
        let secrets: Secrets = policy.webhooks.iter().map(secret).collect();
        let handler = Webhooks::new("test".parse().unwrap(), &policy, secrets, Arc::clone(&time)).unwrap();
        let retry = RetryPolicy {
            max_deliveries: 1,
            patience: GIVE_UP,
            first_delay: Duration::from_secs(5),
            max_delay: LONGEST,
        };
        let worker = Worker {
            queue: Arc::new(database.clone()),
            name: QueueName::Alarms,
            handler: Arc::new(handler),
            settings: WorkerSettings { retry, ..WorkerSettings::default() },
            clock: time,
            entropy: Arc::new(SystemEntropy),
        };
        Self { database, clock, worker, _folder: folder }
    }

    /// Alarm `n` of device `of`, as the rotator sends it.
    pub(crate) async fn raise(&self, n: u8, of: u8, alarm: Alarm) {
        self.clock.advance(Duration::from_millis(1));
        let raised = AlarmRaised {
            event: EventId([n; 16]),
            at_ms: self.clock.now(),
            lane: LaneId([of; 16]),
            alarm,
            webhook: None,
        };
        let (device, request) = (sample::device(of), sample::request(n));
        let trace = TraceParent::of(request);
        let envelope = Envelope::new(request, device, "rotator", self.clock.now(), trace, raised);
        let message = NewMessage { request, device, body: envelope.to_json() };
        self.database.send(QueueName::Alarms, vec![message]).await.unwrap();
    }

    /// Works until nothing is due.
    pub(crate) async fn work(&self) {
        while self.worker.step().await.unwrap() > 0 {}
    }

    /// Lets the longest delay pass, and works.
    pub(crate) async fn later(&self) {
        self.clock.advance(LONGEST);
        self.work().await;
    }

    pub(crate) async fn undelivered(&self) -> u64 {
        self.database.depth(QueueName::Alarms).await.unwrap().total
    }

    pub(crate) async fn dead(&self) -> Vec<DeadLetter> {
        self.database.list(Some(QueueName::Alarms), 100).await.unwrap()
    }
}

pub(crate) fn id(n: u8) -> String {
    EventId([n; 16]).to_string()
}
