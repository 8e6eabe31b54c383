//! Exporting spans over OTLP, beside the work and never in its way: a span that finds the queue full is dropped and
//! counted, and so are those that the collector does not take.

use std::collections::HashMap;
use std::time::Duration;

use keyturn_pipeline::spans::{self, Sink, Span};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use reqwest::redirect::Policy;
use reqwest::tls::Version;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, TraceExport};
use crate::keys;
use crate::shell::StartError;

mod convert;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A line of the headers file. What stands on it is not told.
    #[error("traces.headers_file: line {0} is no header; write each like «authorization: Bearer …»")]
    Header(usize),
    /// The client. Without the error's own words, which have the address in them.
    #[error("traces: the client cannot be made; look at traces.ca and traces.endpoint")]
    Client,
}

/// Spans on their way out. Dropping it leaves what waits behind.
#[must_use]
pub struct Exporting(Option<Running>);

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    patience: Duration,
}

impl Exporting {
    /// Exports what waits, for no longer than one export may take. Call it when the work is done.
    pub async fn finish(self) {
        let Some(Running { stop, task, patience }) = self.0 else { return };
        stop.cancel();
        if tokio::time::timeout(patience, task).await.is_err() {
            warn!("the last spans could not be exported in time");
        }
    }
}

/// Starts exporting under the name of this process, if the configuration says where to.
pub fn start(config: &Config, name: &str) -> Result<Exporting, StartError> {
    let Some(export) = config.traces.clone() else { return Ok(Exporting(None)) };
    for reason in [QUEUE_FULL, NOT_TAKEN] {
        metrics::counter!("keyturn_spans_dropped_total", "reason" => reason).increment(0);
    }
    let mut otlp = exporter(&export)?;
    otlp.set_resource(&resource(name, config));
    let (sender, waiting) = mpsc::channel(export.queue);
    if !spans::send_to(Bounded { sender, one_in: export.one_in.max(1) }) {
        return Ok(Exporting(None));
    }
    info!(endpoint = %export.endpoint, "spans are exported");
    let (stop, patience) = (CancellationToken::new(), export.timeout);
    let exporter = Exporter { otlp, export, waiting, away: false };
    let task = tokio::spawn(exporter.run(stop.clone()));
    Ok(Exporting(Some(Running { stop, task, patience })))
}

const QUEUE_FULL: &str = "queue_full";
const NOT_TAKEN: &str = "not_taken";

fn dropped(reason: &'static str, spans: usize) {
    metrics::counter!("keyturn_spans_dropped_total", "reason" => reason)
        .increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

fn resource(name: &str, config: &Config) -> Resource {
    let attributes = [
        KeyValue::new("service.name", name.to_owned()),
        KeyValue::new("service.namespace", "keyturn"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("keyturn.deployment", config.sections.deployment.name.clone()),
    ];
    Resource::builder_empty().with_attributes(attributes).build()
}

fn exporter(export: &TraceExport) -> Result<Otlp, StartError> {
    let headers = match &export.headers_file {
        Some(file) => headers(&keys::secret_text(file)?)?,
        None => HashMap::new(),
    };
    let built = Otlp::builder()
        .with_http()
        .with_http_client(client(export).map_err(|_| StartError::service(SetupError::Client))?)
        .with_endpoint(export.endpoint.as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(export.timeout)
        .with_headers(headers)
        .build();
    built.map_err(|_| StartError::service(SetupError::Client))
}

/// TLS 1.2 or newer, no redirects, no retries of its own, no proxy of the environment.
fn client(export: &TraceExport) -> Result<reqwest::Client, reqwest::Error> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("keyturn/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .tls_version_min(Version::TLS_1_2)
        .https_only(!export.endpoint.is_plain())
        .timeout(export.timeout)
        .no_proxy();
    if let Some(pem) = &export.ca {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    builder.build()
}

/// The headers of a file, a line each; empty lines are left out.
fn headers(text: &str) -> Result<HashMap<String, String>, StartError> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let header = |(number, line): (usize, &str)| {
        let wrong = || StartError::service(SetupError::Header(number));
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = reqwest::header::HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let value = value.trim();
        reqwest::header::HeaderValue::from_str(value).map_err(|_| wrong())?;
        Ok((name.as_str().to_owned(), value.to_owned()))
    };
    lines.map(header).collect()
}

/// Takes spans as long as there is room.
struct Bounded {
    sender: mpsc::Sender<Span>,
    one_in: u64,
}

impl Sink for Bounded {
    fn samples(&self, trace: [u8; 16]) -> bool {
        u128::from_be_bytes(trace).is_multiple_of(self.one_in.into())
    }

    fn take(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            dropped(QUEUE_FULL, 1);
        }
    }
}

struct Exporter {
    otlp: Otlp,
    export: TraceExport,
    waiting: mpsc::Receiver<Span>,
    /// Whether the last export failed.
    away: bool,
}

impl Exporter {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let batch = self.next(&stop).await;
            self.send(batch).await;
        }
        self.waiting.close();
        loop {
            let mut rest = Vec::new();
            if self.waiting.recv_many(&mut rest, self.export.batch).await == 0 {
                return;
            }
            self.send(rest).await;
        }
    }

    /// What came until there is a batch, its time is up, or the process ends.
    async fn next(&mut self, stop: &CancellationToken) -> Vec<Span> {
        let mut batch = Vec::new();
        let pause = tokio::time::sleep(self.export.every);
        tokio::pin!(pause);
        while batch.len() < self.export.batch {
            let room = self.export.batch - batch.len();
            tokio::select! {
                () = stop.cancelled() => break,
                () = &mut pause => break,
                taken = self.waiting.recv_many(&mut batch, room) => if taken == 0 { break },
            }
        }
        batch
    }

    /// One attempt: the next spans are as good as these.
    async fn send(&mut self, batch: Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len();
        let converted = batch.into_iter().map(convert::span).collect();
        let sending = tokio::time::timeout(self.export.timeout, self.otlp.export(converted));
        let taken = matches!(sending.await, Ok(Ok(())));
        if taken {
            metrics::counter!("keyturn_spans_exported_total")
                .increment(u64::try_from(count).unwrap_or(u64::MAX));
        } else {
            dropped(NOT_TAKEN, count);
        }
        // Without the error's own words: they have the address in them, and whatever the collector answered.
        match (self.away, taken) {
            (false, false) => {
                warn!(endpoint = %self.export.endpoint, "the collector does not take spans; they are dropped");
            }
            (true, true) => info!(endpoint = %self.export.endpoint, "the collector takes spans again"),
            _ => {}
        }
        self.away = !taken;
    }
}

#[cfg(test)]
mod tests;
