//! PostgreSQL with a table: `INSERT` for each message, `UPDATE … SKIP LOCKED` of 32, `DELETE`. Commits wait for the disk.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio_postgres::{Client, NoTls, Statement};

use crate::Result;
use crate::flow::{self, BATCH, Broker, CONSUMERS, Figures, PRODUCERS};
use crate::servers::{self, Server};

struct Postgres {
    producers: Vec<(Client, Statement)>,
    consumers: Vec<(Client, Statement, Statement)>,
}

const SETUP: &str = "CREATE TABLE q (id bigserial PRIMARY KEY, leased timestamptz, body text NOT NULL)";
const PUSH: &str = "INSERT INTO q (body) VALUES ($1)";
const LEASE: &str = "UPDATE q SET leased = now() + interval '1 minute' WHERE id IN (SELECT id FROM q WHERE leased IS NULL \
    OR leased < now() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING id";
const DONE: &str = "DELETE FROM q WHERE id = ANY($1)";

pub async fn round(length: Duration) -> Result<Figures> {
    let (folder, port) = (servers::folder()?, servers::free_port()?);
    let at = |name: &str| {
        let versions =
            ["15", "16", "17", "18"].map(|version| format!("/usr/lib/postgresql/{version}/bin/{name}"));
        servers::program(&versions.each_ref().map(String::as_str), "postgresql")
    };
    let data = folder.path().join("data");
    give(folder.path())?;
    let made = as_server(&at("initdb")?)
        .args(["--auth", "trust", "--username", "postgres", "-D"])
        .arg(&data)
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
    }
    let mut command = as_server(&at("postgres")?);
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    command.args(["-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "max_connections=120", "-k", ""]);
    let server = Server::start(command, folder, port)?;
    open(port).await?.batch_execute(SETUP).await?;
    let (mut producers, mut consumers) = (Vec::new(), Vec::new());
    for _ in 0..PRODUCERS {
        let client = open(port).await?;
        let push = client.prepare(PUSH).await?;
        producers.push((client, push));
    }
    for _ in 0..CONSUMERS {
        let client = open(port).await?;
        let (lease, done) = (client.prepare(LEASE).await?, client.prepare(DONE).await?);
        consumers.push((client, lease, done));
    }
    flow::load(Postgres { producers, consumers }, Some(server.pid()), length).await
}

/// The server refuses to be root.
fn as_server(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"])
        .arg(program)
        .current_dir("/");
    command
}

fn give(folder: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let output = Command::new("id").args(["-u", "postgres"]).output()?;
        chown(folder, Some(String::from_utf8(output.stdout)?.trim().parse()?), None)?;
    }
    Ok(())
}

async fn open(port: u16) -> Result<Client> {
    let address = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
    let mut tries = 0;
    loop {
        match tokio_postgres::connect(&address, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            // It listens before it serves.
            Err(_) if tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Broker for Postgres {
    type Lease = i64;

    async fn push(&self, producer: usize) -> Result<()> {
        let (client, push) = &self.producers[producer];
        client.execute(push, &[&flow::body()]).await?;
        Ok(())
    }

    async fn work(&self, consumer: usize, done: Vec<i64>) -> Result<Vec<i64>> {
        let (client, lease, delete) = &self.consumers[consumer];
        if !done.is_empty() {
            client.execute(delete, &[&done]).await?;
        }
        let leased = client.query(lease, &[&(BATCH as i64)]).await?;
        Ok(leased.iter().map(|row| row.get(0)).collect())
    }
}
