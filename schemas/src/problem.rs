//! Errors on the device API: RFC 9457 problem details with a stable `code`.

use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// A URI reference that names the kind of problem: `urn:keyturn:error:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short summary, the same for every problem of this kind.
    pub title: String,
    /// The HTTP status.
    #[cfg_attr(feature = "schema", schemars(range(min = 400, max = 599)))]
    pub status: u16,
    /// The stable code, like `KT-0101`; each has a page under docs/errors.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^KT-[0-9]{4}$")))]
    pub code: String,
    /// What is wrong with this message and how to mend it, where that may be said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// A fresh nonce, where the problem was the nonce.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::nonce::Nonce>"))]
    pub nonce: Option<String>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(status: u16, code: &str, title: &str) -> Self {
        let kind = format!("urn:keyturn:error:{code}");
        Self { kind, title: title.to_owned(), status, code: code.to_owned(), detail: None, nonce: None }
    }

    /// With what is wrong this time.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}
