//! NATS JetStream: a stream on disk, a work queue. The version of Debian has no setting to sync before it acknowledges: it
//! syncs every two minutes, so that a power loss takes what was acknowledged since.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Plain};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::Result;
use crate::flow::{self, BATCH, Broker, CONSUMERS, Figures};
use crate::servers::{self, Server};

struct Nats {
    producers: Connection,
    consumers: Vec<Connection>,
}

pub async fn round(length: Duration) -> Result<Figures> {
    let (folder, port) = (servers::folder()?, servers::free_port()?);
    let mut command = Command::new(servers::program(&["/usr/sbin/nats-server"], "nats-server")?);
    command.args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"]);
    command.arg(folder.path());
    let server = Server::start(command, folder, port)?;
    let producers = Connection::open(port).await?;
    let stream = r#"{"name":"S","subjects":["q"],"retention":"workqueue","storage":"file","num_replicas":1}"#;
    let consumer = r#"{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit","max_ack_pending":100000}}"#;
    for (subject, body) in
        [("$JS.API.STREAM.CREATE.S", stream), ("$JS.API.CONSUMER.DURABLE.CREATE.S.C", consumer)]
    {
        let answer = producers.ask(subject, body).await?.body;
        if answer.contains("\"error\"") {
            return Err(answer.into());
        }
    }
    let mut consumers = Vec::new();
    for _ in 0..CONSUMERS {
        consumers.push(Connection::open(port).await?);
    }
    flow::load(Nats { producers, consumers }, Some(server.pid()), length).await
}

impl Broker for Nats {
    type Lease = String;

    async fn push(&self, _: usize) -> Result<()> {
        let answer = self.producers.ask("q", &flow::body()).await?.body;
        if answer.contains("\"error\"") { Err(answer.into()) } else { Ok(()) }
    }

    async fn work(&self, consumer: usize, done: Vec<String>) -> Result<Vec<String>> {
        let connection = &self.consumers[consumer];
        // Acknowledgements are acknowledged, as settlements of the others are answered.
        let mut acks: Vec<_> =
            done.iter().map(|subject| connection.publish(subject, "+ACK")).collect::<Result<_>>()?;
        for ack in &mut acks {
            ack.messages.recv().await.ok_or("the connection is gone")?;
        }
        // In nanoseconds: fewer than a batch come after five milliseconds, with a status.
        let next = format!("{{\"batch\":{BATCH},\"expires\":5000000}}");
        let mut inbox = connection.pull("$JS.API.CONSUMER.MSG.NEXT.S.C", &next)?;
        let mut leased = Vec::new();
        while leased.len() < BATCH {
            match inbox.messages.recv().await.ok_or("the connection is gone")? {
                Message { reply: Some(reply), .. } => leased.push(reply),
                // A status without a body: there are no more.
                Message { reply: None, .. } => break,
            }
        }
        Ok(leased)
    }
}

/// The number of the subscription of messages that are pulled: they come under the subject that they were sent under.
const PULLED: u64 = 2;

struct Message {
    reply: Option<String>,
    body: String,
}

type Inboxes = Arc<Plain<HashMap<u64, mpsc::UnboundedSender<Message>>>>;

/// Messages to one inbox. It is forgotten with this value.
struct Inbox {
    number: u64,
    inboxes: Inboxes,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Ok(mut inboxes) = self.inboxes.lock() {
            inboxes.remove(&self.number);
        }
    }
}

struct Connection {
    name: String,
    drawn: AtomicU64,
    inboxes: Inboxes,
    requests: mpsc::UnboundedSender<String>,
}

impl Connection {
    async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = format!("_INBOX.{}", stream.local_addr()?.port());
        let (read, mut write) = stream.into_split();
        write.write_all(format!("CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB {name}.* 1\r\nSUB {name}.pull.1 {PULLED}\r\n").as_bytes()).await?;
        let (requests, mut waiting) = mpsc::unbounded_channel::<String>();
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while waiting.recv_many(&mut batch, 256).await > 0 {
                if write.write_all(batch.concat().as_bytes()).await.is_err() {
                    return;
                }
                batch.clear();
            }
        });
        let inboxes = Inboxes::default();
        let (known, pong) = (Arc::clone(&inboxes), requests.clone());
        tokio::spawn(async move {
            // Ends with the connection; who waits is told by that.
            let _ = deliver(BufReader::with_capacity(256 * 1024, read), &known, &pong).await;
            known.lock().map(|mut known| known.clear()).ok();
        });
        Ok(Self { name, drawn: AtomicU64::new(0), inboxes, requests })
    }

    fn publish(&self, subject: &str, body: &str) -> Result<Inbox> {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        self.publish_from(number, &number.to_string(), subject, body)
    }

    /// Asks for messages. There is one such inbox, so that what comes late comes with what is asked for next.
    fn pull(&self, subject: &str, body: &str) -> Result<Inbox> {
        self.publish_from(u64::MAX, "pull.1", subject, body)
    }

    fn publish_from(&self, number: u64, inbox: &str, subject: &str, body: &str) -> Result<Inbox> {
        let (sender, messages) = mpsc::unbounded_channel();
        self.inboxes.lock().map_err(|_| "poisoned")?.insert(number, sender);
        let request = format!("PUB {subject} {}.{inbox} {}\r\n{body}\r\n", self.name, body.len());
        self.requests.send(request).map_err(|_| "the connection is gone")?;
        Ok(Inbox { number, inboxes: Arc::clone(&self.inboxes), messages })
    }

    async fn ask(&self, subject: &str, body: &str) -> Result<Message> {
        let mut inbox = self.publish(subject, body)?;
        Ok(inbox.messages.recv().await.ok_or("the connection is gone")?)
    }
}

async fn deliver(
    mut read: BufReader<tokio::net::tcp::OwnedReadHalf>,
    inboxes: &Inboxes,
    pong: &mpsc::UnboundedSender<String>,
) -> Result<()> {
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["PING"] => pong.send("PONG\r\n".to_owned()).map_err(|_| "gone")?,
            ["MSG" | "HMSG", subject, subscription, .., length] => {
                // With headers there is one more number. A subject to reply to stands before the numbers.
                let numbers = if words[0] == "HMSG" { 2 } else { 1 };
                let reply = (words.len() == 4 + numbers).then(|| words[3].to_owned());
                let number = match subscription.parse() {
                    Ok(PULLED) => Some(u64::MAX),
                    _ => subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok()),
                };
                let mut bytes = vec![0; length.parse::<usize>()? + 2];
                read.read_exact(&mut bytes).await?;
                let message = Message { reply, body: String::from_utf8_lossy(&bytes).into_owned() };
                if let (Some(number), Ok(inboxes)) = (number, inboxes.lock()) {
                    inboxes.get(&number).map(|inbox| inbox.send(message).ok());
                }
            }
            _ => {}
        }
    }
}
