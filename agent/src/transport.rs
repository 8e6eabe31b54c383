//! One HTTP exchange. What is sent and what comes back means nothing here; that is [`crate::client`]'s matter.

use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::envelope::TraceParent;
use keyturn_schemas::ticket::FOLLOWS;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::tls::Version;

use crate::client::Ticket;
use crate::settings::{ServerUrl, Settings};

/// The largest answer that is read, in bytes. A result is a tenth of it.
pub const MAX_BODY: usize = 64 * 1024;

/// The media type of a signed message.
pub const JOSE: &str = "application/jose";

/// Something that exchanges a call for a reply. Each exchange is one attempt.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `call` and waits for the answer.
    async fn exchange(&self, call: Call<'_>) -> Result<Reply, Error>;
}

/// A call to the device API.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The path below the API's root, without a leading slash.
    pub path: &'a str,
    /// A signed message to post; none to get.
    pub message: Option<&'a str>,
    /// How long the server may hold the answer back.
    pub wait: Option<Duration>,
    /// When to give up.
    pub timeout: Duration,
    /// The step of the run's trace that this is.
    pub trace: Option<TraceParent>,
    /// The ticket of the run's first message, if this call comes after it.
    pub follows: Option<&'a Ticket>,
}

/// An answer of whatever status.
#[derive(Clone, Default)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The media type, without its parameters.
    pub media_type: String,
    /// `Retry-After` in its form with seconds.
    pub retry_after: Option<Duration>,
    /// `Replay-Nonce`.
    pub nonce: Option<String>,
    /// The key set.
    pub key_set: Option<String>,
    /// When the server says it answered.
    pub date: Option<UnixMillis>,
    /// The body.
    pub body: Vec<u8>,
}

/// An exchange without an answer. The server may have had the call or not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be built: the certificates to trust, or the proxy, cannot be used.
    #[error("the TLS client cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// The path is none. Cannot happen with checked tickets.
    #[error("the address is not usable")]
    Address,
    /// No connection, no answer, or not in time.
    #[error("the server did not answer: {}", root_cause(.0))]
    Exchange(#[source] reqwest::Error),
    /// More than [`MAX_BODY`].
    #[error("the answer is larger than {MAX_BODY} bytes")]
    TooLarge,
}

/// The cause at the bottom, which says what the ones above it only wrap.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// HTTPS, or plain HTTP to this machine.
#[derive(Debug)]
pub struct Http {
    client: reqwest::Client,
    server: ServerUrl,
}

impl Http {
    /// A client for the server of `settings`: TLS 1.2 or newer, no redirects, no retries of its own.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("keyturn-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(settings.timing.connect)
            .tls_version_min(Version::TLS_1_2)
            .https_only(!settings.server.is_plain())
            // Who sets the environment of a service does not choose its way through the network.
            .no_proxy();
        if let Some(proxy) = settings.proxy.as_ref().filter(|_| !settings.server.is_plain()) {
            builder = builder.proxy(reqwest::Proxy::all(proxy.url()).map_err(Error::Setup)?);
        }
        if let Some(pem) = &settings.ca {
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).map_err(Error::Setup)?);
        }
        Ok(Self { client: builder.build().map_err(Error::Setup)?, server: settings.server.clone() })
    }

    async fn send(&self, call: Call<'_>) -> Result<Reply, Error> {
        let url = self.server.at(call.path).ok_or(Error::Address)?;
        let request = match call.message {
            Some(text) => self.client.post(url).header(CONTENT_TYPE, JOSE).body(text.to_owned()),
            None => self.client.get(url),
        };
        let request = request.header(ACCEPT, "application/jose, application/json, application/problem+json");
        let request = match call.wait {
            Some(wait) => request.header("prefer", format!("wait={}", wait.as_secs())),
            None => request,
        };
        let request = call
            .trace
            .into_iter()
            .fold(request, |request, step| request.header("traceparent", step.to_string()));
        let request =
            call.follows.into_iter().fold(request, |request, first| request.header(FOLLOWS, first.as_str()));
        let response = request.timeout(call.timeout).send().await.map_err(exchange)?;
        let mut reply = head(response.status().as_u16(), response.headers());
        reply.body = body(response).await?;
        Ok(reply)
    }
}

#[async_trait]
impl Transport for Http {
    async fn exchange(&self, call: Call<'_>) -> Result<Reply, Error> {
        self.send(call).await
    }
}

/// The address in the library's errors holds the ticket, and errors are logged.
fn exchange(error: reqwest::Error) -> Error {
    Error::Exchange(error.without_url())
}

fn head(status: u16, headers: &HeaderMap) -> Reply {
    let text = |name: HeaderName| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let media_type = text(CONTENT_TYPE).unwrap_or_default();
    Reply {
        status,
        media_type: media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
        retry_after: text(RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs),
        nonce: text(HeaderName::from_static("replay-nonce")).map(str::to_owned),
        key_set: text(HeaderName::from_static(keyturn_schemas::key_set::HEADER)).map(str::to_owned),
        date: text(DATE).and_then(instant),
        body: Vec::new(),
    }
}

/// An HTTP date (RFC 9110 section 5.6.7, the form that is not obsolete).
fn instant(text: &str) -> Option<UnixMillis> {
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
    u64::try_from(at).ok().map(UnixMillis)
}

async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(exchange)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Error::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_servers_are_read() {
        assert_eq!(instant("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixMillis(784_111_777_000)));
        assert_eq!(instant("yesterday"), None);
    }
}
