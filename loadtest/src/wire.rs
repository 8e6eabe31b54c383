//! HTTP to the device API, over TLS: connections that are measured, and replies of which only what a device reads is
//! kept.

mod verifier;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderName, Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use url::Url;

use self::verifier::Remembering;
use crate::scenario::Connections;

/// The largest answer that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Connections that are being opened at once. Each device has a processor of its own and here they share one: of more than it
/// can bring to an end in the time that a server gives for a handshake, none would come to its end.
const OPENING: usize = 1024;

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
const KEY_SET: HeaderName = HeaderName::from_static(keyturn_schemas::key_set::HEADER);

/// A server, and how connections to it are made and kept.
pub struct Wire {
    address: SocketAddr,
    host: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connections: Connections,
    opening: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

/// A connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

/// One exchange.
pub struct Call<'a> {
    /// The path.
    pub path: &'a str,
    /// A signed message to post; none to get.
    pub message: Option<Bytes>,
    /// How long the server may hold the answer back.
    pub wait: Duration,
}

/// An answer.
pub struct Reply {
    /// The status.
    pub status: u16,
    /// `Replay-Nonce`.
    pub nonce: Option<String>,
    /// The key set.
    pub key_set: Option<String>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
}

impl Wire {
    /// A server at `url`. `ca` is the PEM file of the certificates that its own must chain to; plain HTTP is spoken to
    /// `http` addresses.
    pub fn new(url: &Url, ca: Option<&std::path::Path>, connections: Connections) -> Result<Self> {
        let name = url.host_str().with_context(|| format!("{url}: no host"))?.to_owned();
        let port = url.port_or_known_default().with_context(|| format!("{url}: no port"))?;
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let address = (bare, port).to_socket_addrs().with_context(|| format!("{name}: not found"))?.next();
        let address = address.with_context(|| format!("{name}: has no address"))?;
        let tls = match (url.scheme(), ca) {
            ("http", _) => None,
            ("https", Some(ca)) => Some((connector(ca)?, ServerName::try_from(bare.to_owned())?)),
            ("https", None) => bail!("{url}: say with --ca whose certificates are trusted (PEM)"),
            _ => bail!("{url}: neither https nor http"),
        };
        let (host, opening) = (format!("{name}:{port}"), Semaphore::new(OPENING));
        Ok(Self { address, host, tls, connections, opening, idle: Mutex::default() })
    }

    /// A connection as the policy has it: a fresh one, or a kept one that is still open.
    pub async fn connect(&self) -> Result<Connection> {
        if self.connections == Connections::Shared {
            loop {
                let Some(mut kept) = self.idle().pop() else { break };
                if kept.sender.ready().await.is_ok() {
                    return Ok(kept);
                }
            }
        }
        let _place = self.opening.acquire().await?;
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some((connector, name)) => open(connector.connect(name.clone(), stream).await?).await,
            None => open(stream).await,
        }
    }

    /// Gives a connection back after a rotation.
    pub fn give_back(&self, connection: Connection) {
        if self.connections == Connections::Shared && !connection.sender.is_closed() {
            self.idle().push(connection);
        }
    }

    /// Exchanges a call for a reply. A connection that the policy or the server has closed is replaced first.
    pub async fn exchange(&self, connection: &mut Option<Connection>, call: &Call<'_>) -> Result<Reply> {
        let kept = match connection.take() {
            Some(kept) => self.still_good(kept).await,
            None => None,
        };
        let mut open = match kept {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let reply = self.send(&mut open, call).await;
        // Nobody holds a connection between two exchanges who does not use it again.
        *connection = (reply.is_ok() && self.connections != Connections::Exchange).then_some(open);
        reply
    }

    async fn still_good(&self, mut kept: Connection) -> Option<Connection> {
        kept.sender.ready().await.is_ok().then_some(kept)
    }

    async fn send(&self, connection: &mut Connection, call: &Call<'_>) -> Result<Reply> {
        let method = if call.message.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(call.path).header(HOST, &self.host);
        if call.message.is_some() {
            request = request.header(CONTENT_TYPE, "application/jose");
        }
        if !call.wait.is_zero() {
            request = request.header("prefer", format!("wait={}", call.wait.as_secs()));
        }
        let body = Full::new(call.message.clone().unwrap_or_default());
        let (head, body) = connection.sender.send_request(request.body(body)?).await?.into_parts();
        let text = |name: &HeaderName| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
        let collected = Limited::new(body, MAX_BODY).collect().await;
        let body = collected.map_err(|why| anyhow::anyhow!("the answer's body: {why}"))?.to_bytes();
        Ok(Reply {
            status: head.status.as_u16(),
            nonce: text(&REPLAY_NONCE),
            key_set: text(&KEY_SET),
            retry_after: text(&RETRY_AFTER).and_then(|after| after.parse().ok()).map(Duration::from_secs),
            body,
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open<S>(stream: S) -> Result<Connection>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends when the sender is dropped or the server closes; the next call on it tells.
    tokio::spawn(connection);
    Ok(Connection { sender })
}

/// TLS without resumption: devices that come every few days have no ticket that still holds.
fn connector(ca: &std::path::Path) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in
        CertificateDer::pem_file_iter(ca).with_context(|| format!("{}: cannot be read", ca.display()))?
    {
        roots.add(certificate.with_context(|| format!("{}: not PEM", ca.display()))?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Remembering::new(roots, Arc::clone(&provider))?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    const LONG: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn no_more_connections_are_being_opened_at_once_than_can_be_brought_to_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&ca, made.cert.pem()).unwrap();
        // Nobody answers here, so no handshake comes to its end by itself.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
        let wire = Wire::new(&url, Some(&ca), Connections::Exchange).unwrap();
        let wire = Arc::new(Wire { opening: Semaphore::new(3), ..wire });
        let mut devices = JoinSet::new();
        for _ in 0..5 {
            let wire = Arc::clone(&wire);
            devices.spawn(async move { wire.connect().await.is_ok() });
        }
        let mut arrived = Vec::new();
        while let Ok(accepted) = tokio::time::timeout(LONG, listener.accept()).await {
            arrived.push(accepted.unwrap().0);
        }
        assert_eq!(arrived.len(), 3);
        let mut hello = [0; 3];
        arrived[0].read_exact(&mut hello).await.unwrap();
        assert_eq!(hello[0], 22, "each has begun its handshake");
        // One that ends without success leaves its place to the next.
        drop(arrived.pop());
        assert!(tokio::time::timeout(LONG, listener.accept()).await.is_ok());
        assert!(!devices.join_next().await.unwrap().unwrap());
    }
}
