//! RabbitMQ: a quorum queue of one node, which waits for its disk, persistent messages, publisher confirms.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use tokio::sync::Mutex;

use crate::Result;
use crate::flow::{self, BATCH, Broker, CONSUMERS, Figures};
use crate::servers::{self, Server};

/// Channels that producers share.
const CHANNELS: usize = 8;

struct Rabbit {
    _connections: [Connection; 2],
    producers: Vec<Channel>,
    consumers: Vec<Mutex<(Channel, Consumer)>>,
}

pub async fn round(length: Duration) -> Result<Figures> {
    let (folder, port) = (servers::folder()?, servers::free_port()?);
    let (mapper, distribution) = (servers::free_port()?, servers::free_port()?);
    let program = servers::program(&["/usr/lib/rabbitmq/bin/rabbitmq-server"], "rabbitmq-server")?;
    let settings = folder.path().join("rabbitmq.conf");
    std::fs::write(&settings, format!("listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users.guest = true\n"))?;
    let mut command = Command::new(program);
    // Its name service would outlive it; one of its own ends below.
    command.env("ERL_EPMD_PORT", mapper.to_string()).env("RABBITMQ_DIST_PORT", distribution.to_string());
    command.env("HOME", folder.path()).env("RABBITMQ_NODENAME", format!("compare{port}@localhost"));
    command.env("RABBITMQ_MNESIA_BASE", folder.path()).env("RABBITMQ_LOG_BASE", folder.path());
    command
        .env("RABBITMQ_CONFIG_FILE", &settings)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.path().join("none"));
    let server = Server::start(command, folder, port)?;
    let figures = serve(port, &server, length).await;
    drop(server);
    // It refuses while it still knows of a node.
    for _ in 0..20 {
        let mut end = Command::new("epmd");
        end.env("ERL_EPMD_PORT", mapper.to_string()).arg("-kill").process_group(0);
        let output = end.output()?;
        if output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Killed") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    figures
}

async fn serve(port: u16, server: &Server, length: Duration) -> Result<Figures> {
    let address = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
    let open = || async {
        for _ in 0..100 {
            match Connection::connect(&address, ConnectionProperties::default()).await {
                Ok(connection) => return Ok(connection),
                // It listens before it serves.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        Connection::connect(&address, ConnectionProperties::default()).await
    };
    let connections = [open().await?, open().await?];
    let mut kind = FieldTable::default();
    kind.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut producers = Vec::new();
    for _ in 0..CHANNELS {
        let channel = connections[0].create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        producers.push(channel);
    }
    producers[0].queue_declare("q".into(), durable, kind).await?;
    let mut consumers = Vec::new();
    for n in 0..CONSUMERS {
        let channel = connections[1].create_channel().await?;
        channel.basic_qos(BATCH as u16, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let name = format!("c{n}");
        let consumer =
            channel.basic_consume("q".into(), name.as_str().into(), options, FieldTable::default()).await?;
        consumers.push(Mutex::new((channel, consumer)));
    }
    flow::load(Rabbit { _connections: connections, producers, consumers }, Some(server.pid()), length).await
}

impl Broker for Rabbit {
    type Lease = u64;

    async fn push(&self, producer: usize) -> Result<()> {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let (options, body) = (BasicPublishOptions::default(), flow::body());
        let channel = &self.producers[producer % CHANNELS];
        let confirmed =
            channel.basic_publish("".into(), "q".into(), options, body.as_bytes(), properties).await?;
        match confirmed.await? {
            Confirmation::Ack(None) => Ok(()),
            other => Err(format!("not taken: {other:?}").into()),
        }
    }

    async fn work(&self, consumer: usize, done: Vec<u64>) -> Result<Vec<u64>> {
        let mut consumer = self.consumers[consumer].lock().await;
        let (channel, deliveries) = &mut *consumer;
        if let Some(last) = done.last() {
            channel.basic_ack(*last, BasicAckOptions { multiple: true }).await?;
        }
        let mut leased = Vec::new();
        while leased.len() < BATCH {
            // It pushes: what is there comes at once, and less than a batch is taken after a moment.
            match tokio::time::timeout(Duration::from_millis(5), deliveries.next()).await {
                Ok(Some(delivery)) => leased.push(delivery?.delivery_tag),
                Ok(None) => return Err("the consumer was ended".into()),
                Err(_) => break,
            }
        }
        Ok(leased)
    }
}
