//! The way to a namespace: TCP, TLS, SASL, and an AMQP connection.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Connection;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use keyturn_ports::{Error, Kind};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::failure::Wrong;
use super::stream::{Held, Watched};

/// The other side is told to speak up within this; the service says so too, and either answers with empty frames.
const IDLE: Duration = Duration::from_mins(2);

/// Where a namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    host: String,
    port: u16,
    protected: bool,
}

/// An address or a prefix that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NamespaceError {
    /// The address is none.
    #[error("is no address like sb://NAMESPACE.servicebus.windows.net")]
    Address,
    /// Messages would go unprotected over a network.
    #[error("must begin with sb:// or amqps://; plain amqp is for a fake on this machine alone")]
    Unprotected,
    /// The address has parts that it must not have.
    #[error("must have neither a user, nor a path, nor a query; a key belongs into a file")]
    Surplus,
    /// The service would not have queues of such names.
    #[error("the prefix must be 0 to 200 characters of a-z 0-9 - . _ / and begin with a letter or digit")]
    Prefix,
}

impl Namespace {
    /// The namespace at `url`.
    pub fn parse(url: &str) -> Result<Self, NamespaceError> {
        let (scheme, rest) = url.split_once("://").ok_or(NamespaceError::Address)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(NamespaceError::Surplus);
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| NamespaceError::Address)?)),
            None => (rest, None),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if host.is_empty() || host.len() > 253 || !host.bytes().all(fits) || port == Some(0) {
            return Err(NamespaceError::Address);
        }
        let host = host.to_ascii_lowercase();
        let here = matches!(host.as_str(), "localhost" | "127.0.0.1");
        match scheme {
            "sb" | "amqps" => Ok(Self { host, port: port.unwrap_or(5671), protected: true }),
            "amqp" if here => Ok(Self { host, port: port.unwrap_or(5672), protected: false }),
            "amqp" => Err(NamespaceError::Unprotected),
            _ => Err(NamespaceError::Address),
        }
    }

    /// Whether connections are under TLS.
    pub(super) fn is_protected(&self) -> bool {
        self.protected
    }

    /// What tokens for an entity are made for.
    pub(super) fn audience(&self, entity: &str) -> String {
        format!("sb://{}/{entity}", self.host)
    }
}

/// How the server proves who it is: by certificates in PEM that its own must chain to, or by those that the system
/// trusts.
pub(super) fn tls(ca: Option<&[u8]>) -> Result<TlsConnector, Error> {
    let refused = |detail: &str| Error::new(Kind::Denied, "using Service Bus", detail.to_owned());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| refused("TLS cannot be set up"))?;
    let builder = match ca {
        None => builder.with_platform_verifier().map_err(|_| refused("the system trusts no certificates"))?,
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|_| refused("azure.ca_file is no PEM"))?;
                roots.add(certificate).map_err(|_| refused("azure.ca_file has what is no certificate"))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    Ok(TlsConnector::from(Arc::new(builder.with_no_client_auth())))
}

/// A connection, and its stream.
pub(super) struct Dialled {
    pub(super) connection: ConnectionHandle<()>,
    pub(super) is_cut: watch::Receiver<bool>,
    pub(super) held: Held,
}

/// A connection, that of nobody yet: who may do what is told to `$cbs`.
pub(super) async fn connect(to: &Namespace, tls: &TlsConnector) -> Result<Dialled, Wrong> {
    let away = |_| Wrong::silence("the service cannot be reached");
    let stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(away)?;
    // Without it every answer to a request waits for an acknowledgement that is not sent at once.
    stream.set_nodelay(true).map_err(away)?;
    let mut random = [0_u8; 8];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut random)
        .map_err(|_| Wrong::silence("there is no randomness"))?;
    let builder = Connection::builder()
        .container_id(format!("keyturn-{:016x}", u64::from_le_bytes(random)))
        .hostname(to.host.as_str())
        .scheme("amqp")
        .sasl_profile(SaslProfile::Anonymous)
        .max_frame_size(65_536_u32)
        .idle_time_out(u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX));
    if !to.protected {
        let (stream, is_cut, held) = Watched::new(stream);
        return Ok(Dialled { connection: builder.open_with_stream(stream).await?, is_cut, held });
    }
    let name = ServerName::try_from(to.host.clone()).map_err(|_| Wrong::silence("the host has no name"))?;
    let stream = tls.connect(name, stream).await;
    let stream =
        stream.map_err(|_| Wrong::silence("the server's certificate is not trusted, or TLS failed"))?;
    let (stream, is_cut, held) = Watched::new(stream);
    Ok(Dialled { connection: builder.open_with_stream(stream).await?, is_cut, held })
}

#[cfg(test)]
mod tests {
    use super::{Namespace, NamespaceError};

    #[test]
    fn addresses_are_checked() {
        for (url, expected) in [
            ("sb://contoso.servicebus.windows.net", None),
            ("sb://contoso.servicebus.windows.net/", None),
            ("amqps://contoso.servicebus.windows.net:5671", None),
            ("amqp://127.0.0.1:5672", None),
            ("amqp://contoso.servicebus.windows.net", Some(NamespaceError::Unprotected)),
            ("amqp://127.0.0.1.example.org", Some(NamespaceError::Unprotected)),
            ("https://contoso.servicebus.windows.net", Some(NamespaceError::Address)),
            ("contoso.servicebus.windows.net", Some(NamespaceError::Address)),
            ("sb://", Some(NamespaceError::Address)),
            ("sb://contoso:0", Some(NamespaceError::Address)),
            ("sb://user:key@contoso", Some(NamespaceError::Surplus)),
            ("sb://contoso/queue", Some(NamespaceError::Surplus)),
            ("sb://contoso?key=x", Some(NamespaceError::Surplus)),
        ] {
            assert_eq!(Namespace::parse(url).err(), expected, "{url}");
        }
        assert_eq!(Namespace::parse("sb://Contoso/").unwrap().audience("q"), "sb://contoso/q");
    }
}
