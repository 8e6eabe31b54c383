//! The device's identity: its registration certificate and the private key that belongs to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ids::{DeviceId, KeyHash, RequestId};
use keyturn_schemas::certificate::{CertificateError, DeviceAlgorithm, DeviceCertificate};
use keyturn_schemas::message::{self, Claims};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::key::soft::{NotAKey, SoftKey};
use crate::key::{self, Signer};

/// What is signed to see whether the key can: no message of the protocol has a blank in it.
const PROOF: &[u8] = b"keyturn-agent looks whether its key signs";

/// A registered certificate and the key that signs for it, wherever that is.
pub struct Identity {
    certificate_der: Vec<u8>,
    certificate: DeviceCertificate,
    signer: Arc<dyn Signer>,
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
    /// Not a usable RSA key.
    #[error(transparent)]
    Key(#[from] NotAKey),
    /// The two do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The key's store does not sign.
    #[error(transparent)]
    Store(#[from] key::Error),
    /// Signing failed.
    #[error("the message could not be signed")]
    Sign,
}

/// A signed message.
pub(crate) struct Signed {
    pub(crate) rid: RequestId,
    pub(crate) text: String,
}

/// The first certificate in a PEM text, in DER.
pub fn certificate_from_pem(text: &[u8]) -> Result<Vec<u8>, Error> {
    let certificate = CertificateDer::from_pem_slice(text).map_err(|_| Error::CertificatePem)?;
    DeviceCertificate::from_der(&certificate)?;
    Ok(certificate.to_vec())
}

impl Identity {
    /// The identity in these files' texts.
    pub fn from_pem(certificate: &[u8], key: &[u8], place: &str) -> Result<Self, Error> {
        let certificate = certificate_from_pem(certificate)?;
        let key = match PrivateKeyDer::from_pem_slice(key).map_err(|_| Error::KeyPem)? {
            PrivateKeyDer::Pkcs8(key) => SoftKey::from_der(key.secret_pkcs8_der(), place),
            PrivateKeyDer::Pkcs1(key) => SoftKey::from_der(key.secret_pkcs1_der(), place),
            _ => return Err(Error::KeyPem),
        };
        Self::from_key(&certificate, key?)
    }

    /// The identity with this certificate and this PKCS#8 or PKCS#1 key.
    pub fn from_der(certificate_der: &[u8], key: &[u8]) -> Result<Self, Error> {
        Self::from_key(certificate_der, SoftKey::from_der(key, "the key in memory")?)
    }

    /// The identity with this certificate and a key in memory.
    ///
    /// # Errors
    /// If the certificate cannot serve, or the key is not the one in it.
    pub fn from_key(certificate_der: &[u8], key: SoftKey) -> Result<Self, Error> {
        let hash = key.hash();
        let identity = Self::new(certificate_der, Arc::new(key))?;
        if hash == identity.key_hash() { Ok(identity) } else { Err(Error::Mismatch) }
    }

    /// The identity with this certificate and a key that is elsewhere. Whether it belongs to the certificate is seen
    /// when it signs.
    pub fn new(certificate_der: &[u8], signer: Arc<dyn Signer>) -> Result<Self, Error> {
        let certificate = DeviceCertificate::from_der(certificate_der)?;
        Ok(Self { certificate_der: certificate_der.to_vec(), certificate, signer })
    }

    /// The hash by which the directory lists the key.
    pub fn key_hash(&self) -> KeyHash {
        self.certificate.key_hash()
    }

    /// The device the certificate names, if it names one.
    pub fn device(&self) -> Option<DeviceId> {
        self.certificate.common_name()
    }

    /// Where the key is, for people.
    pub fn place(&self) -> String {
        self.signer.place()
    }

    /// Lets the key sign, and looks whether the certificate's key has signed.
    pub async fn prove(&self) -> Result<(), Error> {
        self.signature(PROOF).await.map(drop)
    }

    /// Signs a message (RS256, RFC 7518 section 3.3).
    pub(crate) async fn sign(&self, claims: &Claims) -> Result<Signed, Error> {
        let input = message::signing_input(claims, DeviceAlgorithm::RS256, &self.certificate_der);
        let input = input.map_err(|_| Error::Sign)?;
        let signature = self.signature(input.as_bytes()).await?;
        let text = message::complete(input, &signature);
        Ok(Signed { rid: RequestId::of(&text), text })
    }

    /// A signature that was checked: one that was computed wrongly could give the key away, and one of another key
    /// would only be refused by the server, without a word on why.
    async fn signature(&self, input: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = match self.signer.time_limit() {
            None => self.signer.sign(input)?,
            Some(limit) => aside(Arc::clone(&self.signer), input.to_vec(), limit).await?,
        };
        let good = self.certificate.verifies(DeviceAlgorithm::RS256, input, &signature);
        if good { Ok(signature) } else { Err(Error::Mismatch) }
    }
}

/// Signs in a thread of its own, which may be stuck in a library for ever: the agent, and its end, do not wait for it.
async fn aside(signer: Arc<dyn Signer>, input: Vec<u8>, limit: Duration) -> Result<Vec<u8>, key::Error> {
    let place = signer.place();
    let (done, waited) = tokio::sync::oneshot::channel();
    let work = move || {
        // Nobody may be waiting any more.
        let _ = done.send(signer.sign(&input));
    };
    let started = std::thread::Builder::new().name("key".to_owned()).spawn(work);
    started.map_err(|error| key::Error::Own(format!("no thread can be started: {error}")))?;
    match tokio::time::timeout(limit, waited).await {
        Ok(Ok(signed)) => signed,
        // Its thread ended without a word: it panicked, and has said why.
        Ok(Err(_)) => Err(key::Error::Failed { place, reason: "its library ended early".to_owned() }),
        Err(_) => Err(key::Error::Slow { place, limit }),
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.key_hash())
    }
}
