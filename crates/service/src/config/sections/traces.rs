//! The section of traces, as written.

use std::path::PathBuf;

use confique::Config;
use keyturn_domain::span::Span;
use serde::Serialize;

/// Where spans are exported to. A collector that is away costs spans, and never a rotation.
#[derive(Config, Serialize, Clone, Debug)]
#[config(layer_attr(serde(deny_unknown_fields)))]
pub struct Traces {
    /// A collector that takes OTLP over HTTP (protobuf), like `https://collector.example.org:4318/v1/traces`; plain http
    /// to this machine alone. Nothing is exported without it.
    pub endpoint: Option<String>,
    /// A file of headers that go with each export, each on a line like "authorization: Bearer …". It is treated as a
    /// secret, and read when a process starts.
    pub headers_file: Option<PathBuf>,
    /// PEM file of the certificates that the collector's must chain to, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
    /// Of so many traces, one is kept; the ingress decides, by the trace's id. All ingresses should say the same.
    #[config(default = 1)]
    pub one_in: u64,
    /// Spans that wait to be exported; further ones are dropped, and counted.
    #[config(default = 4096)]
    pub queue: usize,
    /// Spans exported at once.
    #[config(default = 512)]
    pub batch: usize,
    /// How long a span waits for others.
    #[config(default = "2s")]
    pub every: Span,
    /// How long one export may take, and how long a process that ends waits for its last spans.
    #[config(default = "5s")]
    pub timeout: Span,
}
