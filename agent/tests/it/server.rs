//! The server, and an agent that speaks to it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use keyturn_agent::accounts::file::{Faults, FileAccounts};
use keyturn_agent::accounts::{Accounts, Verdict};
use keyturn_agent::identity::Identity;
use keyturn_agent::settings::Timing;
use keyturn_agent::{Agent, Deps, Settings};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, RequestId, VersionId};
use keyturn_domain::journal::Journal;
use keyturn_domain::lane::{Heard, HeardKind, Lane, Order, Reply, Reported, RotationPolicy, decide, minted};
use keyturn_domain::password::{Password, PasswordPolicy};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::claims::{self, EphemeralKey, Version1};
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_schemas::message::{Claims, SignedMessage, VerifiedMessage};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::problem::Problem;
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::seal::{self, Binding};
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::ticket::TicketKeys;

pub(crate) const DEPLOYMENT: &str = "contoso";

/// Everything any test logs, at the finest level. No password may ever be in it.
static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(Arc::default);

pub(crate) struct Keys {
    pub(crate) root: SigningKey,
    pub(crate) signing: SigningKey,
    nonce: NonceKeys,
    ticket: TicketKeys,
}

/// What goes wrong with one post, the first of the queue with the next post.
#[derive(Debug)]
pub(crate) enum PostTrick {
    /// It is taken, and the answer is lost.
    LoseAnswer,
    /// It is not taken: the nonce is stale, and here is another.
    StaleNonce,
    /// The server is busy for this many seconds.
    Busy(u64),
    /// Anything else.
    Answer(u16, &'static str, &'static str),
}

/// What goes wrong with one poll.
pub(crate) enum PollTrick {
    /// Not yet.
    Pending,
    /// The server does not know the ticket.
    Gone,
    /// An unsigned refusal.
    Forbidden,
    /// Whatever this makes of the genuine answer.
    Forge(Forgery),
}

pub(crate) type Forgery = fn(&Genuine<'_>) -> Response;

/// The genuine answer, for those who forge another.
pub(crate) struct Genuine<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) answer: Answer,
    pub(crate) text: String,
    pub(crate) password: String,
    pub(crate) epk: Option<EphemeralKey>,
}

