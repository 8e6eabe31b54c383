//! The server, and an agent that speaks to it.

pub(crate) mod world;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use keyturn_agent::accounts::file::{Faults, FileAccounts};
use keyturn_agent::accounts::{Accounts as _, Verdict};
use keyturn_agent::identity::Identity;
use keyturn_agent::settings::Timing;
use keyturn_agent::{Agent, Deps, Settings};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, VersionId};
use keyturn_domain::journal::Journal;
use keyturn_domain::password::Password;
use keyturn_schemas::problem::Problem;
use keyturn_schemas::{claims, key_set};
use tokio::sync::Notify;

use self::world::{Keys, World};

pub(crate) const DEPLOYMENT: &str = "contoso";

/// Everything any test logs, at the finest level. No password may ever be in it.
static LOG: LazyLock<Arc<Mutex<Vec<u8>>>> = LazyLock::new(Arc::default);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) keys: Arc<Keys>,
    world: Arc<Mutex<World>>,
    heard: Arc<Notify>,
    folder: tempfile::TempDir,
}

/// What the handler needs.
#[derive(Clone)]
struct Shared {
    keys: Arc<Keys>,
    world: Arc<Mutex<World>>,
    heard: Arc<Notify>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        capture_log();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (keys, world) = (Arc::new(Keys::new()), Arc::<Mutex<World>>::default());
        let heard = Arc::<Notify>::default();
        let shared = Shared { keys: keys.clone(), world: world.clone(), heard: heard.clone() };
        let router = Router::new().fallback(serve).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, keys, world, heard, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Waits until the server has heard enough.
    pub(crate) async fn until(&self, enough: impl Fn(&World) -> bool) {
        loop {
            let next = self.heard.notified();
            if enough(&self.world()) {
                return;
            }
            next.await;
        }
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn settings(&self) -> Settings {
        let (certificate, key) = device();
        Settings {
            server: format!("http://{}", self.address).parse().unwrap(),
            ca: None,
            proxy: None,
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
            splay: Duration::ZERO,
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
            self.account(Faults::default()).find().unwrap().is_some_and(|found| found.mark.is_some());
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
        assert!(world.strays.is_empty(), "the agent left the device API: {:?}", world.strays);
        for secret in world.vault.values().chain(&world.tickets).chain(&world.posts) {
            assert!(!log.contains(secret.as_str()), "the log holds a secret: {secret}");
        }
    }
}

async fn serve(State(Shared { keys, world, heard }): State<Shared>, request: Request) -> Response {
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
        ("GET", ticket) if ticket.starts_with("/v1/requests/") => {
            assert!(wait, "polls say how long they wait");
            world.lock().unwrap().poll(&keys, path.strip_prefix("/v1/requests/").unwrap())
        }
        _ => {
            world.lock().unwrap().strays.push(path);
            answer(404, "text/plain", "")
        }
    };
    heard.notify_one();
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
