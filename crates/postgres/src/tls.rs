//! TLS to the server, on rustls.
//!
//! The server has to show a certificate for the name it is reached by. Without that, TLS to a database is no more
//! than a cipher: whoever stands in between could be the other end.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use crate::settings::{Settings, Tls};

/// Makes connections of TLS for `tokio-postgres`.
#[derive(Clone)]
pub(crate) struct Maker(Arc<ClientConfig>);

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of the roots.
    #[error("the roots in {file} cannot be used: {detail}")]
    Roots {
        /// The file.
        file: String,
        /// Why.
        detail: String,
    },
    /// The library.
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

impl Maker {
    /// TLS as the settings want it. Reads the file of the roots.
    pub(crate) fn new(settings: &Settings) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = match &settings.tls {
            Tls::VerifyFull { roots: Some(file) } => builder.with_root_certificates(roots(file)?),
            Tls::VerifyFull { roots: None } => builder.with_platform_verifier()?,
            // Never used: such connections are made without TLS.
            Tls::Off | Tls::DangerDisabled => builder.with_root_certificates(RootCertStore::empty()),
        };
        Ok(Self(Arc::new(config.with_no_client_auth())))
    }
}

/// Why TLS with whoever answered came to nothing, and what mends it; None if the error is about something else.
pub(crate) fn refused(error: &tokio_postgres::Error) -> Option<String> {
    let mut cause = Some(error as &(dyn std::error::Error + 'static));
    while let Some(one) = cause {
        let inner = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(error) = inner.or_else(|| one.downcast_ref()) {
            return Some(mend(error));
        }
        cause = one.source();
    }
    None
}

fn mend(error: &rustls::Error) -> String {
    use rustls::CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    match error {
        // A root of the same name and with another key is not its root either.
        rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) => {
            "its certificate is of an authority that is not trusted here; name the file of its roots in \
             state.postgres.roots"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "its certificate is for another name than the host in state.postgres.url; use a name that it is for"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "its certificate has ended; renew it on the server".to_owned()
        }
        other => format!("TLS with it came to nothing: {other}"),
    }
}

/// What is wrong with a PEM file, without what stands in it.
fn not_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("it cannot be read: {error}"),
        _ => "there is no certificate in it, in PEM, or one was cut short".to_owned(),
    }
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let wrong = |detail: String| TlsError::Roots { file: file.display().to_string(), detail };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(not_pem(&error)))? {
        let certificate = certificate.map_err(|error| wrong(not_pem(&error)))?;
        store.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(store)
}

impl MakeTlsConnect<Socket> for Maker {
    type Stream = Stream;
    type TlsConnect = Named;
    type Error = rustls_pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Named, Self::Error> {
        let name = ServerName::try_from(domain.to_owned())?;
        Ok(Named { config: Arc::clone(&self.0), name })
    }
}

/// One connection to be made.
pub(crate) struct Named {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Named {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let connecting = TlsConnector::from(self.config).connect(self.name, socket);
        Box::pin(async move { Ok(Stream(Box::new(connecting.await?))) })
    }
}

/// A stream under TLS.
pub(crate) struct Stream(Box<tokio_rustls::client::TlsStream<Socket>>);

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        // The server's name has been checked against its certificate, so there is nobody in between to bind against.
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
