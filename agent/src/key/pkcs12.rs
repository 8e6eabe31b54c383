//! A key and its certificate in a PKCS#12 file (RFC 7292), in the form that OpenSSL 3 and Windows write today: an
//! HMAC over everything, PBES2 with PBKDF2 and AES-CBC (RFC 8018) inside. What is older (3DES, RC2) is told from what
//! is damaged, and how to mend it.
//!
//! The file is read once when the agent starts. A passphrase cannot be locked, so its tries need no guard.

mod der;
mod protection;

use keyturn_schemas::certificate::DeviceCertificate;
use zeroize::Zeroizing;

use self::der::Der;
use super::soft::SoftKey;

/// PKCS#7 and PKCS#12 name what follows by these.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 6];
const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 1];
const SHROUDED_KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 2];
const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 3];
const X509_CERTIFICATE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];

/// A file that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not PKCS#12.
    #[error("it is not a PKCS#12 file in DER")]
    Syntax,
    /// Nothing tells whether the file is whole.
    #[error("it has no MAC made with a passphrase; export it again with one")]
    NoMac,
    /// The passphrase is wrong, or the file is damaged.
    #[error("the passphrase does not open it, or it is damaged")]
    Passphrase,
    /// Something this agent does not do.
    #[error(
        "it is protected in a way that is not supported, like 3DES or RC2; export it again with AES-256 and SHA-256 \
         (openssl pkcs12 -export -keypbe AES-256-CBC -certpbe AES-256-CBC -macalg sha256; \
         Export-PfxCertificate -CryptoAlgorithmOption AES256_SHA256)"
    )]
    Unsupported,
    /// No key, or several.
    #[error("it has {0} private keys, and one is needed")]
    Keys(usize),
    /// Not a key the protocol takes.
    #[error("its private key is not a usable RSA key of at least 2048 bits")]
    Key,
    /// No certificate of the key.
    #[error("it has no certificate of its private key; name the certificate's file as well")]
    Certificate,
}

/// What was in the file.
pub struct Contents {
    key: SoftKey,
    certificates: Vec<Vec<u8>>,
}

impl Contents {
    /// Opens a file. `place` says for people where the key is.
    ///
    /// # Errors
    /// See [`Error`]. Until the MAC was good, nothing but the outermost frame has been looked at.
    pub fn open(file: &[u8], passphrase: &str, place: &str) -> Result<Self, Error> {
        let (mut keys, mut certificates) = (Vec::new(), Vec::new());
        let safes = protection::authenticated(file, passphrase)?;
        let mut safes = Der::new(safes).inside(der::SEQUENCE)?;
        while !safes.is_empty() {
            let bags = safe(&mut safes, passphrase)?;
            read_bags(&bags, passphrase, &mut keys, &mut certificates)?;
        }
        let [key] = &keys[..] else { return Err(Error::Keys(keys.len())) };
        let key = SoftKey::from_der(key, place).map_err(|_| Error::Key)?;
        Ok(Self { key, certificates })
    }

    /// The key, and the certificate that belongs to it, in DER. Those of authorities may be in the file as well.
    pub fn into_pair(self) -> Result<(SoftKey, Vec<u8>), Error> {
        let hash = self.key.hash();
        let own = |der: &Vec<u8>| DeviceCertificate::from_der(der).is_ok_and(|own| own.key_hash() == hash);
        let certificate = self.certificates.into_iter().find(own).ok_or(Error::Certificate)?;
        Ok((self.key, certificate))
    }

    /// The key, for a certificate from elsewhere.
    pub fn into_key(self) -> SoftKey {
        self.key
    }
}

/// The bags of one safe, in the clear.
fn safe(safes: &mut Der<'_>, passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut info = safes.inside(der::SEQUENCE)?;
    let kind = info.next(der::OID)?;
    let mut content = info.inside(der::EXPLICIT_0)?;
    match kind {
        DATA => Ok(Zeroizing::new(content.next(der::OCTETS)?.to_vec())),
        ENCRYPTED_DATA => {
            let mut encrypted = content.inside(der::SEQUENCE)?;
            encrypted.next(der::INTEGER)?;
            let mut info = encrypted.inside(der::SEQUENCE)?;
            info.next(der::OID)?;
            let algorithm = info.inside(der::SEQUENCE)?;
            protection::decrypt(algorithm, info.next(der::IMPLICIT_0)?, passphrase)
        }
        _ => Err(Error::Unsupported),
    }
}

fn read_bags(
    bags: &[u8],
    passphrase: &str,
    keys: &mut Vec<Zeroizing<Vec<u8>>>,
    certificates: &mut Vec<Vec<u8>>,
) -> Result<(), Error> {
    let mut bags = Der::new(bags).inside(der::SEQUENCE)?;
    while !bags.is_empty() {
        let mut bag = bags.inside(der::SEQUENCE)?;
        let kind = bag.next(der::OID)?;
        let mut value = bag.inside(der::EXPLICIT_0)?;
        match kind {
            KEY_BAG => keys.push(Zeroizing::new(value.whole(der::SEQUENCE)?.to_vec())),
            SHROUDED_KEY_BAG => {
                let mut shroud = value.inside(der::SEQUENCE)?;
                let algorithm = shroud.inside(der::SEQUENCE)?;
                keys.push(protection::decrypt(algorithm, shroud.next(der::OCTETS)?, passphrase)?);
            }
            CERTIFICATE_BAG => {
                let mut bag = value.inside(der::SEQUENCE)?;
                if bag.next(der::OID)? == X509_CERTIFICATE {
                    certificates.push(bag.inside(der::EXPLICIT_0)?.next(der::OCTETS)?.to_vec());
                }
            }
            // Lists of revoked certificates and the like.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
