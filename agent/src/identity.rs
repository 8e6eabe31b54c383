//! The device's identity: its registration certificate and the private key that belongs to it.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use keyturn_domain::ids::{DeviceId, KeyHash, RequestId};
use keyturn_schemas::certificate::{CertificateError, DeviceAlgorithm, DeviceCertificate};

use keyturn_schemas::message::{self, Claims};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

/// A device key that signs. It never leaves this type.
pub struct Identity {
    certificate_der: Vec<u8>,
    certificate: DeviceCertificate,
    key: KeyPair,
}

/// A certificate or key that cannot serve.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum Error {
    /// Not a certificate in PEM.
    #[error("there is no certificate in PEM in it")]
    CertificatePem,
    /// Not a certificate that can serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Not a private key in PEM.
    #[error("there is no RSA private key in PEM in it (PKCS#8 or PKCS#1, not encrypted)")]
    KeyPem,
    /// Not a usable RSA key. The library's own words could quote the key, so they are not passed on.
    #[error("the private key is not a usable RSA key of at least 2048 bits")]
    Key,
    /// The two do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// Signing failed.
    #[error("the message could not be signed")]
    Sign,
}

/// A signed message.
pub(crate) struct Signed {
    pub(crate) rid: RequestId,
    pub(crate) text: String,
}

impl Identity {
    /// The identity in these files' texts.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(certificate).map_err(|_| Error::CertificatePem)?;
        match PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::KeyPem)? {
            PrivateKeyDer::Pkcs8(key) => Self::from_der(&certificate, key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => Self::from_der(&certificate, key.secret_pkcs1_der()),
            _ => Err(Error::KeyPem),
        }
    }

    /// The identity with this certificate and this PKCS#8 or PKCS#1 key.
    pub fn from_der(certificate_der: &[u8], key: &[u8]) -> Result<Self, Error> {
        let certificate = DeviceCertificate::from_der(certificate_der)?;
        let key = KeyPair::from_pkcs8(key).or_else(|_| KeyPair::from_der(key)).map_err(|_| Error::Key)?;
        let hash: [u8; 32] = Sha256::digest(key.public_key().as_ref()).into();
        if KeyHash(hash) != certificate.key_hash() {
            return Err(Error::Mismatch);
        }
        Ok(Self { certificate_der: certificate_der.to_vec(), certificate, key })
    }

    /// The hash by which the directory lists the key.
    pub fn key_hash(&self) -> KeyHash {
        self.certificate.key_hash()
    }

    /// The device the certificate names, if it names one.
    pub fn device(&self) -> Option<DeviceId> {
        self.certificate.common_name()
    }

    /// Signs a message (RS256, RFC 7518 section 3.3).
    pub(crate) fn sign(&self, claims: &Claims) -> Result<Signed, Error> {
        let input = message::signing_input(claims, DeviceAlgorithm::RS256, &self.certificate_der);
        let input = input.map_err(|_| Error::Sign)?;
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature);
        signed.map_err(|_| Error::Sign)?;
        let text = message::complete(input, &signature);
        Ok(Signed { rid: RequestId::of(&text), text })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.key_hash())
    }
}
