//! Serving HTTP with bounds on everything a stranger can make long: connections, heads, and the end.

mod share;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use keyturn_domain::network::{Client, Network};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use self::share::Shares;
pub use self::tls::{Tls, TlsError};

/// What a server puts up with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest head, in bytes.
    pub header_bytes: usize,
    /// How long a head, and a TLS handshake, may take.
    pub header_time: Duration,
    /// Connections held open at once. Further ones wait in the kernel's queue.
    pub connections: usize,
    /// Connections of one client held open at once. Further ones are closed unheard.
    pub connections_per_address: usize,
    /// Whoever is in these networks speaks for many, and has no share of its own.
    pub proxies: Vec<Network>,
    /// How long connections are given to finish when the server stops.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            header_bytes: 8192,
            header_time: Duration::from_secs(5),
            connections: 1024,
            connections_per_address: 1024,
            proxies: Vec::new(),
            drain: Duration::from_secs(10),
        }
    }
}

/// The smallest buffer for a head that hyper takes.
const LEAST_HEADER_BYTES: usize = 8192;

/// Serves `router` on `listener` until `stop`; then takes no more, and finishes what is under way.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let (open, connections) = (Arc::new(Semaphore::new(bounds.connections)), TaskTracker::new());
    let (shares, bounds) = (Shares::new(bounds.connections_per_address), Arc::new(bounds));
    loop {
        let accepting = async { (Arc::clone(&open).acquire_owned().await.ok(), listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let proxy = bounds.proxies.iter().any(|network| network.holds(peer.ip()));
                let share = if proxy { Some(None) } else { shares.take(Client::at(peer.ip())).map(Some) };
                let Some(share) = share else {
                    debug!(client.address = %peer.ip(), "a connection is closed: the client has too many");
                    continue;
                };
                let bounds = Arc::clone(&bounds);
                let connection = connection(stream, peer, tls.clone(), router.clone(), bounds, stop.clone());
                connections.spawn(async move {
                    connection.await;
                    drop((permit, share));
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(bounds.drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "connections were cut off: they did not finish in time");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    router: Router,
    bounds: Arc<Bounds>,
    stop: CancellationToken,
) {
    // Answers are small and complete; waiting to fill a packet only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(error = %error, "the connection is gone already");
    }
    match tls {
        None => speak(stream, peer, router, bounds, stop).await,
        Some(tls) => match tokio::time::timeout(bounds.header_time, tls.accept(stream)).await {
            Ok(Ok(stream)) => speak(stream, peer, router, bounds, stop).await,
            Ok(Err(error)) => debug!(error = %error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    router: Router,
    bounds: Arc<Bounds>,
    stop: CancellationToken,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_time)
        .max_buf_size(bounds.header_bytes.max(LEAST_HEADER_BYTES))
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %error, "a connection ended early");
    }
}
