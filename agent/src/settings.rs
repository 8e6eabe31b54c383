//! What an agent needs to know, as values. [`crate::config`] reads them from a file; a program that embeds
//! agents can build them without one.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ids::DeviceId;
use keyturn_schemas::claims::{Deployment, Labels};
use keyturn_schemas::signing::PublicKey;
use reqwest::Url;

use crate::identity::Identity;

/// The settings of one agent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's device API.
    pub server: ServerUrl,
    /// Certificates (PEM) that the server's must chain to, instead of those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// The proxy on the way to a server that is reached over TLS. Those of the environment are never used.
    pub proxy: Option<ProxyUrl>,
    /// The deployment the agent belongs to.
    pub deployment: Deployment,
    /// The deployment's offline root key, the only key the agent trusts from the start.
    pub root: PublicKey,
    /// The device, as the directory numbers it.
    pub device: DeviceId,
    /// The device's registered key.
    pub identity: Arc<Identity>,
    /// The folder of the journal, the lock and the key set. One per agent.
    pub state: PathBuf,
    /// What the device says about itself.
    pub labels: Labels,
    /// The machine's SMBIOS UUID, where it may be read.
    pub machine: Option<String>,
    /// Whether the managed account is created when it is missing.
    pub create_account: bool,
    /// How long a request waits for its result. At most an hour.
    pub wait: Duration,
    /// How often the agent checks in while it runs as a service.
    pub check_in: Duration,
    /// Over how long the first check-ins of agents that start at the same time are spread.
    pub splay: Duration,
    /// The finer points of timing.
    pub timing: Timing,
}

/// The default of [`Settings::wait`].
pub const WAIT: Duration = Duration::from_mins(15);

/// The default of [`Settings::check_in`].
pub const CHECK_IN: Duration = Duration::from_hours(1);

/// The default of [`Settings::splay`].
pub const SPLAY: Duration = Duration::from_mins(5);

/// How the agent paces itself. The defaults are the protocol's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// After a message whose fate is unknown, nothing else is sent for this long. Also the time a message may
    /// take to be answered.
    pub unknown_post: Duration,
    /// Between the answer to a message and the next message, so that servers whose clocks differ a little give
    /// them different times.
    pub gap: Duration,
    /// How long a poll asks the server to wait, at most 30 s.
    pub long_poll: Duration,
    /// How long the answer to a report is waited for. A missing one does no harm.
    pub report_wait: Duration,
    /// How long a connection may take.
    pub connect: Duration,
    /// The first pause between attempts; each one is twice the one before, half of it at random.
    pub retry: Duration,
    /// The longest pause between attempts. A server that asks for a longer one is obeyed by giving up for now.
    pub patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            unknown_post: Duration::from_secs(30),
            gap: Duration::from_secs(2),
            long_poll: Duration::from_secs(30),
            report_wait: Duration::from_secs(5),
            connect: Duration::from_secs(10),
            retry: Duration::from_millis(500),
            patience: Duration::from_mins(1),
        }
    }
}

/// The address of the device API: https, or http to this very machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(Url);

/// A text that is not a usable address.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error(
    "expected an https address, like https://keyturn.example.org; plain http only to this machine (127.0.0.1, ::1)"
)]
pub struct NotAServer;

impl ServerUrl {
    /// The address of `path`, which is relative to the API's root.
    pub(crate) fn at(&self, path: &str) -> Option<Url> {
        self.0.join(path).ok()
    }

    /// Whether the server is reached without TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }
}

impl FromStr for ServerUrl {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        let mut url = Url::parse(text).map_err(|_| NotAServer)?;
        let bare = url.username().is_empty() && url.password().is_none();
        let bare = bare && url.query().is_none() && url.fragment().is_none();
        let safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
        if !bare || !safe {
            return Err(NotAServer);
        }
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Ok(Self(url))
    }
}

/// The address of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(Url);

/// A text that is not the address of a proxy.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("expected a proxy's address without a user, like http://proxy.example.org:3128")]
pub struct NotAProxy;

impl ProxyUrl {
    pub(crate) fn url(&self) -> Url {
        self.0.clone()
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
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_or_this_machine() {
        for good in [
            "https://keyturn.example.org",
            "https://h:8443/base/",
            "http://127.0.0.1:8080",
            "http://[::1]:80",
        ] {
            assert!(good.parse::<ServerUrl>().is_ok(), "{good}");
        }
        for bad in [
            "http://keyturn.example.org",
            "http://10.0.0.1",
            "http://localhost",
            "https://user@host",
            "https://h/?q",
            "https://h/#f",
            "ftp://h",
            "keyturn.example.org",
            "",
            "http://127.0.0.1.evil.org",
        ] {
            assert_eq!(bad.parse::<ServerUrl>(), Err(NotAServer), "{bad}");
        }
    }

    #[test]
    fn a_proxy_has_an_address_and_nothing_more() {
        for good in ["http://proxy:3128", "https://proxy.example.org", "http://10.0.0.1:8080/"] {
            assert!(good.parse::<ProxyUrl>().is_ok(), "{good}");
        }
        for bad in ["proxy:3128", "socks5://proxy", "http://user:word@proxy", "http://proxy/path", ""] {
            assert_eq!(bad.parse::<ProxyUrl>(), Err(NotAProxy), "{bad}");
        }
    }

    #[test]
    fn paths_are_below_the_base() {
        let server: ServerUrl = "https://host/base".parse().unwrap();
        assert_eq!(server.at("v1/nonce").unwrap().as_str(), "https://host/base/v1/nonce");
        assert_eq!(server.to_string(), "https://host/base");
    }
}
