//! A bare HTTPS server with hyper and rustls, and clients of it: what one exchange costs the server before anything is
//! done for it. The server is a process of its own, since its processor time alone is wanted.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves on one thread until it is killed.
pub(super) fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (config, pem) = config();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", serde_json::json!({ "address": listener.local_addr().unwrap(), "ca": pem }));
        std::io::stdout().flush().unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Clients that leave in the middle are not this server's concern.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let serving = hyper::server::conn::http1::Builder::new();
                drop(serving.serve_connection(TokioIo::new(stream), service_fn(answer)).await);
            });
        }
    });
}

/// Reads the body and answers as a ticket does in size.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let answer = format!("{{\"ticket\":\"{}\",\"read\":{body}}}", "x".repeat(64));
    Ok(Response::builder().status(202).body(Full::new(Bytes::from(answer))).unwrap())
}

/// As Keyturn serves: P-256, TLS 1.3, the server's order of suites with AES-128 first, no tickets.
fn config() -> (ServerConfig, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config =
        builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], der.into()).unwrap();
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    (config, certificate.pem())
}
