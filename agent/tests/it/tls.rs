//! TLS in front of the same server: who is trusted, and who is not.

use std::net::SocketAddr;
use std::sync::Arc;

use keyturn_agent::accounts::file::Faults;
use keyturn_agent::{Agent, Deps, Error, Outcome};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::server::Server;

/// A TLS listener that passes everything on to `server`, and its certificate in PEM.
async fn listen(server: SocketAddr, names: &[&str]) -> (SocketAddr, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions();
    let config =
        config.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut inner = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut inner).await;
            });
        }
    });
    (address, cert.pem())
}

async fn run(server: &Server, address: SocketAddr, ca: Option<String>) -> Result<Outcome, Error> {
    let mut settings = server.settings();
    settings.server = format!("https://{address}").parse().unwrap();
    settings.ca = ca.map(String::into_bytes);
    Agent::new(settings, Deps::system(server.account(Faults::default())))?.once().await
}

#[tokio::test]
async fn the_pinned_authority_is_trusted() {
    let server = Server::start().await;
    let (address, ca) = listen(server.address, &["127.0.0.1"]).await;
    assert!(run(&server, address, Some(ca)).await.unwrap().is_success());
    server.check_settled();
}

#[tokio::test]
async fn strangers_are_not() {
    let server = Server::start().await;
    let (address, _) = listen(server.address, &["127.0.0.1"]).await;
    let (_, other) = listen(server.address, &["127.0.0.1"]).await;
    for ca in [None, Some(other)] {
        assert_eq!(run(&server, address, ca).await.unwrap_err().code(), "unreachable");
    }
    let (misnamed, ca) = listen(server.address, &["keyturn.example.org"]).await;
    assert_eq!(run(&server, misnamed, Some(ca)).await.unwrap_err().code(), "unreachable");
    assert!(server.world().posts.is_empty());
}

/// A proxy that takes CONNECT to anywhere, and tells what it was asked.
async fn proxy() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
                let target = line.split(' ').nth(1).unwrap().to_owned();
                tell.send(line).unwrap();
                let mut inner = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut inner).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn the_proxy_of_the_settings_is_used() {
    let server = Server::start().await;
    let (address, ca) = listen(server.address, &["127.0.0.1"]).await;
    let (proxy, mut asked) = proxy().await;
    let mut settings = server.settings();
    settings.server = format!("https://{address}").parse().unwrap();
    settings.ca = Some(ca.into_bytes());
    settings.proxy = Some(format!("http://{proxy}").parse().unwrap());
    let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
    assert!(agent.once().await.unwrap().is_success());
    assert_eq!(asked.recv().await.unwrap(), format!("CONNECT {address} HTTP/1.1"));
    server.check_settled();
}

#[tokio::test]
async fn proxies_of_the_environment_are_not() {
    let server = Server::start().await;
    let (address, ca) = listen(server.address, &["127.0.0.1"]).await;
    let (proxy, mut asked) = proxy().await;
    let config = crate::config::write(server.folder(), &format!("https://{address}"));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(server.folder().join("ca.pem"), ca).unwrap();
    std::fs::write(&config, text.replace("wait =", "ca = \"ca.pem\"\nwait =")).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyturn-agent"));
    command.arg("once").arg("--config").arg(config).env_remove("NO_PROXY").env_remove("no_proxy");
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, format!("http://{proxy}"));
    }
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(asked.try_recv().is_err(), "the environment chose the way");
    server.check_settled();
}
