//! A receiver of webhooks on a real socket, which misbehaves as it is told.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "what a test stands on fails by panicking"
)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What is done with a delivery that came in whole.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answer with this status.
    Answer(u16),
    /// Answer 307 with this address.
    Redirect(String),
    /// Say nothing, until the other side goes away.
    Hang,
    /// Close the connection.
    Close,
    /// Answer 200, and send a body without end.
    Flood,
}

/// A delivery as it came in.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Delivery {
    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A receiver. It answers 204 to whatever no script is left for, and is gone when it is dropped.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Act>>,
    heard: Mutex<Vec<Delivery>>,
    rung: Notify,
}

impl Receiver {
    /// A receiver on a port of its own.
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().expect("an address")).await
    }

    /// A receiver at this address.
    pub async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Its address as a webhook.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What to do with the next deliveries, one each.
    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.shared.script.lock().expect("nobody panicked").extend(acts);
    }

    /// Everything that came in, in order.
    pub fn heard(&self) -> Vec<Delivery> {
        self.shared.heard.lock().expect("nobody panicked").clone()
    }

    /// Waits until so many deliveries came in.
    pub async fn wait_for(&self, count: usize) {
        loop {
            let rung = self.shared.rung.notified();
            if self.heard().len() >= count {
                return;
            }
            rung.await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with the receiver, and all connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        let shared = Arc::clone(&shared);
        connections.spawn(async move { drop(converse(stream, &shared).await) });
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    while let Some(delivery) = read(&mut stream).await? {
        shared.heard.lock().expect("nobody panicked").push(delivery);
        let act = shared.script.lock().expect("nobody panicked").pop_front();
        shared.rung.notify_waiters();
        let head = match act.unwrap_or(Act::Answer(204)) {
            Act::Answer(status) => format!("{status} x\r\ncontent-length: 0"),
            Act::Redirect(to) => format!("307 x\r\ncontent-length: 0\r\nlocation: {to}"),
            Act::Close => return Ok(()),
            Act::Hang => return stream.read_to_end(&mut Vec::new()).await.map(drop),
            Act::Flood => {
                stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await?;
                let body = vec![b'x'; 65_536];
                loop {
                    stream.write_all(&body).await?;
                }
            }
        };
        stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// One request, or none if the other side has gone. Strict: a POST with a length, and nothing else.
async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Delivery>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).expect("a head is text");
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("POST ") && first.ends_with(" HTTP/1.1"), "{first}");
    let pairs = lines.map(|line| line.split_once(": ").expect("a header"));
    let headers: BTreeMap<_, _> =
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).expect("a length");
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Delivery { headers, body: String::from_utf8(body).expect("a body is text") }))
}
