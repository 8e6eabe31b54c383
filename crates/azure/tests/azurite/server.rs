//! A real Azurite with a clock that is ticked by hand.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
        Self { server, folder, deployments: AtomicU32::new(0) }
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

    /// A deployment of its own.
    pub(crate) fn deployment(&self) -> Deployment {
        Deployment::with(&self.endpoint(), self.clock())
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
