//! A real Azurite with a clock that is ticked by hand.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keyturn_azure::StorageQueues;
use keyturn_azure::storage_queues::{Access, Endpoint};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::time::UnixMillis;
use keyturn_embedded::{Database, OpenOptions};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::Subject;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// The account that every Azurite has, and its key (learn.microsoft.com/azure/storage/common/storage-use-azurite).
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The newest version of the API that Azurite 3.35 knows.
const API_VERSION: &str = "2025-11-05";

/// A running Azurite.
pub(crate) struct Azurite {
    server: Child,
    port: u16,
    folder: TempDir,
    deployments: AtomicU32,
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
        let installed = std::env::var_os("KEYTURN_AZURITE").expect("KEYTURN_AZURITE: see ./test azurite");
        let program = PathBuf::from(installed).join("node_modules/azurite/dist/src/queue/main.js");
        let clock = folder.path().join("clock");
        write(&clock, UnixMillis(0));
        // Somebody else may get the port before Azurite has it; then it says so and the test fails.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Command::new("node")
            .arg("--require")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/azurite/clock.js"))
            .arg(&program)
            .args(["--queueHost", "127.0.0.1", "--queuePort", &port.to_string()])
            .args(["--silent", "--inMemoryPersistence", "--disableTelemetry"])
            .args(more)
            .env("KEYTURN_CLOCK", &clock)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let azurite = Self { server, port, folder, deployments: AtomicU32::new(0) };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return azurite;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Azurite does not start");
    }

    /// What it takes to use it, for a deployment of its own.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint_over("http")
    }

    /// The same, for this scheme.
    pub(crate) fn endpoint_over(&self, scheme: &str) -> Endpoint {
        let url = format!("{scheme}://127.0.0.1:{}/{ACCOUNT}", self.port);
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

    /// A deployment of its own.
    pub(crate) fn deployment(&self) -> Deployment {
        Deployment::with(&self.endpoint(), self.clock())
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
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
