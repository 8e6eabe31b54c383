//! Where alarms are sent: receivers outside the house, as an operator names them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

use crate::lane::Alarm;

/// How alarms leave the house.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmPolicy {
    /// The receivers. Without any, alarms stay in the log and in the timeline.
    pub webhooks: Vec<Webhook>,
    /// How long one delivery may take, from the connection to the head of the answer.
    pub timeout: Duration,
    /// The way to receivers that are reached over TLS.
    pub proxy: Option<ProxyUrl>,
    /// Certificates (PEM) that receivers' must chain to, instead of those that the system trusts.
    pub ca: Option<Vec<u8>>,
}

impl Default for AlarmPolicy {
    fn default() -> Self {
        Self { webhooks: Vec::new(), timeout: Duration::from_secs(10), proxy: None, ca: None }
    }
}

/// A receiver of alarms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: WebhookName,
    /// Its address.
    pub url: WebhookUrl,
    /// Which alarms it is sent.
    pub kinds: BTreeSet<Alarm>,
}

/// The name of a webhook: 1 to 32 characters of a-z, 0-9 and the hyphen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookName(String);

/// A text that is no name of a webhook.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("a webhook's name is 1 to 32 characters of a-z, 0-9 and the hyphen")]
pub struct NotAName;

impl WebhookName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebhookName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = (1..=32).contains(&text.len()) && text.bytes().all(fits);
        good.then(|| Self(text.to_owned())).ok_or(NotAName)
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for WebhookName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WebhookName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The address of a receiver: https, or http to this very machine. Receivers of many services are known by what
/// stands in the path, so only scheme, host and port are ever printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

/// A text that is not a usable address.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error(
    "expected an https address without user or fragment, like https://alerts.example.org/keyturn; plain http only to \
     this machine (127.0.0.1, ::1)"
)]
pub struct NotAReceiver;

impl WebhookUrl {
    /// The address in full.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the receiver is on this machine and reached without TLS.
    pub fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }
}

impl FromStr for WebhookUrl {
    type Err = NotAReceiver;

    fn from_str(text: &str) -> Result<Self, NotAReceiver> {
        let url = Url::parse(text).map_err(|_| NotAReceiver)?;
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
        if bare && safe { Ok(Self(url)) } else { Err(NotAReceiver) }
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address of a proxy, without a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(Url);

/// A text that is not the address of a proxy.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("expected a proxy's address without a user, like http://proxy.example.org:3128")]
pub struct NotAProxy;

impl ProxyUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for ProxyUrl {
    type Err = NotAProxy;

    fn from_str(text: &str) -> Result<Self, NotAProxy> {
        let url = Url::parse(text).map_err(|_| NotAProxy)?;
        let bare = url.username().is_empty() && url.password().is_none();
        let bare = bare && url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let known = matches!(url.scheme(), "http" | "https") && url.has_host();
        if bare && known { Ok(Self(url)) } else { Err(NotAProxy) }
    }
}

/// Names are not trusted to lead home: only addresses are.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        Some(Host::Domain(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_or_this_machine() {
        for good in
            ["https://a.example.org/x?token=y", "https://h:8443", "http://127.0.0.1:80/", "http://[::1]:9/"]
        {
            assert!(good.parse::<WebhookUrl>().is_ok(), "{good}");
        }
        for bad in [
            "http://a.example.org/",
            "http://10.0.0.1/",
            "http://localhost/",
            "http://169.254.169.254/latest",
            "http://127.0.0.1.evil.org/",
            "http://[::ffff:10.0.0.1]/",
            "https://user@h/",
            "https://u:p@h/",
            "https://h/#f",
            "ftp://h/",
            "file:///etc/passwd",
            "a.example.org",
            "",
        ] {
            assert_eq!(bad.parse::<WebhookUrl>(), Err(NotAReceiver), "{bad}");
        }
    }

    #[test]
    fn what_stands_in_the_path_is_not_printed() {
        let url: WebhookUrl = "https://hooks.example.org:8443/T0/secret?token=x".parse().unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "https://hooks.example.org:8443/… https://hooks.example.org:8443/…"
        );
        assert_eq!(url.as_str(), "https://hooks.example.org:8443/T0/secret?token=x");
    }

    #[test]
    fn names_are_short_and_plain() {
        assert!("on-call-2".parse::<WebhookName>().is_ok());
        for bad in ["", "On-call", "a b", "a/b", &"a".repeat(33)] {
            assert_eq!(bad.parse::<WebhookName>(), Err(NotAName), "{bad}");
        }
    }
}
