//! What an error of Azure means to a caller, told by its status and its code alone.
//!
//! `{:?}` of the SDK's errors prints addresses with their signatures, and their messages quote whatever the other side
//! said. Nothing of that goes any further than this file: of an answer there is only its status and its error code,
//! and a code that is not a plain word is not believed.

use azure_core::Error as AzureError;
use azure_core::error::ErrorKind;
use azure_core::http::StatusCode;
use keyturn_ports::{Error, Kind};
use serde::Deserialize;

/// Settings from which no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The credential.
    #[error("azure.credential: {0}")]
    Credential(String),
    /// A file that is needed.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The HTTPS client.
    #[error("azure: no HTTPS client can be made: {0}")]
    Client(String),
    /// A service's client.
    #[error("{setting}: {problem}")]
    Service {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// An answer that was an error, as far as it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Its status.
    pub(crate) status: u16,
    /// The innermost error code that is a plain word.
    pub(crate) code: Option<String>,
    /// What its header `Retry-After` says, in seconds.
    pub(crate) retry_after: Option<u64>,
}

/// How a call ended that did not end well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It was answered, with an error.
    Refused(Refused),
    /// There was no answer, or not a whole one. Whether the call had an effect is unknown.
    Silence(&'static str),
    /// No token could be had, so the call was never made; with the status of whoever was asked for one.
    NoToken(Option<u16>),
    /// The answer is not what the service should say.
    Nonsense(&'static str),
}

impl Failure {
    /// What an error of the SDK was.
    pub(crate) fn of(error: &AzureError) -> Self {
        match error.kind() {
            ErrorKind::HttpResponse { status, raw_response, error_code } => {
                let retry_after = raw_response.as_ref().and_then(|raw| {
                    let header = raw.headers().get_optional_str(&azure_core::http::headers::RETRY_AFTER);
                    header.and_then(|text| text.trim().parse().ok())
                });
                let inner = raw_response.as_ref().and_then(|raw| innermost(raw.body().as_ref()));
                let code = inner.or_else(|| error_code.clone()).filter(|code| is_plain(code));
                Self::Refused(Refused { status: u16::from(*status), code, retry_after })
            }
            ErrorKind::Connection => Self::Silence("the connection could not be made"),
            ErrorKind::Io => Self::Silence("the connection broke or took too long"),
            ErrorKind::DataConversion => Self::Nonsense("the answer cannot be read"),
            ErrorKind::Credential => Self::NoToken(asked(error).map(u16::from)),
            ErrorKind::Other => {
                Self::Nonsense("the call was not made, or its answer is not one of this service")
            }
        }
    }

    /// Whether it may be that the call had its effect.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Self::Silence(_) | Self::Nonsense(_) => true,
            Self::NoToken(_) => false,
            Self::Refused(refused) => refused.status >= 500 || refused.status == 408,
        }
    }

    /// The same as an error of a port.
    pub(crate) fn during(&self, action: &'static str) -> Error {
        Error::new(self.kind(), action, self.to_string())
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Refused(Refused { status: 401 | 403, .. }) | Self::NoToken(Some(400 | 401 | 403)) => {
                Kind::Denied
            }
            _ => Kind::Unavailable,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(Refused { status, code: Some(code), .. }) => write!(f, "status {status}, {code}"),
            Self::Refused(Refused { status, code: None, .. }) => write!(f, "status {status}"),
            Self::Silence(what) | Self::Nonsense(what) => f.write_str(what),
            Self::NoToken(Some(status)) => {
                write!(f, "no token was given for azure.credential: status {status}")
            }
            Self::NoToken(None) => {
                f.write_str("no token was given for azure.credential: whoever gives them cannot be reached")
            }
        }
    }
}

/// The status within an error of a credential, however deep.
fn asked(error: &AzureError) -> Option<StatusCode> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = next {
        if let Some(status) = one.downcast_ref::<AzureError>().and_then(AzureError::http_status) {
            return Some(status);
        }
        next = one.source();
    }
    None
}

#[derive(Deserialize)]
struct Body {
    error: Coded,
}

#[derive(Deserialize)]
struct Coded {
    code: Option<String>,
    #[serde(alias = "innerError")]
    innererror: Option<Box<Self>>,
}

/// The innermost code of an error's body, if it is a plain word.
pub(crate) fn code_in(body: &[u8]) -> Option<String> {
    innermost(body).filter(|code| is_plain(code))
}

/// The innermost code of an error's body: `Forbidden` says less than the `ForbiddenByRbac` in it.
fn innermost(body: &[u8]) -> Option<String> {
    let Body { mut error } = serde_json::from_slice(body).ok()?;
    let mut code = error.code.take();
    while let Some(inner) = error.innererror.take() {
        error = *inner;
        code = error.code.take().or(code);
    }
    code
}

fn is_plain(code: &str) -> bool {
    (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::{innermost, is_plain};

    #[test]
    fn the_innermost_code_counts() {
        let body =
            br#"{"error":{"code":"Forbidden","message":"s3cret","innererror":{"code":"ForbiddenByRbac"}}}"#;
        assert_eq!(innermost(body).as_deref(), Some("ForbiddenByRbac"));
        assert_eq!(innermost(br#"{"error":{"code":"Throttled"}}"#).as_deref(), Some("Throttled"));
        assert_eq!(innermost(b"<html>"), None);
    }

    #[test]
    fn a_code_that_is_no_word_is_not_believed() {
        assert!(is_plain("ForbiddenByRbac"));
        for strange in ["", "https://x/?sig=a", "a b", "a\nb", &"a".repeat(65)] {
            assert!(!is_plain(strange), "{strange}");
        }
    }
}
