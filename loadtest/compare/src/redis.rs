//! Redis Streams, with a log that is on the disk before it answers: `appendonly yes`, `appendfsync always`.

use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::Result;
use crate::flow::{self, BATCH, Broker, CONSUMERS, Figures};
use crate::servers::{self, Server};

/// Producers share one connection, as Redis clients do: what is waiting goes in one write. Each consumer has its own.
struct Redis {
    producers: Connection,
    consumers: Vec<Mutex<Connection>>,
}

pub async fn round(length: Duration) -> Result<Figures> {
    let (folder, port) = (servers::folder()?, servers::free_port()?);
    let mut command = Command::new(servers::program(&["/usr/bin/redis-server"], "redis-server")?);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", "always", "--dir"]).arg(folder.path());
    let server = Server::start(command, folder, port)?;
    let producers = Connection::open(port).await?;
    producers.call(&["XGROUP", "CREATE", "q", "g", "0", "MKSTREAM"]).await?;
    let mut consumers = Vec::new();
    for _ in 0..CONSUMERS {
        consumers.push(Mutex::new(Connection::open(port).await?));
    }
    flow::load(Redis { producers, consumers }, Some(server.pid()), length).await
}

impl Broker for Redis {
    type Lease = String;

    async fn push(&self, _: usize) -> Result<()> {
        self.producers.call(&["XADD", "q", "*", "b", &flow::body()]).await.map(drop)
    }

    async fn work(&self, consumer: usize, done: Vec<String>) -> Result<Vec<String>> {
        let connection = self.consumers[consumer].lock().await;
        let (count, name) = (BATCH.to_string(), consumer.to_string());
        let read = ["XREADGROUP", "GROUP", "g", &name, "COUNT", &count, "STREAMS", "q", ">"];
        if done.is_empty() {
            return Ok(ids(connection.call(&read).await?));
        }
        let ids_of = |head: &[&'static str]| -> Vec<String> {
            head.iter().map(|word| (*word).to_owned()).chain(done.iter().cloned()).collect()
        };
        let (ack, gone) = (ids_of(&["XACK", "q", "g"]), ids_of(&["XDEL", "q"]));
        let words =
            |command: &Vec<String>| connection.send(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let (ack, gone, read) = (words(&ack), words(&gone), connection.send(&read));
        ack.await?;
        gone.await?;
        Ok(ids(read.await?))
    }
}

/// The ids of entries: `[[stream, [[id, fields], ...]]]`.
fn ids(value: Value) -> Vec<String> {
    let list = |value: Value| if let Value::List(list) = value { list } else { Vec::new() };
    let entries = list(value).into_iter().flat_map(list).nth(1).map(list).unwrap_or_default();
    let id = |entry| match list(entry).into_iter().next() {
        Some(Value::Text(id)) => Some(id),
        _ => None,
    };
    entries.into_iter().filter_map(id).collect()
}

/// A value of RESP2.
enum Value {
    Text(String),
    List(Vec<Value>),
    Nothing,
}

type Answer = oneshot::Sender<Result<Value>>;

struct Connection {
    requests: mpsc::UnboundedSender<(Vec<u8>, Answer)>,
}

impl Connection {
    async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let (requests, mut waiting) = mpsc::unbounded_channel::<(Vec<u8>, Answer)>();
        let (asked, mut answers) = mpsc::unbounded_channel::<Answer>();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, 256).await > 0 {
                let mut bytes = Vec::new();
                for (request, answer) in batch.drain(..) {
                    bytes.extend(request);
                    if asked.send(answer).is_err() {
                        return;
                    }
                }
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut read = BufReader::with_capacity(256 * 1024, read);
            while let Some(answer) = answers.recv().await {
                drop(answer.send(value(&mut read).await));
            }
        });
        Ok(Self { requests })
    }

    async fn call(&self, words: &[&str]) -> Result<Value> {
        self.send(words).await
    }

    fn send(&self, words: &[&str]) -> impl Future<Output = Result<Value>> + Send + use<> {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send((bytes.into_bytes(), answer));
        async move {
            sent.map_err(|_| "the connection is gone")?;
            answered.await?
        }
    }
}

async fn value(read: &mut BufReader<OwnedReadHalf>) -> Result<Value> {
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or("the connection was closed")?;
    match kind {
        "+" | ":" => Ok(Value::Text(rest.to_owned())),
        "-" => Err(rest.to_owned().into()),
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Ok(Value::Nothing) };
            let mut bytes = vec![0; length + 2];
            read.read_exact(&mut bytes).await?;
            bytes.truncate(length);
            Ok(Value::Text(String::from_utf8(bytes)?))
        }
        _ => {
            let Ok(length) = rest.parse::<usize>() else { return Ok(Value::Nothing) };
            let mut list = Vec::with_capacity(length);
            for _ in 0..length {
                list.push(Box::pin(value(read)).await?);
            }
            Ok(Value::List(list))
        }
    }
}
