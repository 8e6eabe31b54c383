//! The server's side of TLS, with a certificate that is read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::expiry;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// A TLS server.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct TlsError {
    file: PathBuf,
    problem: String,
}

impl Tls {
    /// A server with the certificate and key in these PEM files. Until `stop`, they are read again when they
    /// change; files that cannot be used leave the certificate in use as it is, and a warning.
    pub fn open(certificate: &Path, key: &Path, stop: CancellationToken) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            provider: Arc::clone(&provider),
        };
        let current = Arc::new(Current(RwLock::new(Arc::new(files.read()?))));
        let failed =
            |error: rustls::Error| TlsError { file: certificate.to_owned(), problem: error.to_string() };
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ignore_client_order = true;
        // Devices come back in minutes at the earliest, when all of a fleet have been here. Tickets would be made, sent and kept
        // for nobody (docs/decisions/0065-a-rush.md).
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        tokio::spawn(files.watch(current, stop));
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

/// AWS-LC with AES-128-GCM first: its SHA-256 is done in hardware where SHA-384 is not, which makes handshakes a
/// quarter cheaper.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// When certificate and key were last changed.
type Seen = (Option<SystemTime>, Option<SystemTime>);

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
}

/// What is wrong with a PEM file, without what stands in it.
fn not_pem(what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("it cannot be read: {error}"),
        pem::Error::NoItemsFound => format!("there is no {what} in it, in PEM"),
        _ => format!("it is no {what} in PEM, or it was cut short"),
    }
}

impl Files {
    fn read(&self) -> Result<CertifiedKey, TlsError> {
        let problem = |file: &Path, problem: String| TlsError { file: file.to_owned(), problem };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| problem(&self.certificate, not_pem("certificate", &error)));
        let chain = chain?;
        if chain.is_empty() {
            return Err(problem(&self.certificate, "there is no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| problem(&self.key, not_pem("private key", &error)))?;
        let key = CertifiedKey::from_der(chain, key, &self.provider).map_err(|error| {
            let why = match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the key does not serve this certificate: it is the key of another one".to_owned()
                }
                other => format!("the key does not serve this certificate: {other}"),
            };
            problem(&self.key, why)
        })?;
        if let Some(ends) = expiry::of_chain(key.cert.iter().map(|link| &**link)) {
            expiry::note("server", ends);
        }
        Ok(key)
    }

    fn changed(&self) -> Seen {
        let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        (modified(&self.certificate), modified(&self.key))
    }

    async fn watch(self, current: Arc<Current>, stop: CancellationToken) {
        let mut seen = self.changed();
        while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
            self.refresh(&current, &mut seen);
        }
    }

    /// Reads the files again if they changed since they were `seen`.
    fn refresh(&self, current: &Current, seen: &mut Seen) {
        let now = self.changed();
        if now == *seen {
            return;
        }
        *seen = now;
        match self.read() {
            Ok(key) => {
                *current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                info!(file = %self.certificate.display(), "the server certificate was read again");
            }
            Err(error) => {
                warn!(error = %error, "the new server certificate cannot be used, the old one stays");
            }
        }
    }
}

#[cfg(test)]
mod tests;
