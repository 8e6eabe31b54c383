//! TLS and passwords, with a server on the network that takes nothing else.

#![expect(clippy::unwrap_used, reason = "a fixture fails the test it is made for")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_ports::audit::AuditSink as _;
use keyturn_postgres::{Database, Limits, OpenError, Settings, Times, Tls};
use keyturn_testkit::postgres::{Cluster, TestDatabase};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";

struct Server {
    database: TestDatabase,
    port: u16,
    folder: TempDir,
}

/// An authority of a test's own.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Server {
    /// A server whose certificate is for `localhost`, and a user with a password.
    fn start() -> Self {
        let database = TestDatabase::on(Cluster::private());
        database.sql(&format!(
            "CREATE ROLE keyturn LOGIN PASSWORD '{PASSWORD}'; ALTER DATABASE {} OWNER TO keyturn",
            database.name()
        ));
        let stored = database.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'keyturn'");
        assert!(stored.starts_with("SCRAM-SHA-256$"), "{stored}");
        let (authority, key) = (authority("ours"), KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        database.cluster().serve_tls(port, &certificate.pem(), &key.serialize_pem());
        let server = Self { database, port, folder: TempDir::new().unwrap() };
        server.file("roots.pem", &authority.pem());
        server.file("password", &format!("{PASSWORD}\n"));
        server
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn open(&self, host: &str, tls: Tls) -> Result<Database, OpenError> {
        let address = format!("postgresql://keyturn@{host}:{}/{}", self.port, self.database.name());
        let password = Some(self.folder.path().join("password"));
        let settings = Settings::new(&address, password, tls, Limits::default()).unwrap();
        let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        Database::make(&settings, clock.clone(), entropy.clone(), Times::Server)?;
        Database::open(&settings, clock, entropy, Times::Server)
    }

    fn verified(&self) -> Result<Database, OpenError> {
        self.open("localhost", verify_full(self.folder.path().join("roots.pem")))
    }
}

fn verify_full(roots: PathBuf) -> Tls {
    Tls::VerifyFull { roots: Some(roots) }
}

/// The error, which must be of this kind, tell this, and tell no password.
fn told(opened: Result<Database, OpenError>, is: fn(&OpenError) -> bool, said: &str) {
    let error = opened.unwrap_err();
    let text = format!("{error}");
    assert!(is(&error) && text.contains(said), "{text}");
    assert!(!format!("{text} {error:?}").contains(PASSWORD), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_proved_to_be_the_server_is_told_nothing() {
    let server = Server::start();
    // The server takes TLS with a password and nothing else, so this is both.
    let opened = server.verified().unwrap();
    assert!(opened.recent(1).await.unwrap().is_empty());

    let untrusted: fn(&OpenError) -> bool = |error| matches!(error, OpenError::Untrusted { .. });
    let denied: fn(&OpenError) -> bool = |error| matches!(error, OpenError::Denied { .. });
    for name in ["another", "ours"] {
        let other = server.file("other.pem", &authority(name).pem());
        told(server.open("localhost", verify_full(other)), untrusted, "state.postgres.roots");
    }
    let system = Tls::VerifyFull { roots: None };
    told(server.open("localhost", system), untrusted, "state.postgres.roots");
    let roots = || verify_full(server.folder.path().join("roots.pem"));
    told(server.open("127.0.0.1", roots()), untrusted, "for another name");
    told(server.open("localhost", Tls::Off), denied, "no encryption");

    let none = server.file("none.pem", "no certificate\n");
    let tls: fn(&OpenError) -> bool = |error| matches!(error, OpenError::Tls(_));
    told(server.open("localhost", verify_full(none)), tls, "there is no certificate in it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_read_at_each_connection() {
    let server = Server::start();
    let denied: fn(&OpenError) -> bool = |error| matches!(error, OpenError::Denied { .. });
    let opened = server.verified().unwrap();
    server.file("password", "wrong");
    told(server.verified(), denied, "password authentication failed");
    let error = opened.recent(1).await.unwrap_err();
    assert_eq!(error.kind(), keyturn_ports::Kind::Denied, "{error}");
    // As it is written back, a process that runs goes on by itself.
    let path = server.file("password", PASSWORD);
    assert!(opened.recent(1).await.unwrap().is_empty());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    told(server.verified(), denied, "is open to every user");
    fs::remove_file(&path).unwrap();
    told(server.verified(), denied, "cannot be read");
}
