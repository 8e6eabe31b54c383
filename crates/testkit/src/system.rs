//! The whole pipeline in one process: the real roles on a real file, the clock ticked by hand, every message
//! delivered twice.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "what a test stands on fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use keyturn_domain::admission::AdmissionPolicy;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::GroupId;
use keyturn_domain::join_type::JoinTypes;
use keyturn_domain::lane::{Lane, RotationPolicy};
use keyturn_domain::password::{Password, PasswordPolicy};
use keyturn_domain::policies::Policies;
use keyturn_domain::webhook::AlarmPolicy;
use keyturn_embedded::{Database, MasterKey, MasterKeys, OpenOptions, SealedVault};
use keyturn_ingress::{Ingress, Limits};
use keyturn_notifier::Notifier;
use keyturn_notifier::webhooks::{Secrets, Webhooks};
use keyturn_pipeline::handler::Handler;
use keyturn_pipeline::signing::{RemoteKey, ResultKey};
use keyturn_pipeline::worker::{Worker, WorkerSettings};
use keyturn_ports::directory::{DeviceRecord, DirectoryAdmin as _, Membership};
use keyturn_ports::ledger::{LedgerOperator as _, LedgerReader as _};
use keyturn_ports::queue::{Queue as _, QueueName};
use keyturn_ports::vault::VaultReader as _;
use keyturn_rotator::Rotator;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::finding::FindingKeys;
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_schemas::nonce::{Nonce, NonceKeys};
use keyturn_schemas::result::{self, Answer};
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::stamp::{Freshness, StampKeys};
use keyturn_schemas::ticket::TicketKeys;
use keyturn_validator::Validator;
use tempfile::TempDir;
use tower::ServiceExt as _;
use zeroize::Zeroizing;

use crate::clock::ManualClock;
use crate::device::FakeDevice;
use crate::entropy::SeededEntropy;
use crate::faults::{Faults, Faulty};
use crate::signer::P256;

/// The whole pipeline. When it is dropped, every queue must be empty.
pub struct System {
    /// The clock of all of it.
    pub clock: ManualClock,
    /// The engines, without faults.
    pub database: Database,
    /// The vault, without faults.
    pub vault: SealedVault,
    faults: Arc<Faults>,
    router: Router,
    workers: [Worker; 4],
    signing: ResultKey,
    left_over: u64,
    _folder: TempDir,
}

/// An answer of the device API.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// After how many seconds to come back, where it says so.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: String,
}

/// The deployment's name.
pub fn deployment() -> Deployment {
    "test".parse().expect("a name")
}

impl System {
    /// A pipeline whose engines have these faults.
    pub fn new(faults: Arc<Faults>) -> Self {
        let policies = Policies::of(PasswordPolicy::default(), RotationPolicy::default());
        Self::built(faults, &policies, Limits::default(), AdmissionPolicy::default(), None)
    }

    /// The same, whose answers are signed by a service.
    pub fn signed_elsewhere(faults: Arc<Faults>) -> Self {
        let policies = Policies::of(PasswordPolicy::default(), RotationPolicy::default());
        let key = P256::generate();
        let public = key.public("signing-2");
        let signer = Arc::new(Faulty { engine: key, faults: Arc::clone(&faults), twice: true });
        let signing = ResultKey::Elsewhere(RemoteKey::new(public, signer));
        Self::built(faults, &policies, Limits::default(), AdmissionPolicy::default(), Some(signing))
    }

    /// The same, whose devices come under these policies.
    pub fn with_policies(faults: Arc<Faults>, policies: &Policies) -> Self {
        Self::built(faults, policies, Limits::default(), AdmissionPolicy::default(), None)
    }

    /// The same, with an ingress that takes only so much.
    pub fn with_limits(faults: Arc<Faults>, limits: Limits, admission: AdmissionPolicy) -> Self {
        let policies = Policies::of(PasswordPolicy::default(), RotationPolicy::default());
        Self::built(faults, &policies, limits, admission, None)
    }

