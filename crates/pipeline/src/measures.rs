//! What is counted of messaging, under the names of OpenTelemetry's semantic conventions for it (version 1.44, in
//! development), as Prometheus writes them.
//!
//! All metrics are in one table, docs/METRICS.md. Labels have few values: never a device, a message or a person.

use std::time::Duration;

use keyturn_ports::queue::{Queue, QueueName};
use keyturn_ports::{Error, Kind};

/// Counts for one queue.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    system: &'static str,
    queue: &'static str,
}

impl Meter {
    /// Counts for `name` on the engine that it has.
    pub fn of(queue: &dyn Queue, name: QueueName) -> Self {
        Self { system: queue.system(name), queue: name.as_str() }
    }

    /// Messages that were sent.
    pub fn sent(self, messages: usize) {
        metrics::counter!("messaging_client_sent_messages_total", "messaging_system" => self.system,
            "messaging_destination_name" => self.queue, "messaging_operation_name" => "send")
        .increment(count(messages));
    }

    /// Messages that were leased, for the operation that is done with them. A repeated delivery counts again.
    pub fn consumed(self, messages: usize, operation: &'static str) {
        metrics::counter!("messaging_client_consumed_messages_total", "messaging_system" => self.system,
            "messaging_destination_name" => self.queue, "messaging_operation_name" => operation)
        .increment(count(messages));
    }

    /// A batch that was worked off.
    pub fn processed(self, took: Duration, operation: &'static str) {
        metrics::histogram!("messaging_process_duration_seconds", "messaging_system" => self.system,
            "messaging_destination_name" => self.queue, "messaging_operation_name" => operation)
        .record(took.as_secs_f64());
    }

    /// A call to the engine: `lease` or `settle`.
    pub fn called<T>(self, operation: &'static str, took: Duration, result: &Result<T, Error>) {
        metrics::histogram!("messaging_client_operation_duration_seconds", "messaging_system" => self.system,
            "messaging_destination_name" => self.queue, "messaging_operation_name" => operation,
            "error_type" => result.as_ref().err().map_or("", |error| word(error.kind())))
        .record(took.as_secs_f64());
    }
}

fn count(messages: usize) -> u64 {
    u64::try_from(messages).unwrap_or(u64::MAX)
}

/// An error's kind as `error.type`.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Unavailable => "unavailable",
        Kind::Full => "full",
        Kind::Corrupt => "corrupt",
        Kind::Denied => "denied",
    }
}
