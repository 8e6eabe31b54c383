//! TLS in front of a receiver, and a proxy on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyturn_domain::lane::Alarm;
use keyturn_testkit::receiver::Receiver;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::house::House;

/// A TLS listener that passes everything on to `inner`, and its certificate in PEM.
async fn listen(inner: SocketAddr, name: &str) -> (SocketAddr, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Whoever does not trust the certificate hangs up.
            let Ok(mut client) = acceptor.accept(client).await else { continue };
            let mut inner = TcpStream::connect(inner).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut client, &mut inner).await);
        }
    });
    (address, cert.pem())
}

/// A proxy that takes CONNECT and leads to `inner`, wherever it is asked to; and how often it was asked.
async fn proxy(inner: SocketAddr) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                client.read_buf(&mut head).await.unwrap();
            }
            assert!(
                head.starts_with(b"CONNECT alerts.example.org:443 "),
                "{}",
                String::from_utf8_lossy(&head)
            );
            count.fetch_add(1, Ordering::Relaxed);
            client.write_all(b"HTTP/1.1 200 x\r\n\r\n").await.unwrap();
            let mut inner = TcpStream::connect(inner).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut client, &mut inner).await);
        }
    });
    (format!("http://{address}"), asked)
}

/// Whether an alarm arrives at this address.
async fn arrives(receiver: &Receiver, url: String, ca: Option<String>, proxy: Option<String>) -> bool {
    let house = House::reaching_out(&[("on-call", url, &Alarm::ALL)], ca, proxy);
    let before = receiver.heard().len();
    house.raise(1, 7, Alarm::Clone).await;
    house.work().await;
    let arrived = receiver.heard().len() > before;
    assert_eq!(house.undelivered().await, u64::from(!arrived));
    arrived
}

#[tokio::test]
async fn only_receivers_with_a_certificate_to_trust_are_told() {
    let receiver = Receiver::start().await;
    let (address, ca) = listen(receiver.address, "127.0.0.1").await;
    let (_, other) = listen(receiver.address, "127.0.0.1").await;
    let (misnamed, wrong) = listen(receiver.address, "alerts.example.org").await;
    let url = |address| format!("https://{address}/hook");
    assert!(arrives(&receiver, url(address), Some(ca), None).await);
    assert!(!arrives(&receiver, url(address), Some(other), None).await, "another certificate");
    assert!(!arrives(&receiver, url(address), None, None).await, "the system does not know it");
    assert!(!arrives(&receiver, url(misnamed), Some(wrong), None).await, "another name");
}

#[tokio::test]
async fn a_proxy_is_taken_to_the_outside_alone() {
    let receiver = Receiver::start().await;
    let (address, ca) = listen(receiver.address, "alerts.example.org").await;
    let (proxy, asked) = proxy(address).await;
    let outside = "https://alerts.example.org/hook".to_owned();
    assert!(arrives(&receiver, outside, Some(ca), Some(proxy.clone())).await);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert!(arrives(&receiver, receiver.url(), None, Some(proxy)).await);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "this machine is reached without it");
}
