//! NATS JetStream: a stream on disk, a work queue. Debian's 2.9.10 has no setting to sync before it acknowledges
//! (`sync_interval` came with 2.10): it syncs every two minutes, so that a power loss takes what was acknowledged since. So
//! it does less than the others here, and no goal is measured against it.
//!
//! This version drops a request for messages that has run out without a word, if it finds out while it hands out others:
//! who waits for the status that is to tell of it waits for ever. Requests here outlive a round, and what a request did not
//! bring in a moment comes to the next call.

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Plain};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use crate::Result;
use crate::flow::{self, BATCH, Broker, CONSUMERS, Figures};
use crate::servers::{self, Server};

struct Nats {
    producers: Connection,
    consumers: Vec<Mutex<Consumer>>,
}

/// A connection that takes messages, and how many of those that it asked for have not come yet.
struct Consumer {
    connection: Connection,
    messages: mpsc::UnboundedReceiver<Message>,
    asked: usize,
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
        let connection = Connection::open(port).await?;
        let messages = connection.inbox(PULLED)?;
        consumers.push(Mutex::new(Consumer { connection, messages, asked: 0 }));
    }
    flow::load(Nats { producers, consumers }, Some(server.pid()), length).await
}

impl Broker for Nats {
    type Lease = String;

    async fn push(&self, _: usize) -> Result<()> {
        let answer = self.producers.ask("q", &flow::body()).await?.body;
        if answer.contains("\"seq\":") { Ok(()) } else { Err(answer.into()) }
    }

    async fn work(&self, consumer: usize, done: Vec<String>) -> Result<Vec<String>> {
        let mut consumer = self.consumers[consumer].lock().await;
        let Consumer { connection, messages, asked } = &mut *consumer;
        // Acknowledgements are acknowledged, as settlements of the others are answered.
        let mut acks: Vec<_> =
            done.iter().map(|subject| connection.publish(subject, "+ACK")).collect::<Result<_>>()?;
        for ack in &mut acks {
            ack.messages.recv().await.ok_or(GONE)?;
        }
        if *asked < BATCH {
            let next = format!("{{\"batch\":{},\"expires\":{EXPIRES_NS}}}", BATCH - *asked);
            connection.send("$JS.API.CONSUMER.MSG.NEXT.S.C", "pull.1", &next)?;
            *asked = BATCH;
        }
        let mut leased = Vec::new();
        while leased.len() < BATCH {
            // What is there comes at once, and less than a batch is taken after a moment.
            match tokio::time::timeout(Duration::from_millis(5), messages.recv()).await {
                Ok(Some(Message { reply: Some(reply), .. })) => leased.push(reply),
                Ok(Some(Message { body, .. })) => return Err(format!("no message: {body}").into()),
                Ok(None) => return Err(GONE.into()),
                Err(_) => break,
            }
        }
        *asked -= leased.len();
        Ok(leased)
    }
}

/// The number of the subscription of messages that are pulled: they come under the subject that they were sent under.
const PULLED: u64 = 2;

/// How long a request for messages holds: longer than a round.
const EXPIRES_NS: u64 = 3_600_000_000_000;

const GONE: &str = "the connection is gone";

struct Message {
    reply: Option<String>,
    body: String,
}

/// Who waits, by the number of the inbox or of the subscription [`PULLED`]; none once the connection has ended.
type Inboxes = Arc<Plain<Option<HashMap<u64, mpsc::UnboundedSender<Message>>>>>;

/// Messages to one inbox. It is forgotten with this value.
struct Inbox {
    number: u64,
    inboxes: Inboxes,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Ok(mut inboxes) = self.inboxes.lock() {
            inboxes.as_mut().map(|inboxes| inboxes.remove(&self.number));
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
        let inboxes = Inboxes::new(Plain::new(Some(HashMap::new())));
        let (known, pong) = (Arc::clone(&inboxes), requests.clone());
        tokio::spawn(async move {
            // Ends with the connection; who waits is told by that.
            let _ = deliver(BufReader::with_capacity(256 * 1024, read), &known, &pong).await;
            known.lock().map(|mut known| *known = None).ok();
        });
        // Numbers up to that one are subscriptions.
        Ok(Self { name, drawn: AtomicU64::new(PULLED + 1), inboxes, requests })
    }

    fn publish(&self, subject: &str, body: &str) -> Result<Inbox> {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let messages = self.inbox(number)?;
        self.send(subject, &number.to_string(), body)?;
        Ok(Inbox { number, inboxes: Arc::clone(&self.inboxes), messages })
    }

    fn inbox(&self, number: u64) -> Result<mpsc::UnboundedReceiver<Message>> {
        let (sender, messages) = mpsc::unbounded_channel();
        self.inboxes.lock().map_err(|_| "poisoned")?.as_mut().ok_or(GONE)?.insert(number, sender);
        Ok(messages)
    }

    fn send(&self, subject: &str, inbox: &str, body: &str) -> Result<()> {
        let request = format!("PUB {subject} {}.{inbox} {}\r\n{body}\r\n", self.name, body.len());
        Ok(self.requests.send(request).map_err(|_| GONE)?)
    }

    async fn ask(&self, subject: &str, body: &str) -> Result<Message> {
        let mut inbox = self.publish(subject, body)?;
        Ok(inbox.messages.recv().await.ok_or(GONE)?)
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
                    Ok(PULLED) => Some(PULLED),
                    _ => subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok()),
                };
                let mut bytes = vec![0; length.parse::<usize>()? + 2];
                read.read_exact(&mut bytes).await?;
                let message = Message { reply, body: String::from_utf8_lossy(&bytes).into_owned() };
                if let (Some(number), Ok(inboxes)) = (number, inboxes.lock()) {
                    inboxes.as_ref().and_then(|inboxes| inboxes.get(&number)?.send(message).ok());
                }
            }
            ["-ERR", ..] => return Err(line.into()),
            _ => {}
        }
    }
}