/// What the server remembers.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) vault: BTreeMap<VersionId, String>,
    pub(crate) posts: Vec<String>,
    pub(crate) claims: Vec<Claims>,
    pub(crate) on_post: VecDeque<PostTrick>,
    pub(crate) on_poll: VecDeque<PollTrick>,
    /// Plays the last poll trick for ever.
    pub(crate) sticky: bool,
    answers: BTreeMap<RequestId, (Answer, Option<EphemeralKey>)>,
    tickets: Vec<String>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) keys: Arc<Keys>,
    world: Arc<Mutex<World>>,
    folder: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        let ring = |byte| KeyRing::new([(KeyId(1), [byte; 32])]);
        Self {
            root: SigningKey::from_seed("root-1", &[1; 32]).unwrap(),
            signing: SigningKey::from_seed("signing-1", &[2; 32]).unwrap(),
            nonce: NonceKeys::new(ring(3)),
            ticket: TicketKeys::new(ring(4)),
        }
    }

    fn nonce(&self) -> String {
        self.nonce.issue(SystemClock.now(), &SystemEntropy).unwrap().to_string()
    }

    fn key_set(&self) -> String {
        let keys = vec![self.signing.public()];
        let (deployment, not_after) =
            (DEPLOYMENT.parse().unwrap(), SystemClock.now().plus(Duration::from_hours(1)));
        let not_after = UnixMillis(not_after.0 / 3_600_000 * 3_600_000 + 7_200_000);
        key_set::sign(&KeySet { v: Version1, deployment, serial: 1, keys, not_after }, &self.root).unwrap()
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        capture_log();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (keys, world) = (Arc::new(Keys::new()), Arc::<Mutex<World>>::default());
        let router = Router::new().fallback(serve).with_state((keys.clone(), world.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, keys, world, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn settings(&self) -> Settings {
        let (certificate, key) = device();
        Settings {
            server: format!("http://{}", self.address).parse().unwrap(),
            ca: None,
            deployment: DEPLOYMENT.parse().unwrap(),
            root: self.keys.root.public(),
            device: device_id(),
            identity: Arc::new(Identity::from_der(certificate, key).unwrap()),
            state: self.folder().join("state"),
            labels: claims::Labels::default(),
            machine: None,
            create_account: true,
            wait: Duration::from_secs(20),
            check_in: Duration::from_hours(1),
            timing: Timing {
                unknown_post: Duration::from_millis(300),
                gap: Duration::from_millis(4),
                long_poll: Duration::from_secs(1),
                report_wait: Duration::from_secs(2),
                connect: Duration::from_secs(2),
                retry: Duration::from_millis(4),
                patience: Duration::from_millis(50),
            },
        }
    }

    pub(crate) fn account(&self, faults: Faults) -> Arc<FileAccounts> {
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        let account =
            FileAccounts::new(self.folder().join("account.json"), label("lapsadmin"), clock, entropy);
        Arc::new(account.danger_iterations(NonZeroU32::MIN).faulty(faults))
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent::new(self.settings(), Deps::system(self.account(Faults::default()))).unwrap()
    }

    pub(crate) fn journal(&self) -> Journal {
        keyturn_agent::journal_file::JournalFile::new(&self.folder().join("state"))
            .peek()
            .unwrap()
            .unwrap_or_default()
    }

    /// The version the account really has, if it is one of ours.
    pub(crate) fn real(&self) -> Option<VersionId> {
        let account = self.account(Faults::default());
        let has = |text: &str| {
            account.verify(&Password::new(text.to_owned())).is_ok_and(|v| v == Verdict::Accepted)
        };
        self.world().vault.iter().find(|(_, text)| has(text)).map(|(version, _)| *version)
    }

    /// What must hold whatever happened: what the account has is in the vault, and the journal allows it.
    pub(crate) fn check(&self) {
        let touched =
            self.account(Faults::default()).find().unwrap().is_some_and(|found| found.last_set.is_some());
        let real = self.real();
        assert!(!touched || real.is_some(), "the account has a password that is not in the vault");
        let journal = self.journal();
        assert!(real.is_none_or(|real| journal.allows(real)), "{real:?} is not in {journal:?}");
    }

    /// What must hold when faults have stopped: account, journal and ledger agree.
    pub(crate) fn check_settled(&self) {
        self.check();
        let real = self.real().expect("a password of ours is set");
        assert_eq!(self.journal().cur, Some(real));
        let world = self.world();
        let [lane] = &world.lanes[..] else { panic!("one lane, not {}", world.lanes.len()) };
        assert_eq!(lane.confirmed.map(|dated| dated.version), Some(real));
        assert_eq!(lane.outstanding, None);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
        let world = self.world();
        for secret in world.vault.values().chain(&world.tickets).chain(&world.posts) {
            assert!(!log.contains(secret.as_str()), "the log holds a secret: {secret}");
        }
    }
}

async fn serve(State((keys, world)): State<(Arc<Keys>, Arc<Mutex<World>>)>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let wait = request.headers().get("prefer").is_some();
    let kind = request.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let method = request.method().as_str().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 16 * 1024).await.unwrap();
    let response = match (method.as_str(), path.as_str()) {
        ("GET", "/v1/nonce") => answer(200, "application/json", format!(r#"{{"nonce":"{}"}}"#, keys.nonce())),
        ("POST", "/v1/requests" | "/v1/reports") => {
            assert_eq!(kind.as_deref(), Some("application/jose"));
            let (response, lost) =
                world.lock().unwrap().post(&keys, String::from_utf8(body.to_vec()).unwrap());
            if lost {
                tokio::time::sleep(Duration::from_hours(1)).await;
            }
            response
        }
        ("GET", _) => {
            assert!(wait, "polls say how long they wait");
            world.lock().unwrap().poll(&keys, path.strip_prefix("/v1/requests/").unwrap())
        }
        _ => panic!("{method} {path} is not part of the device API"),
    };
    with_headers(response, &keys)
}

fn with_headers(mut response: Response, keys: &Keys) -> Response {
    let headers = response.headers_mut();
    headers.insert("replay-nonce", keys.nonce().parse().unwrap());
    headers.insert(key_set::HEADER, keys.key_set().parse().unwrap());
    response
}

pub(crate) fn answer(status: u16, kind: &str, body: impl Into<Body>) -> Response {
    Response::builder().status(status).header("content-type", kind).body(body.into()).unwrap()
}

pub(crate) fn problem(status: u16, code: &str) -> Response {
    let problem = Problem::new(status, code, "A problem").detail("of the test's making");
    answer(status, "application/problem+json", serde_json::to_vec(&problem).unwrap())
}

impl World {
    fn post(&mut self, keys: &Keys, text: String) -> (Response, bool) {
        self.posts.push(text.clone());
        let trick = self.on_post.pop_front();
        match trick {
            Some(PostTrick::StaleNonce) => return (problem(401, "KT-0108"), false),
            Some(PostTrick::Busy(seconds)) => {
                let mut busy = problem(503, "KT-0103");
                busy.headers_mut().insert("retry-after", seconds.into());
                return (busy, false);
            }
            Some(PostTrick::Answer(status, kind, body)) => return (answer(status, kind, body), false),
            Some(PostTrick::LoseAnswer) | None => {}
        }
        let message = SignedMessage::parse(text).unwrap().verify().unwrap();
        let ticket = self.take(keys, &message);
        let accepted = answer(202, "application/json", format!(r#"{{"ticket":"{ticket}"}}"#));
        (accepted, trick.is_some())
    }

    /// What ingress, validator and rotator do, without the queues between them.
    fn take(&mut self, keys: &Keys, message: &VerifiedMessage) -> String {
        let (rid, claims) = (message.message().rid(), message.message().claims().clone());
        let ticket = keys.ticket.ticket(rid).unwrap();
        self.tickets.push(ticket.clone());
        if self.answers.contains_key(&rid) {
            return ticket;
        }
        let common = claims.common();
        let now = SystemClock.now();
        assert!(keys.nonce.is_fresh(&common.nonce, now, Duration::from_mins(5)), "a fresh nonce of ours");
        assert_eq!(common.aud.as_str(), DEPLOYMENT);
        assert_eq!(
            (common.device_id, message.message().certificate().common_name()),
            (device_id(), Some(device_id()))
        );
        assert!(self.claims.iter().all(|seen| seen.common().jti != common.jti), "a mark is used once");
        assert!(self.claims.iter().all(|seen| seen.common().nonce != common.nonce), "a nonce is used once");
        let answer = self.decide(message, now);
        self.claims.push(claims);
        self.answers.insert(rid, answer);
        ticket
    }

    fn decide(&mut self, message: &VerifiedMessage, now: UnixMillis) -> (Answer, Option<EphemeralKey>) {
        let policy = RotationPolicy::default();
        let heard = self.hear(message, now);
        let decision = decide(&self.lanes, &heard, &policy, now);
        let known = self.lanes.iter().position(|lane| lane.key == heard.key);
        let epk = match message.message().claims() {
            Claims::Request(request) => Some(request.epk),
            _ => None,
        };
        let (mut code, mut retry_at, mut version) = (Code::Recorded, None, None);
        let mut lane = decision.lane;
        match decision.reply {
            Reply::Mint(reason) => {
                let fresh = VersionId::draw(&SystemEntropy);
                let password = PasswordPolicy::default().generate(&SystemEntropy);
                self.vault.insert(fresh, password.expose().to_owned());
                minted(lane.as_mut().unwrap(), fresh, reason, &policy, now);
                (code, version) = (Code::Rotate, Some(fresh));
            }
            Reply::Reseal(outstanding) => (code, version) = (Code::Rotate, Some(outstanding)),
            Reply::NotDue(at) => (code, retry_at) = (Code::NotDue, Some(at)),
            Reply::Held(at) => (code, retry_at) = (Code::Held, Some(at)),
            Reply::Recorded => {}
            Reply::Stale => code = Code::Stale,
            Reply::Expired => code = Code::Expired,
            Reply::Refused | Reply::Revalidate => code = Code::Refused,
        }
        match (lane, known) {
            (Some(lane), Some(at)) => self.lanes[at] = lane,
            (Some(lane), None) => self.lanes.push(lane),
            (None, _) => {}
        }
        let rid = message.message().rid();
        (self.say(rid, &heard, code, retry_at, version.zip(epk)), epk)
    }

    fn hear(&self, message: &VerifiedMessage, now: UnixMillis) -> Heard {
        let claims = message.message().claims();
        let (kind, hints) = match claims {
            Claims::Request(request) => (HeardKind::Request { wait: request.wait() }, request.policy),
            Claims::Report(report) => (HeardKind::Report, report.policy),
            Claims::Event(_) => panic!("no event was expected"),
        };
        let state = claims.state().unwrap().clone();
        let named = state.cur.iter().chain(&state.in_doubt).chain(&state.refused);
        let issued = named.filter(|version| self.vault.contains_key(version)).copied().collect();
        let claims::State { cur, in_doubt, refused, account_missing, .. } = state;
        Heard {
            key: message.lane(),
            kind,
            order: Order { received: now, nonce: claims.common().nonce.issued() },
            state: Reported { cur, in_doubt, refused, account_missing, issued },
            hints,
            about: claims.common().about(),
            directory_answered: now,
        }
    }

    fn say(
        &self,
        rid: RequestId,
        heard: &Heard,
        code: Code,
        retry_at: Option<UnixMillis>,
        enclosed: Option<(VersionId, EphemeralKey)>,
    ) -> Answer {
        let lane = heard.key.id();
        let enclose = |(version, epk): (VersionId, EphemeralKey)| {
            let password = Password::new(self.vault[&version].clone());
            let sealed = seal::seal(&password, &Binding { rid, lane, version }, &epk).unwrap();
            Enclosed::new(version, epk.thumbprint(), &sealed)
        };
        Answer {
            v: Version1,
            deployment: DEPLOYMENT.parse().unwrap(),
            rid,
            lane,
            code,
            retry_at,
            issued_at: SystemClock.now(),
            enclosed: enclosed.map(enclose),
        }
    }

    fn poll(&mut self, keys: &Keys, ticket: &str) -> Response {
        let rid = keys.ticket.open(ticket).expect("a ticket of ours");
        let (genuine, epk) = self.answers[&rid].clone();
        let text = result::sign(&genuine, &keys.signing).unwrap();
        let trick = self.on_poll.pop_front();
        let response = match &trick {
            None => answer(200, "application/jose", text),
            Some(PollTrick::Pending) => answer(202, "application/json", "{}"),
            Some(PollTrick::Gone) => problem(404, "KT-0110"),
            Some(PollTrick::Forbidden) => problem(403, "KT-0111"),
            Some(PollTrick::Forge(forge)) => {
                let password =
                    genuine.enclosed.as_ref().map(|enclosed| self.vault[&enclosed.version].clone());
                forge(&Genuine { keys, answer: genuine, text, password: password.unwrap_or_default(), epk })
            }
        };
        if self.sticky && self.on_poll.is_empty() {
            self.on_poll.extend(trick);
        }
        response
    }

    /// Asks for a rotation, as an operator would.
    pub(crate) fn force(&mut self) {
        for lane in &mut self.lanes {
            lane.forced = Some(UnixMillis(1));
        }
    }
}

pub(crate) fn label(text: &str) -> keyturn_domain::label::Label {
    keyturn_domain::label::Label::parse(text).unwrap()
}

pub(crate) fn device_id() -> DeviceId {
    "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11".parse().unwrap()
}

/// A device's certificate and PKCS#8 key, made once: RSA keys take their time.
pub(crate) fn device() -> &'static (Vec<u8>, Vec<u8>) {
    static DEVICE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    DEVICE.get_or_init(|| {
        let key =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, device_id().to_string());
        let certificate = params.self_signed(&key).unwrap();
        (certificate.der().to_vec(), key.serialize_der())
    })
}

fn capture_log() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let writer = || Capture(LOG.clone());
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(writer)
            .init();
    });
}

pub(crate) fn log() -> String {
    String::from_utf8(LOG.lock().unwrap().clone()).unwrap()
}

struct Capture(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Random bytes, for tests that need a value and do not care which.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let entropy: &dyn Entropy = &SystemEntropy;
    entropy.bytes()
}
