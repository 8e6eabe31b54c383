//! The section `traces`, typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyturn_domain::webhook::WebhookUrl;

use super::{Sections, note};

/// Where and how spans are exported.
#[derive(Clone, Debug)]
pub struct TraceExport {
    /// The collector.
    pub endpoint: WebhookUrl,
    /// The file of headers.
    pub headers_file: Option<PathBuf>,
    /// PEM of the certificates to trust.
    pub ca: Option<Vec<u8>>,
    /// Of so many traces, one is kept. At least 1.
    pub one_in: u64,
    /// Spans that wait.
    pub queue: usize,
    /// Spans exported at once.
    pub batch: usize,
    /// How long a span waits for others.
    pub every: Duration,
    /// How long one export may take.
    pub timeout: Duration,
}

impl Sections {
    /// Where spans go, if anywhere; or what is wrong, each with its key.
    pub(super) fn trace_export(&self) -> Result<Option<TraceExport>, Vec<String>> {
        let (section, mut problems) = (&self.traces, Vec::new());
        let endpoint = section.endpoint.as_ref().map(|text| text.parse::<WebhookUrl>()).transpose();
        let endpoint = note(&mut problems, "traces.endpoint", endpoint).flatten();
        let read = |path: &PathBuf| read(path);
        let ca = note(&mut problems, "traces.ca", section.ca.as_ref().map(read).transpose()).flatten();
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let rules = [
            (section.one_in == 0, "traces.one_in: must be at least 1"),
            (!(1..=1_048_576).contains(&section.queue), "traces.queue: must be 1 to 1048576"),
            (!(1..=8192).contains(&section.batch), "traces.batch: must be 1 to 8192"),
            (
                section.every.0.is_zero() || section.every.0 > minute,
                "traces.every: must be above 0 and at most 1m",
            ),
            (!(second..=minute).contains(&section.timeout.0), "traces.timeout: must be 1s to 1m"),
        ];
        problems.extend(rules.into_iter().filter(|(broken, _)| *broken).map(|(_, text)| text.to_owned()));
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(endpoint.map(|endpoint| TraceExport {
            endpoint,
            headers_file: section.headers_file.clone(),
            ca,
            one_in: section.one_in,
            queue: section.queue,
            batch: section.batch,
            every: section.every.0,
            timeout: section.timeout.0,
        }))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}
