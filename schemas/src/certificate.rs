//! Device registration certificates: the key a device registered with the directory.
//!
//! A certificate is only a container here. Nobody's signature on it matters: what makes a device trusted is
//! that the directory lists this certificate's thumbprint and key (see [`crate::security_id`]).

use aws_lc_rs::digest;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use keyturn_domain::ids::{DeviceId, KeyHash, Thumbprint};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// The largest certificate that is looked at, in bytes of DER.
pub const MAX_DER: usize = 8 * 1024;

/// A certificate whose key can sign device messages: RSA of 2048 to 4096 bits with an odd exponent of at least
/// 65537.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCertificate {
    common_name: Option<DeviceId>,
    thumbprint: Thumbprint,
    key_hash: KeyHash,
    public_key: Vec<u8>,
}

/// How a device signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DeviceAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3).
    RS256,
    /// RSASSA-PSS with SHA-256 (RFC 7518 section 3.5).
    PS256,
}

/// A certificate that cannot serve.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("not an X.509 certificate in DER of at most {MAX_DER} bytes")]
    Syntax,
    /// Not an RSA key, or one that is too small, too large or has an unsafe exponent.
    #[error("the certificate's key is not RSA of 2048 to 4096 bits with an odd exponent of at least 65537")]
    Key,
}

impl DeviceCertificate {
    /// Reads a certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_DER {
            return Err(CertificateError::Syntax);
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| CertificateError::Syntax)?;
        if !rest.is_empty() {
            return Err(CertificateError::Syntax);
        }
        let public_key = rsa_public_key(&certificate)?;
        Ok(Self {
            common_name: common_name(&certificate),
            thumbprint: Thumbprint::from_slice(
                digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref(),
            )
            .ok_or(CertificateError::Syntax)?,
            key_hash: KeyHash::from_slice(digest::digest(&digest::SHA256, &public_key).as_ref())
                .ok_or(CertificateError::Syntax)?,
            public_key,
        })
    }

    /// The device its subject's common name states, if that is a device id.
    pub fn common_name(&self) -> Option<DeviceId> {
        self.common_name
    }

    /// SHA-1 of the whole certificate.
    pub fn thumbprint(&self) -> Thumbprint {
        self.thumbprint
    }

    /// SHA-256 of the `RSAPublicKey` DER.
    pub fn key_hash(&self) -> KeyHash {
        self.key_hash
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, algorithm: DeviceAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        let parameters = match algorithm {
            DeviceAlgorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
            DeviceAlgorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(parameters, &self.public_key).verify(message, signature).is_ok()
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> Option<DeviceId> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().filter(|_| names.next().is_none())?;
    DeviceId::parse_any_case(name.as_str().ok()?).ok()
}

/// The `RSAPublicKey` DER inside the certificate, if the key is one we accept.
fn rsa_public_key(certificate: &X509Certificate<'_>) -> Result<Vec<u8>, CertificateError> {
    let spki = certificate.public_key();
    let Ok(PublicKey::RSA(key)) = spki.parsed() else { return Err(CertificateError::Key) };
    let modulus = strip_zeros(key.modulus);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let exponent = strip_zeros(key.exponent);
    let exponent = exponent.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let sound =
        (2048..=4096).contains(&bits) && key.exponent.len() <= 8 && exponent >= 65537 && exponent % 2 == 1;
    sound.then(|| spki.subject_public_key.data.to_vec()).ok_or(CertificateError::Key)
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests;
