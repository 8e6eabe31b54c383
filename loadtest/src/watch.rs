//! What is looked at while a phase runs, once a second: queues from `/metrics`, processes from `/proc`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::header::HOST;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::process::{self, Usage};
use crate::target::Target;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// This program's own name among the processes.
pub const CLIENT: &str = "client";

/// One look.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at: f64,
    /// Messages on each queue, leased ones included.
    pub queues: BTreeMap<String, f64>,
    /// Each process.
    pub processes: BTreeMap<String, Usage>,
    /// The machine's CPU time, of everybody.
    pub machine: Option<Duration>,
}

/// Looks until it is dropped.
pub struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Starts looking. `began` is the start of the run by the monotonic clock.
    pub fn start(target: &Target, began: Duration) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (kept, processes) = (Arc::clone(&samples), processes(target));
        let metrics = target.metrics.first().map(|(_, address)| address.clone());
        let task = tokio::spawn(async move {
            loop {
                let queues = match &metrics {
                    // A look that fails leaves a gap in a chart and nothing else.
                    Some(address) => scrape(address).await.map(|text| depths(&text)).unwrap_or_default(),
                    None => BTreeMap::new(),
                };
                let at = SystemClock.monotonic().saturating_sub(began).as_secs_f64();
                let sample =
                    Sample { at, queues, processes: usages(&processes), machine: process::machine() };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                tokio::time::sleep(EVERY).await;
            }
        });
        Self { samples, task }
    }

    /// Everything seen so far.
    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The target's processes and this one.
pub fn processes(target: &Target) -> Vec<(String, u32)> {
    let own = (CLIENT.to_owned(), std::process::id());
    target.processes.iter().cloned().chain([own]).collect()
}

/// What each process has used so far.
pub fn usages(processes: &[(String, u32)]) -> BTreeMap<String, Usage> {
    processes.iter().filter_map(|(name, pid)| Some((name.clone(), process::usage(*pid)?))).collect()
}

/// What the stages of all roles took so far: sums and counts from every role that answers.
pub async fn stages(target: &Target) -> Meters {
    let mut meters = Meters::default();
    for (_, address) in &target.metrics {
        if let Ok(text) = scrape(address).await {
            meters.read(&text);
        }
    }
    meters
}

/// The server's own measurements so far, by measurement and queue.
#[derive(Clone, Debug, Default)]
pub struct Meters(BTreeMap<String, Histogram>);

/// A histogram of Prometheus: how many were no longer than each bound.
#[derive(Clone, Debug, Default)]
struct Histogram {
    count: f64,
    sum: f64,
    /// The bound in seconds, and how many were no longer; the bounds rise.
    buckets: Vec<(f64, f64)>,
}

/// A measurement of the server.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Meter {
    /// How often it was taken.
    pub count: f64,
    /// The mean, in seconds.
    pub mean: f64,
    /// The 99th percentile in seconds, as far as the buckets of the server tell it; the last bound if it is beyond.
    pub p99: f64,
}

/// The server's measurements, and what they are called in reports.
const METERS: [(&str, &str); 2] =
    [("keyturn_queue_wait_seconds", "waits on"), ("messaging_process_duration_seconds", "a batch of")];

