//! A server with a certificate of an authority of its own.

#![expect(clippy::expect_used, reason = "what a test stands on fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A server; gone when it is dropped, with every connection.
#[derive(Debug)]
pub struct HttpsServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its certificate chains to, in PEM.
    pub ca: String,
    task: JoinHandle<()>,
}

impl HttpsServer {
    /// Serves what `router` makes of the server's own address, on this address; port 0 is any.
    pub(super) async fn serve(on: SocketAddr, router: impl FnOnce(SocketAddr) -> Router) -> Self {
        let listener = TcpListener::bind(on).await.expect("the address is free");
        let address = listener.local_addr().expect("it is bound");
        let (acceptor, ca) = certified();
        let router = router(address);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = TowerToHyperService::new(router);
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that goes away is no matter.
                    drop(serving.await);
                });
            }
        });
        Self { address, ca, task }
    }

    /// Its origin.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn certified() -> (TlsAcceptor, String) {
    let named = |name: &str, hosts: Vec<String>| {
        let mut params = CertificateParams::new(hosts).expect("names of hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = named("an authority of tests", Vec::new());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, key);
    let leaf_key = KeyPair::generate().expect("a key");
    let mut leaf = named("a fake of Azure", vec!["localhost".to_owned(), "127.0.0.1".to_owned()]);
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
    let chain = vec![CertificateDer::from(leaf.der().to_vec())];
    let key = PrivateKeyDer::try_from(leaf_key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), ca)
}
