//! One error for all ports: what a caller can do about it decides its kind.

use std::error::Error as StdError;

/// What went wrong behind a port.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {detail}")]
pub struct Error {
    kind: Kind,
    action: &'static str,
    detail: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The engine is away or overloaded; the same call may work later. Nothing is known of its outcome.
    Unavailable,
    /// The disk or the quota is full; the call had no effect.
    Full,
    /// What is stored cannot be read: damaged, or written by a newer release. Somebody has to look.
    Corrupt,
    /// The engine will not do this for us, however often it is asked: a permission or a key is missing.
    Denied,
}

impl Error {
    /// An error of this kind while doing `action`.
    pub fn new(kind: Kind, action: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, action, detail: detail.into(), source: None }
    }

    /// The same error with its cause.
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}
