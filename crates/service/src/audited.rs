//! An audit that counts what it could not write.

use std::sync::Arc;

use async_trait::async_trait;
use keyturn_ports::Error;
use keyturn_ports::audit::{AuditSink, NewRow, Row, Verified, Wanted};

/// The audit of a deployment, counted.
pub(crate) struct Counted(pub(crate) Arc<dyn AuditSink>);

/// Counts a failure and hands it on.
fn counted<T>(operation: &'static str, result: Result<T, Error>) -> Result<T, Error> {
    result.inspect_err(|_| {
        metrics::counter!("keyturn_audit_failures_total", "operation" => operation).increment(1);
    })
}

#[async_trait]
impl AuditSink for Counted {
    async fn append(&self, row: NewRow) -> Result<u64, Error> {
        counted("append", self.0.append(row).await)
    }

    async fn probe(&self, row: NewRow) -> Result<(), Error> {
        counted("probe", self.0.probe(row).await)
    }

    async fn select(&self, wanted: Wanted, limit: usize) -> Result<Vec<Row>, Error> {
        counted("read", self.0.select(wanted, limit).await)
    }

    async fn after(&self, seq: u64, limit: usize) -> Result<Vec<Row>, Error> {
        counted("read", self.0.after(seq, limit).await)
    }

    async fn verify(&self) -> Result<Verified, Error> {
        counted("read", self.0.verify().await)
    }
}
