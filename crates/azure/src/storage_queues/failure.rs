//! What the SDK's errors come to. Never printed with `{:?}`: that shows the URL with its signature.

use azure_core::error::ErrorKind;
use azure_core::http::StatusCode;
use keyturn_ports::{Error, Kind};

use crate::retry::count_throttle;

/// What a call ended with that did not succeed.
pub(super) enum Failure {
    /// The receipt names no lease any more.
    LeaseLost,
    /// Anything else.
    Other(Error),
}

impl Failure {
    /// Reads an error of the SDK. A stale pop receipt is 400 PopReceiptMismatch or 404 MessageNotFound; a queue that
    /// is not there is 404 as well.
    pub(super) fn of(action: &'static str, error: &azure_core::Error) -> Self {
        let code = match error.kind() {
            ErrorKind::HttpResponse { error_code, .. } => error_code.as_deref().unwrap_or_default(),
            _ => "",
        };
        match (error.http_status(), code) {
            (Some(StatusCode::BadRequest), "PopReceiptMismatch" | "InvalidQueryParameterValue")
            | (Some(StatusCode::NotFound), "MessageNotFound") => Self::LeaseLost,
            (status, code) => Self::Other(told(action, error, status, code)),
        }
    }

    /// The error, for calls that no lease is needed for.
    pub(super) fn error(self) -> Error {
        match self {
            Self::LeaseLost => {
                Error::new(Kind::Unavailable, "using a storage queue", "a lease was lost where there is none")
            }
            Self::Other(error) => error,
        }
    }
}

fn told(action: &'static str, error: &azure_core::Error, status: Option<StatusCode>, code: &str) -> Error {
    let Some(status) = status else {
        // The kind alone: the message may have the URL in it.
        let detail = match error.kind() {
            ErrorKind::Credential => "no token could be had; see the credential's settings",
            ErrorKind::Connection => "the service cannot be reached",
            ErrorKind::DataConversion => "the service answered what cannot be read",
            _ => "the request failed before there was an answer",
        };
        return Error::new(Kind::Unavailable, action, detail);
    };
    count_throttle("storage_queue", u16::from(status));
    let kind = match status {
        StatusCode::Unauthorized | StatusCode::Forbidden => Kind::Denied,
        StatusCode::PayloadTooLarge | StatusCode::BadRequest => Kind::Corrupt,
        _ => Kind::Unavailable,
    };
    let mend = match (status, code) {
        (StatusCode::Forbidden, _) => "; see which role the identity needs: docs/AZURE.md",
        (_, "QueueNotFound") => "; the queue is made when a process starts",
        _ => "",
    };
    Error::new(kind, action, format!("the service answered {} {code}{mend}", u16::from(status)))
}