impl Meters {
    fn read(&mut self, text: &str) {
        for (metric, what) in METERS {
            for (name, labels, value) in lines(text) {
                let Some(queue) = queue(labels) else { continue };
                let entry = self.0.entry(format!("{what} {queue}"));
                match name.strip_prefix(metric) {
                    Some("_count") => entry.or_default().count = value,
                    Some("_sum") => entry.or_default().sum = value,
                    Some("_bucket") => {
                        let bound = label(labels, "le").and_then(|bound| bound.parse::<f64>().ok());
                        if let Some(bound) = bound.filter(|bound| bound.is_finite()) {
                            entry.or_default().buckets.push((bound, value));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// What came to them since `before`.
    pub fn since(&self, before: &Self) -> BTreeMap<String, Meter> {
        let differ = |(name, now): (&String, &Histogram)| {
            let nothing = Histogram::default();
            let then = before.0.get(name).unwrap_or(&nothing);
            let count = now.count - then.count;
            (count > 0.0).then(|| {
                let mean = (now.sum - then.sum) / count;
                (name.clone(), Meter { count, mean, p99: now.quantile_since(then, 0.99) })
            })
        };
        self.0.iter().filter_map(differ).collect()
    }
}

impl Histogram {
    /// A quantile of what came since `before`, as Prometheus's `histogram_quantile` has it: within a bucket all values are
    /// taken to be spread evenly.
    fn quantile_since(&self, before: &Self, quantile: f64) -> f64 {
        let rank = quantile * (self.count - before.count);
        let (mut lower, mut below) = (0.0, 0.0);
        for (place, (bound, upto)) in self.buckets.iter().enumerate() {
            let upto = upto - before.buckets.get(place).map_or(0.0, |(_, upto)| *upto);
            if upto >= rank {
                return lower + (bound - lower) * ((rank - below) / (upto - below).max(f64::MIN_POSITIVE));
            }
            (lower, below) = (*bound, upto);
        }
        lower
    }
}

/// Whether the process that answers at this address is ready.
pub async fn is_ready(address: &str) -> bool {
    fetch(address, "/readyz").await.is_ok()
}

async fn scrape(address: &str) -> Result<String> {
    fetch(address, "/metrics").await
}

/// A page in plain HTTP, if it is there.
async fn fetch(address: &str, path: &str) -> Result<String> {
    let fetching = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let request = http::Request::builder().uri(path).header(HOST, address).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == 200, "{address}{path}: {}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        driving.abort();
        Ok(String::from_utf8(body.into())?)
    };
    tokio::time::timeout(PATIENCE, fetching).await.with_context(|| format!("{address}{path}: no answer"))?
}

fn depths(text: &str) -> BTreeMap<String, f64> {
    let depth = |(name, labels, value): (&str, &str, f64)| {
        (name == "keyturn_queue_messages").then(|| Some((label(labels, "queue")?.to_owned(), value)))?
    };
    lines(text).filter_map(depth).collect()
}

/// The lines of Prometheus's text format: name, labels, value.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (head, value) = line.rsplit_once(' ')?;
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        Some((name, labels.trim_end_matches('}'), value.parse().ok()?))
    })
}

/// Which queue it is about: our own metrics and those of OpenTelemetry name it differently.
fn queue(labels: &str) -> Option<&str> {
    label(labels, "queue").or_else(|| label(labels, "messaging_destination_name"))
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|one| one.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE keyturn_queue_messages gauge\nkeyturn_queue_messages{queue=\"requests\"} 3\n\
        keyturn_queue_leased{queue=\"requests\"} 2\n\n\
        keyturn_queue_wait_seconds_bucket{queue=\"findings\",le=\"0.5\"} 1\n\
        keyturn_queue_wait_seconds_bucket{queue=\"findings\",le=\"2.5\"} 3\n\
        keyturn_queue_wait_seconds_bucket{queue=\"findings\",le=\"+Inf\"} 4\n\
        keyturn_queue_wait_seconds_sum{queue=\"findings\"} 12\nkeyturn_queue_wait_seconds_count{queue=\"findings\"} 4\n\
        messaging_process_duration_seconds_sum{messaging_system=\"sqlite\",messaging_destination_name=\"outcomes\"} 2\n\
        messaging_process_duration_seconds_count{messaging_system=\"sqlite\",messaging_destination_name=\"outcomes\"} 4\n";

    #[test]
    fn what_the_server_measures_is_read_as_it_grows() {
        assert_eq!(depths(TEXT), BTreeMap::from([("requests".to_owned(), 3.0)]));
        let (mut before, mut after) = (Meters::default(), Meters::default());
        before.read(TEXT);
        // Four more, all of them between half a second and two and a half: the 99th percentile is nearly all the way up.
        let more =
            TEXT.replace("} 12\n", "} 20\n").replace("} 4\n", "} 8\n").replace("\"2.5\"} 3", "\"2.5\"} 7");
        after.read(&more);
        let meter = after.since(&before)["waits on findings"];
        assert_eq!((meter.count, meter.mean, meter.p99), (4.0, 2.0, 0.5 + 2.0 * 0.99));
        // From the start, one of them is beyond the last bound.
        let whole = after.since(&Meters::default())["waits on findings"];
        assert_eq!((whole.count, whole.p99), (8.0, 2.5));
        let batches = after.since(&Meters::default())["a batch of outcomes"];
        assert_eq!((batches.count, batches.mean), (8.0, 0.25));
        assert!(after.since(&after).is_empty(), "nothing new");
    }
}
