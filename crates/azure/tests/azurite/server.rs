//! A real Azurite with a clock that is ticked by hand.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_azure::StorageQueues;
use keyturn_azure::storage_queues::{Access, Endpoint};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::time::UnixMillis;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_testkit::azurite::{self, ACCOUNT, API_VERSION, KEY};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::Subject;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A running Azurite.
pub(crate) struct Azurite {
    server: azurite::Azurite,
    folder: TempDir,
    deployments: AtomicU32,
    http: reqwest::Client,
}

impl Azurite {
    /// Starts the one in the folder that KEYTURN_AZURITE names, in which npm installed it.
    pub(crate) async fn start() -> Self {
        Self::start_with(TempDir::new().unwrap(), &[]).await
    }

    /// Starts one that wants tokens of Entra ID, over HTTPS. Returns what its certificate chains to, in PEM, as well.
    pub(crate) async fn start_for_tokens() -> (Self, String) {
        let folder = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&key).unwrap().pem();
        let own = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &Issuer::new(authority, key)).unwrap();
        let [cert, private] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        fs::write(&cert, certificate.pem()).unwrap();
        fs::write(&private, own.serialize_pem()).unwrap();
        let paths = [cert.to_str().unwrap().to_owned(), private.to_str().unwrap().to_owned()];
        let wanted = ["--oauth", "basic", "--cert", &paths[0], "--key", &paths[1]];
        (Self::start_with(folder, &wanted).await, ca)
    }

    async fn start_with(folder: TempDir, more: &[&str]) -> Self {
        let clock = folder.path().join("clock");
        write(&clock, UnixMillis(0));
        let server = azurite::Azurite::start(more, Some(&clock)).await;
        Self {
            server,
            folder,
            deployments: AtomicU32::new(0),
            http: reqwest::Client::builder().build().unwrap(),
        }
    }

    /// What it takes to use it, for a deployment of its own.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint_over("http")
    }

    /// The same, for this scheme.
    pub(crate) fn endpoint_over(&self, scheme: &str) -> Endpoint {
        let url = self.server.url(scheme);
        let prefix = format!("d{}-", self.deployments.fetch_add(1, Ordering::Relaxed));
        let mut endpoint = Endpoint::new(&url, &prefix).unwrap();
        endpoint.poll = Duration::from_millis(20);
        endpoint.api_version = Some(API_VERSION.to_owned());
        endpoint
    }

    /// A clock that Azurite goes by.
    pub(crate) fn clock(&self) -> ManualClock {
        let path = self.folder.path().join("clock");
        ManualClock::default().followed(move |now| write(&path, now))
    }

    /// Puts a text on a queue, as another program does.
    pub(crate) async fn put(&self, queue: &str, text: &str) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
        let body = format!("<QueueMessage><MessageText>{escaped}</MessageText></QueueMessage>");
        let url = format!("{}&messagettl=-1", self.messages(queue));
        let sent = self.http.post(url).body(body).send().await.unwrap();
        assert_eq!(sent.status(), 201, "{}", sent.text().await.unwrap());
    }

    /// The first texts on a queue.
    pub(crate) async fn peek(&self, queue: &str) -> Vec<String> {
        let url = format!("{}&peekonly=true&numofmessages=32", self.messages(queue));
        let listed = self.http.get(url).send().await.unwrap().text().await.unwrap();
        let texts =
            listed.split("<MessageText>").skip(1).map(|rest| rest.split_once("</MessageText>").unwrap().0);
        texts.map(|text| text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).collect()
    }

    /// A queue's messages, with a signature that lets in everybody.
    fn messages(&self, queue: &str) -> String {
        format!("{}/{queue}/messages?{}", self.server.url("http"), signature("rwdlacup"))
    }

    /// A deployment of its own.
    pub(crate) fn deployment(&self) -> Deployment {
        Deployment::with(&self.endpoint(), self.clock())
    }
}

/// A signature of the account that permits this, each by its letter, as a query
/// (learn.microsoft.com/rest/api/storageservices/create-account-sas).
pub(crate) fn signature(permissions: &str) -> String {
    let (version, expiry) = ("2018-11-09", "2100-01-01T00:00:00Z");
    let to_sign = format!("{ACCOUNT}\n{permissions}\nq\nsco\n\n{expiry}\n\nhttp,https\n{version}\n");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signature = STANDARD.encode(hmac::sign(&key, to_sign.as_bytes()));
    let query = [
        ("sv", version),
        ("ss", "q"),
        ("srt", "sco"),
        ("sp", permissions),
        ("se", expiry),
        ("spr", "http,https"),
        ("sig", &signature),
    ];
    reqwest::Url::parse_with_params("http://localhost", query).unwrap().query().unwrap().to_owned()
}

fn write(path: &Path, now: UnixMillis) {
    // Whole or not at all: Azurite reads it at any time.
    let new = path.with_extension("new");
    fs::write(&new, now.0.to_string()).unwrap();
    fs::rename(&new, path).unwrap();
}

/// Queues on Azurite, and the file with the index of their dead letters.
pub(crate) struct Deployment {
    pub(crate) queues: StorageQueues,
    pub(crate) state: Database,
    pub(crate) clock: ManualClock,
    _folder: TempDir,
}

impl Deployment {
    pub(crate) fn with(endpoint: &Endpoint, clock: ManualClock) -> Self {
        let folder = TempDir::new().unwrap();
        let time = Arc::new(clock.clone());
        let path = folder.path().join("keyturn.db");
        let state = Database::open(OpenOptions::new(path, time.clone(), Arc::new(SystemEntropy))).unwrap();
        let access = Access::SharedKey { account: ACCOUNT.to_owned(), key: KEY.into() };
        let queues = StorageQueues::new(endpoint, &access, Arc::new(state.clone()), time).unwrap();
        Self { queues, state, clock, _folder: folder }
    }
}

impl Subject for Deployment {
    type Engine = StorageQueues;

    async fn fresh() -> Self {
        unreachable!("cases share an Azurite, which takes seconds to start")
    }

    fn engine(&self) -> &StorageQueues {
        &self.queues
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }
}
