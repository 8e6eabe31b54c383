//! The section `state`, as written.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// Which database the state is in: queues, ledger, results, audit, directory and the sealed vault.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct State {
    /// "embedded" is the file of data.file, for a deployment on one machine. "postgres" is PostgreSQL 15 or later, for
    /// one on several. docs/POSTGRESQL.md says how to set it up.
    #[config(default = "embedded")]
    pub engine: String,
    /// PostgreSQL, if that is the engine.
    #[config(nested)]
    pub postgres: Postgres,
}

/// How to reach PostgreSQL.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Postgres {
    /// Where it is, without a password: "postgresql://USER@HOST/DATABASE", or
    /// "postgresql://USER@/DATABASE?host=/run/postgresql" for a Unix socket.
    pub url: Option<String>,
    /// The file that holds the password, and nothing else. It is read at every connection. Not needed where the server
    /// knows the user of a Unix socket.
    pub password_file: Option<PathBuf>,
    /// "verify-full": TLS, and the certificate has to be valid for the host. "off" is for loopback addresses; a Unix
    /// socket has none either way.
    #[config(default = "verify-full")]
    pub tls: String,
    /// PEM file of the roots to trust instead of the system's.
    pub roots: Option<PathBuf>,
    /// Allows tls = "off" to another machine: whoever is on the way then reads and changes everything.
    #[config(default = false)]
    pub danger_no_tls: bool,
    /// Connections of one process, beside the one that listens for wake-ups.
    #[config(default = 8)]
    pub connections: usize,
    /// How long connecting may take, and waiting for one of these connections.
    #[config(default = "5s")]
    pub connect: Span,
    /// How long a statement may take.
    #[config(default = "15s")]
    pub statement: Span,
    /// How long a statement may wait for a lock.
    #[config(default = "5s")]
    pub lock: Span,
    /// How often a worker looks for messages when nobody woke it.
    #[config(default = "1s")]
    pub look_every: Span,
}
