//! The HTTP server against clients that are slow, greedy or late, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use keyturn_service::http::{Bounds, Tls, serve};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn start(router: Router, bounds: Bounds, tls: impl FnOnce(CancellationToken) -> Option<Tls>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let serving = tokio::spawn(serve(listener, tls(stop.clone()), router, bounds, stop.clone()));
    Server { address, stop, serving }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    request: &str,
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_off_and_others_are_served_meanwhile() {
    let bounds = Bounds { header_time: Duration::from_millis(200), ..Bounds::default() };
    let server = start(hello(), bounds, |_| None).await;
    let slow = TcpStream::connect(server.address).await.unwrap();
    let stuck = exchange(slow, "GET / HTTP/1.1\r\nhost: x\r\n");
    let quick = exchange(TcpStream::connect(server.address).await.unwrap(), GET);
    let (stuck, quick) = tokio::join!(stuck, quick);
    assert!(quick.ends_with("hello"), "{quick}");
    assert!(!stuck.contains("hello"), "{stuck}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(hello(), Bounds::default(), |_| None).await;
    for head in [format!("x: {}\r\n", "y".repeat(70_000)), "x: y\r\n".repeat(200)] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let answer = exchange(stream, &format!("GET / HTTP/1.1\r\nhost: x\r\n{head}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_under_way_is_finished_when_the_server_stops() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (signal, wait) = (Arc::clone(&entered), Arc::clone(&release));
    let slow = get(async move || {
        signal.notify_one();
        wait.notified().await;
        "done"
    });
    let server = start(Router::new().route("/", slow), Bounds::default(), |_| None).await;
    let answer = tokio::spawn(exchange(TcpStream::connect(server.address).await.unwrap(), GET));
    entered.notified().await;
    server.stop.cancel();
    release.notify_one();
    assert!(answer.await.unwrap().ends_with("done"));
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nothing is taken any more");
}

#[tokio::test]
async fn devices_are_served_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: &str| -> Box<Path> {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into()
    };
    let (certificate, key) =
        (write("certificate.pem", &cert.pem()), write("key.pem", &signing_key.serialize_pem()));
    let server =
        start(hello(), Bounds::default(), |stop| Some(Tls::open(&certificate, &key, stop).unwrap())).await;

    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert!(exchange(&mut stream, GET).await.ends_with("hello"));
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0, "nobody comes back soon enough to use one");
}
