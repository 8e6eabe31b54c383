//! The device API on a socket of its own, and a client that sends any bytes.

use std::net::SocketAddr;
use std::time::Duration;

use keyturn_domain::admission::AdmissionPolicy;
use keyturn_ingress::Limits;
use keyturn_ports::queue::{Queue as _, QueueName};
use keyturn_service::http::{self, Bounds};
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::System;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough that only something that never happens takes longer.
const NEVER: Duration = Duration::from_secs(20);

/// How long slow clients are waited for in these tests.
const SHORT: Duration = Duration::from_millis(300);

/// A served pipeline.
pub(crate) struct Edge {
    pub(crate) system: System,
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// An answer, and what became of the connection.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Edge {
    pub(crate) async fn open() -> Self {
        Self::with(AdmissionPolicy::default(), Bounds::default()).await
    }

    /// One that waits for nobody.
    pub(crate) async fn impatient() -> Self {
        let bounds = Bounds { header_time: SHORT, ..Bounds::default() };
        Self::waiting(SHORT, AdmissionPolicy::default(), bounds).await
    }

    pub(crate) async fn with(admission: AdmissionPolicy, bounds: Bounds) -> Self {
        Self::waiting(Limits::default().body_time, admission, bounds).await
    }

    async fn waiting(body_time: Duration, admission: AdmissionPolicy, bounds: Bounds) -> Self {
        let limits = Limits { body_time, ..Limits::default() };
        let system = System::with_limits(Faults::none(), limits, admission);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let bounds = Bounds { drain: NEVER, ..bounds };
        let serving = tokio::spawn(http::serve(listener, None, system.router(), bounds, stop.clone()));
        Self { system, address, stop, serving }
    }

    /// Stops serving, and tells how many messages are on the `requests` queue once everything under way has ended.
    pub(crate) async fn close(self) -> u64 {
        let Self { system, stop, serving, .. } = self;
        stop.cancel();
        serving.await.unwrap();
        depth(&system).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes on a connection of their own and reads one answer.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read(&mut stream).await.unwrap()
    }

    /// Messages on the `requests` queue.
    pub(crate) async fn depth(&self) -> u64 {
        depth(&self.system).await
    }
}

async fn depth(system: &System) -> u64 {
    system.database.depth(QueueName::Requests).await.unwrap().total
}

/// A POST of a message.
pub(crate) fn post(path: &str, message: &str) -> String {
    with_headers(path, &["Content-Type: application/jose"], message)
}

/// A POST with these fields beside the length.
pub(crate) fn with_headers(path: &str, fields: &[&str], body: &str) -> String {
    let fields: String = fields.iter().flat_map(|field| [field, "\r\n"]).collect();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// One answer; None if the connection was closed without one.
pub(crate) async fn read(stream: &mut TcpStream) -> Option<Reply> {
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    return Some(Reply { status, head, body: body.to_owned() });
                }
            }
            // A reset is a close, from where we stand.
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    };
    tokio::time::timeout(NEVER, reading).await.unwrap()
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Asserts a problem of this code.
    pub(crate) fn is(&self, id: &str, status: u16, code: &str) {
        assert_eq!(self.status, status, "{id}: {self:?}");
        assert!(self.body.contains(code), "{id}: {self:?}");
    }
}