    fn built(
        faults: Arc<Faults>,
        policies: &Policies,
        limits: Limits,
        admission: AdmissionPolicy,
        signing: Option<ResultKey>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = ManualClock::default();
        let (time, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
            (Arc::new(clock.clone()), Arc::new(SeededEntropy::new(1)));
        let options =
            OpenOptions::new(folder.path().join("keyturn.db"), Arc::clone(&time), Arc::clone(&entropy));
        let database = Database::open(options).expect("a fresh file opens");
        let vault = vault(&database);
        let signing = signing.unwrap_or_else(|| {
            ResultKey::from(SigningKey::from_seed("signing-1", &[8; 32]).expect("a seed"))
        });
        let (time, entropy) = (&time, &entropy);
        let parts = Parts { faults: &faults, database: &database, time, entropy, limits, admission };
        let router = parts.router();
        let workers = [
            parts.worker(QueueName::Requests, parts.validator(policies)),
            parts.worker(QueueName::Findings, parts.rotator(&signing, policies.clone())),
            parts.worker(QueueName::Outcomes, Notifier::new(parts.faulty(database.clone()))),
            parts.worker(QueueName::Alarms, parts.webhooks()),
        ];
        Self { clock, database, vault, faults, router, workers, signing, left_over: 0, _folder: folder }
    }

    /// The device API, to be served on a socket.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Registers a device in the directory.
    pub async fn register(&self, device: &FakeDevice) {
        self.database.put(vec![device.record()]).await.expect("the directory takes records");
    }

    /// Puts a registered device into these groups of the directory, and no others.
    pub async fn join(&self, device: &FakeDevice, groups: &[GroupId]) {
        let groups = Some(groups.iter().map(|id| Membership { id: *id }).collect());
        let record = DeviceRecord { groups, ..device.record() };
        self.database.put(vec![record]).await.expect("the directory takes records");
    }

    /// A nonce of the device API.
    pub async fn nonce(&self) -> Nonce {
        self.clock.advance(Duration::from_millis(1));
        let reply = self.get("/v1/nonce").await.expect("nonces need no engine");
        let body: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
        body["nonce"].as_str().expect("a nonce").parse().expect("a nonce")
    }

    /// Posts a message as an agent does: the same bytes again until they are taken or refused. Returns the ticket,
    /// or what was answered instead.
    pub async fn post(&self, path: &str, message: &str) -> Result<String, Reply> {
        self.clock.advance(Duration::from_millis(1));
        for _ in 0..4 {
            let Some(reply) = self.try_send(path, message).await else { continue };
            match reply.status {
                StatusCode::ACCEPTED => {
                    let body: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
                    return Ok(body["ticket"].as_str().expect("a ticket").to_owned());
                }
                StatusCode::SERVICE_UNAVAILABLE => {}
                _ => return Err(reply),
            }
        }
        panic!("the message was never taken");
    }

    /// Posts a message once, whatever becomes of it.
    pub async fn send(&self, path: &str, message: &str) -> Reply {
        self.try_send(path, message).await.expect("the ingress does not die")
    }

    async fn try_send(&self, path: &str, message: &str) -> Option<Reply> {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/jose");
        self.call(request.body(Body::from(message.to_owned())).expect("a request")).await
    }

    /// Polls once.
    pub async fn poll(&self, ticket: &str) -> Reply {
        self.get(&format!("/v1/requests/{ticket}")).await.expect("polls are not cut off")
    }

    /// The signed answer that waits behind a ticket.
    pub async fn answer(&self, ticket: &str) -> Answer {
        let reply = self.poll(ticket).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
        result::verify(&reply.body, &[self.signing.public()]).expect("the answer is signed")
    }

    /// Lets the workers work until all queues are empty, across leases and delays.
    pub async fn settle(&mut self) {
        for _ in 0..60 {
            while self.step().await > 0 {}
            self.left_over = self.total(|depth| depth.total).await;
            if self.left_over == 0 {
                return;
            }
            self.clock.advance(Duration::from_secs(31));
        }
        panic!("the pipeline does not settle");
    }

    /// One step of every worker. Returns how many messages were handled.
    pub async fn step(&self) -> usize {
        let mut handled = 0;
        for worker in &self.workers {
            handled += tokio::select! {
                stepped = worker.step() => stepped.unwrap_or(0),
                () = self.faults.died.notified() => 0,
            };
        }
        handled
    }

    /// One step of the validator alone.
    pub async fn validate(&self) {
        self.workers[0].step().await.expect("the queue answers");
    }

    /// A whole rotation of a device: request, answer, account, report. Returns whether a version was set.
    pub async fn rotate(&mut self, device: &mut FakeDevice) -> bool {
        let request = device.request(self.nonce().await);
        let ticket = self.post("/v1/requests", &request).await.expect("the request is taken");
        self.settle().await;
        let applied = device.apply(&self.answer(&ticket).await);
        if applied {
            let report = device.report(self.nonce().await);
            self.post("/v1/reports", &report).await.expect("the report is taken");
            self.settle().await;
        }
        applied
    }

    /// Asks for a rotation.
    pub async fn force(&self, device: &FakeDevice) {
        self.database.force(device.id, self.clock.now()).await.expect("the ledger takes commands");
    }

    /// The lanes of a device.
    pub async fn lanes(&self, device: &FakeDevice) -> Vec<Lane> {
        self.database.lanes(device.id).await.expect("the ledger can be read")
    }

    /// The password of the only candidate of a device, which must be confirmed.
    pub async fn confirmed(&self, device: &FakeDevice) -> Password {
        let lanes = self.lanes(device).await;
        let [lane] = lanes.as_slice() else { panic!("{} lanes", lanes.len()) };
        let candidates = lane.candidates();
        let [only] = candidates.as_slice() else { panic!("{candidates:?}") };
        assert_eq!(
            lane.confirmed.map(|dated| dated.version),
            Some(only.version),
            "the candidate is confirmed"
        );
        let vault_ref = self.database.vault_ref(only.version).await.expect("readable").expect("issued");
        self.vault
            .read(lane.key.id(), only.version, &vault_ref)
            .await
            .expect("readable")
            .expect("in the vault")
    }

    /// Dead letters in all queues.
    pub async fn dead(&self) -> u64 {
        self.total(|depth| depth.dead).await
    }

    async fn total(&self, of: impl Fn(keyturn_ports::queue::Depth) -> u64) -> u64 {
        let mut total = 0;
        for queue in QueueName::ALL {
            total += of(self.database.depth(queue).await.expect("the queue tells its depth"));
        }
        total
    }

    async fn get(&self, path: &str) -> Option<Reply> {
        self.call(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    /// None if the ingress died on the way.
    async fn call(&self, request: Request<Body>) -> Option<Reply> {
        let answering = async {
            let response = self.router.clone().oneshot(request).await.expect("the router does not fail");
            let status = response.status();
            let retry_after = response.headers().get(header::RETRY_AFTER);
            let retry_after = retry_after.map(|wait| wait.to_str().expect("text").parse().expect("seconds"));
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            Reply { status, retry_after, body: String::from_utf8_lossy(&body).into_owned() }
        };
        tokio::select! {
            reply = answering => Some(reply),
            () = self.faults.died.notified() => None,
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.left_over, 0, "messages are left in the queues");
        }
    }
}

/// What roles are built from.
struct Parts<'a> {
    faults: &'a Arc<Faults>,
    database: &'a Database,
    time: &'a Arc<dyn Clock>,
    entropy: &'a Arc<dyn Entropy>,
    limits: Limits,
    admission: AdmissionPolicy,
}

fn vault(database: &Database) -> SealedVault {
    let master = MasterKeys::new([MasterKey::new(Zeroizing::new([9; 32]))]).expect("there is a key");
    SealedVault::new(database.clone(), master)
}

fn ring(seed: u8) -> KeyRing {
    KeyRing::new([(KeyId(1), [seed; 32])])
}

impl Parts<'_> {
    fn faulty<E>(&self, engine: E) -> Arc<Faulty<E>> {
        Arc::new(Faulty { engine, faults: Arc::clone(self.faults), twice: true })
    }

