//! Whether the server's certificate is to be trusted, found out once. Each device would look by itself, on a processor of its
//! own; here they share one with the server that is measured. That the server has the certificate's key is proved in each
//! handshake.

use std::sync::{Arc, OnceLock};

use anyhow::Result;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The usual verifier, and the last certificate and name that it found good. A run is too short for one to expire in it.
#[derive(Debug)]
pub(super) struct Remembering {
    usual: Arc<WebPkiServerVerifier>,
    good: OnceLock<(CertificateDer<'static>, ServerName<'static>)>,
}

impl Remembering {
    /// Trusts what chains to these roots.
    pub(super) fn new(roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self> {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { usual, good: OnceLock::new() })
    }
}

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.good.get().is_some_and(|(good, of)| good == certificate && of == name) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.usual.verify_server_cert(certificate, intermediates, name, ocsp, now)?;
        // Another one than the first, of a server that renewed its own, is looked at each time.
        self.good.get_or_init(|| (certificate.clone().into_owned(), name.to_owned()));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::generate_simple_self_signed;

    use super::*;

    #[test]
    fn what_was_found_good_is_good_again_for_this_name_and_nothing_else_is() {
        let made = |name: &str| generate_simple_self_signed([name.to_owned()]).unwrap().cert.der().clone();
        let (own, other) = (made("localhost"), made("localhost"));
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Remembering::new(roots, provider).unwrap();
        let asked = |certificate: &CertificateDer<'_>, name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).is_ok()
        };
        assert!(!asked(&other, "localhost"), "nobody trusts it");
        for _ in 0..2 {
            assert!(asked(&own, "localhost"));
            assert!(!asked(&own, "elsewhere"), "it is for another name");
            assert!(!asked(&other, "localhost"), "it is another certificate");
        }
    }
}
