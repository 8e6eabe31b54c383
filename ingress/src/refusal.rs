//! What the ingress answers when it does not take a message. Each has a page under docs/errors.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keyturn_schemas::problem::{MEDIA_TYPE, Problem};

/// Why a message, or a poll, is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The message is not one of this kind.
    Malformed(String),
    /// Not `application/jose`.
    MediaType,
    /// The body is too large.
    TooLarge(usize),
    /// The method is not one this path has; this one is.
    Method(&'static str),
    /// There is no such path.
    NoSuchPath,
    /// The signature is not the certificate's key's. The one generic refusal.
    Signature,
    /// The message is for another deployment.
    Audience,
    /// The nonce is not ours or too old. The answer brings a new one.
    Nonce(String),
    /// More than the client, its key, or all strangers together may send. There is room after this long.
    TooMany(Duration),
    /// No such ticket.
    Ticket,
    /// The queue cannot take it now.
    Unavailable,
    /// The body took too long.
    Slow,
    /// The device was refused before it had proved to be itself.
    Refused,
}

/// Stands beside an answer that is a problem, for what is told of problems at the end.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Its code.
    pub(crate) code: String,
    /// How long the client should wait at least, if it should.
    pub(crate) wait: Option<Duration>,
}

impl Refusal {
    fn problem(&self) -> Problem {
        match self {
            Self::Malformed(detail) => {
                Problem::new(400, "KT-0101", "The message is malformed").detail(detail)
            }
            Self::MediaType => Problem::new(415, "KT-0102", "The message must be sent as application/jose"),
            Self::TooLarge(limit) => Problem::new(413, "KT-0103", "The message is too large")
                .detail(format!("a message has at most {limit} bytes")),
            Self::Method(_) => Problem::new(405, "KT-0104", "This path does not have that method"),
            Self::NoSuchPath => Problem::new(404, "KT-0105", "There is no such path"),
            Self::Signature => Problem::new(403, "KT-0106", "The message is refused"),
            Self::Audience => Problem::new(401, "KT-0107", "The message is for another deployment"),
            Self::Nonce(nonce) => {
                let problem = Problem::new(401, "KT-0108", "The nonce is not fresh")
                    .detail("sign the message anew with the nonce in this answer");
                Problem { nonce: Some(nonce.clone()), ..problem }
            }
            Self::TooMany(_) => Problem::new(429, "KT-0109", "Too many requests"),
            Self::Ticket => Problem::new(404, "KT-0110", "There is no such ticket"),
            Self::Unavailable => Problem::new(503, "KT-0111", "Messages cannot be taken at the moment"),
            Self::Slow => Problem::new(408, "KT-0112", "The message took too long to arrive"),
            Self::Refused => Problem::new(403, "KT-0201", "The device is refused"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = self.problem();
        metrics::counter!("keyturn_http_refusals_total", "code" => problem.code.clone()).increment(1);
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&problem).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 15.5.2 asks for a challenge with every 401; ours is a nonce to sign.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Keyturn"));
        }
        if let Self::Method(allowed) = self {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        }
        let wait = match self {
            // At least as long as the settings say, which are not at hand here.
            Self::Unavailable => Some(Duration::ZERO),
            Self::TooMany(wait) => Some(wait),
            _ => None,
        };
        response.extensions_mut().insert(Told { code: problem.code, wait });
        response
    }
}
