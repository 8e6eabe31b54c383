//! The edge for devices.

#![expect(unused_qualifications, reason = "the derive macro of the configuration library writes them")]

use std::net::SocketAddr;
use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// The HTTP edge for devices.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Ingress {
    /// Where devices connect. Anything but a loopback address needs TLS.
    #[config(default = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The name of this ingress, in stamps and logs.
    #[config(default = "ingress")]
    pub name: String,
    /// The server certificate. It is read again when the files change.
    #[config(nested)]
    pub tls: Tls,
    /// The largest message, in bytes.
    #[config(default = 16384)]
    pub body_bytes: usize,
    /// How long a message's body may take to arrive.
    #[config(default = "10s")]
    pub body_time: Span,
    /// The largest head of a request, in bytes.
    #[config(default = 8192)]
    pub header_bytes: usize,
    /// How long a request's head may take to arrive.
    #[config(default = "5s")]
    pub header_time: Span,
    /// The longest long-poll.
    #[config(default = "30s")]
    pub poll_wait: Span,
    /// Long-polls held open at once; further ones are answered at once.
    #[config(default = 20000)]
    pub polls: usize,
    /// The same, of one client: an IPv4 address or an IPv6 /64.
    #[config(default = 2048)]
    pub polls_per_address: usize,
    /// Connections held open at once; further ones wait.
    #[config(default = 25000)]
    pub connections: usize,
    /// The same, of one client; further ones are closed. Trusted proxies have no such limit.
    #[config(default = 4096)]
    pub connections_per_address: usize,
    /// Proxies in front, as networks like "10.0.0.0/8": the last hop in their X-Forwarded-For is taken for the
    /// client. Without this, all devices behind a proxy are one client.
    #[config(default = [])]
    pub trusted_proxies: Vec<String>,
    /// With more messages than this waiting, new ones are turned away with 503.
    #[config(default = 1_000_000)]
    pub depth: u64,
    /// How much is taken from whom.
    #[config(nested)]
    pub admission: Admission,
}

/// How much is taken from whom; beyond that, 429. A rate is per second in the long run, a burst is what may come at
/// once after a rest. A client is an IPv4 address or an IPv6 /64.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Admission {
    /// Nonces and messages of one client, counted before anything is parsed.
    #[config(default = 250)]
    pub address_rate: u32,
    /// The burst that goes with it.
    #[config(default = 2500)]
    pub address_burst: u32,
    /// Polls of one client.
    #[config(default = 500)]
    pub poll_rate: u32,
    /// The burst that goes with it.
    #[config(default = 5000)]
    pub poll_burst: u32,
    /// Polls of one ticket.
    #[config(default = 2)]
    pub ticket_rate: u32,
    /// The burst that goes with it.
    #[config(default = 30)]
    pub ticket_burst: u32,
    /// Messages of one device key that has rotated before.
    #[config(default = 2)]
    pub key_rate: u32,
    /// The burst that goes with it.
    #[config(default = 60)]
    pub key_burst: u32,
    /// Messages of all keys together that have not: new devices, and whoever makes up keys.
    #[config(default = 50)]
    pub unknown_rate: u32,
    /// The burst that goes with it.
    #[config(default = 1000)]
    pub unknown_burst: u32,
    /// The same, of one client.
    #[config(default = 10)]
    pub unknown_address_rate: u32,
    /// The burst that goes with it.
    #[config(default = 500)]
    pub unknown_address_burst: u32,
    /// Clients, keys and tickets remembered, of each kind. Beyond twice that, the quietest are forgotten.
    #[config(default = 65536)]
    pub tracked: usize,
    /// How long devices are told to wait at least, with a 503.
    #[config(default = "10s")]
    pub retry_after: Span,
    /// Over how much more time those who are turned away, with 429 or 503, are spread.
    #[config(default = "20s")]
    pub retry_spread: Span,
    /// How long a 429 is held back, which slows down whoever sends on and on.
    #[config(default = "1s")]
    pub pause: Span,
    /// How many are held back at once. Further ones are given at once, and their connections closed.
    #[config(default = 512)]
    pub paused: usize,
}

/// The server certificate.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Tls {
    /// PEM file of the certificate and its chain.
    pub certificate: Option<PathBuf>,
    /// PEM file of the private key. An ECDSA P-256 key is fastest.
    pub key: Option<PathBuf>,
}
