//! The way to Azure: one HTTPS client with our bounds, and a fence around each service.
//!
//! A bearer token goes with each call, so a call goes nowhere but to the host it is meant for: redirects are not
//! followed, and an address that an answer names (the next page of a list) is refused unless it is of the same origin.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::{AsyncRawResponse, ClientOptions, HttpClient, Request, RetryOptions, Transport, Url};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::{Error, Kind};
use reqwest::redirect::Policy;
use reqwest::tls::Version;

use crate::failure::SetupError;
use crate::logs::answer::date;

/// How services are reached.
#[derive(Clone, Debug)]
pub struct Reach {
    /// How long a call may take, with everything.
    pub timeout: Duration,
    /// Certificates in PEM that servers' must chain to, instead of those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// The proxy on the way. Those of the environment are never used.
    pub proxy: Option<String>,
}

/// The origin of a service: `https://` and a host, in lower case, with a port if it is not 443, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpsUrl(Url);

/// A text that is not such an origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{0}\" is not an address like https://example.vault.azure.net: https, a host, and nothing after it"
)]
pub struct NotAUrl(String);

impl FromStr for HttpsUrl {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, NotAUrl> {
        let wrong = || NotAUrl(text.chars().take(128).collect());
        let url = Url::parse(text).map_err(|_| wrong())?;
        let bare = url.username().is_empty() && url.password().is_none();
        let ends = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        (url.scheme() == "https" && url.host_str().is_some() && bare && ends)
            .then_some(Self(url))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl HttpsUrl {
    /// The host.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The host, with its port if that is not 443.
    pub(crate) fn authority(&self) -> &str {
        self.0.authority()
    }

    /// Whether `url` is of this origin.
    pub(crate) fn covers(&self, url: &Url) -> bool {
        url.origin() == self.0.origin()
    }

    /// With this path, which begins with a slash.
    pub(crate) fn with(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(path);
        url
    }
}

impl Reach {
    /// A client. What gives out managed identities is asked over plain HTTP on the machine itself, and never through
    /// the proxy: so `local` clients may do that.
    pub(crate) fn client(&self, local: bool) -> Result<reqwest::Client, SetupError> {
        let told = |error: reqwest::Error| SetupError::Client(error.without_url().to_string());
        let mut builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .tls_version_min(Version::TLS_1_2)
            .https_only(!local)
            .timeout(self.timeout)
            .no_proxy();
        if let Some(proxy) = self.proxy.as_ref().filter(|_| !local) {
            builder = builder.proxy(reqwest::Proxy::all(proxy).map_err(told)?);
        }
        if let Some(pem) = &self.ca {
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem).map_err(told)?);
        }
        builder.build().map_err(told)
    }

    /// The time that a service tells with an answer, to the second; none if it tells none. What it is asked is nothing, without
    /// a token, so the answer may as well be a refusal.
    ///
    /// # Errors
    /// `Unavailable` if nobody answers there whom certificates vouch for.
    pub async fn time_of(&self, url: &HttpsUrl) -> Result<Option<UnixMillis>, Error> {
        const ASKING: &str = "asking a service for its time";
        let client =
            self.client(false).map_err(|error| Error::new(Kind::Denied, ASKING, error.to_string()))?;
        let answer = client.get(url.with("/")).send().await.map_err(|_| {
            Error::new(Kind::Unavailable, ASKING, format!("{url} did not answer over TLS that is trusted"))
        })?;
        Ok(date(answer.headers()))
    }

    /// Options for a client of the SDK that talks to one origin.
    pub(crate) fn options(&self, origin: &HttpsUrl) -> Result<ClientOptions, SetupError> {
        let fenced = Fenced { client: self.client(false)?, origin: origin.clone() };
        Ok(options(Arc::new(fenced)))
    }

    /// Options for a credential.
    pub(crate) fn options_of_credential(&self, local: bool) -> Result<ClientOptions, SetupError> {
        Ok(options(Arc::new(self.client(local)?)))
    }
}

fn options(client: Arc<dyn HttpClient>) -> ClientOptions {
    ClientOptions {
        retry: RetryOptions::none(),
        transport: Some(Transport::new(client)),
        ..ClientOptions::default()
    }
}

/// A client that talks to one origin.
#[derive(Debug)]
struct Fenced {
    client: reqwest::Client,
    origin: HttpsUrl,
}

#[async_trait]
impl HttpClient for Fenced {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        if !self.origin.covers(request.url()) {
            return Err(azure_core::Error::with_message(
                ErrorKind::Other,
                "an answer led to another host; nothing was sent there",
            ));
        }
        self.client.execute_request(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::HttpsUrl;

    #[test]
    fn an_origin_and_nothing_else() {
        let origin = |text: &str| text.parse::<HttpsUrl>().map(|url| url.to_string());
        assert_eq!(origin("https://One.vault.azure.net/").unwrap(), "https://one.vault.azure.net");
        assert_eq!(origin("https://one.vault.azure.net:443").unwrap(), "https://one.vault.azure.net");
        for wrong in [
            "http://one.vault.azure.net",
            "https://one/x",
            "https://u:p@one",
            "https://one?x=1",
            "https://one#x",
            "one",
            "",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