    fn router(&self) -> Router {
        let settings = keyturn_ingress::Settings {
            deployment: deployment(),
            name: "test".to_owned(),
            freshness: Freshness::default(),
            limits: self.limits,
            admission: self.admission.clone(),
        };
        let keys = keyturn_ingress::Keys {
            nonces: NonceKeys::new(ring(1)),
            stamps: StampKeys::new(ring(2)),
            tickets: TicketKeys::new(ring(3)),
            key_set: "none".to_owned(),
        };
        let ports = keyturn_ingress::Ports {
            intake: self.faulty(self.database.clone()),
            queue: self.faulty(self.database.clone()),
            results: Arc::new(self.database.clone()),
            ledger: self.faulty(self.database.clone()),
        };
        Ingress::new(settings, keys, ports, Arc::clone(self.time), Arc::clone(self.entropy)).router()
    }

    fn validator(&self, policies: &Policies) -> Validator {
        let settings = keyturn_validator::Settings {
            deployment: deployment(),
            join_types: JoinTypes::default(),
            freshness: Freshness::default(),
            groups: policies.directory_groups(),
        };
        let keys = keyturn_validator::Keys {
            nonces: NonceKeys::new(ring(1)),
            stamps: StampKeys::new(ring(2)),
            findings: FindingKeys::new(ring(4)),
        };
        Validator::new(settings, keys, self.faulty(self.database.clone()), Arc::clone(self.time))
    }

    fn rotator(&self, signing: &ResultKey, policies: Policies) -> Rotator {
        let settings = keyturn_rotator::Settings {
            deployment: deployment(),
            policies,
            freshness: Freshness::default(),
            finding_max_age: Duration::from_mins(10),
            result_ttl: Duration::from_hours(24),
        };
        let keys = keyturn_rotator::Keys {
            nonces: NonceKeys::new(ring(1)),
            stamps: StampKeys::new(ring(2)),
            findings: FindingKeys::new(ring(4)),
            signing: signing.clone(),
        };
        let ports = keyturn_rotator::Ports {
            ledger: self.faulty(self.database.clone()),
            reader: self.faulty(self.database.clone()),
            vault: self.faulty(vault(self.database)),
        };
        Rotator::new(settings, keys, ports, Arc::clone(self.time), Arc::clone(self.entropy))
    }

    /// Without receivers: alarms end at the notifier.
    fn webhooks(&self) -> Webhooks {
        let policy = AlarmPolicy::default();
        Webhooks::new(deployment(), &policy, Secrets::new(), Arc::clone(self.time))
            .expect("there is nothing to set up")
    }

    fn worker(&self, queue: QueueName, handler: impl Handler) -> Worker {
        Worker {
            queue: self.faulty(self.database.clone()),
            name: queue,
            handler: Arc::new(handler),
            settings: WorkerSettings::default(),
            clock: Arc::clone(self.time),
            entropy: Arc::clone(self.entropy),
        }
    }
}
