//! Sealing a password to the ephemeral key of the request it answers: HPKE (RFC 9180) in base mode with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, from the TLS library's own implementation.
//!
//! `info` is the label `keyturn result v1`, the request id, the lane and the version, each preceded by its
//! length in two bytes, big endian; `aad` is empty. The plaintext is the password's length in two bytes, big
//! endian, the password in UTF-8, and zeros up to 256 bytes, so that the ciphertext tells nothing of it.

use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use crate::claims::EphemeralKey;

const LABEL: &[u8] = b"keyturn result v1";
const PADDED: usize = 256;

/// What a sealed password is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The request it answers.
    pub rid: RequestId,
    /// The lane it was made for.
    pub lane: LaneId,
    /// The version.
    pub version: VersionId,
}

/// A sealed password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The encapsulated key, 32 bytes.
    pub enc: Vec<u8>,
    /// The ciphertext, 272 bytes.
    pub ct: Vec<u8>,
}

/// Sealing or opening failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum SealError {
    /// The password does not fit.
    #[error("a sealed password has 1 to {} bytes", PADDED - 2)]
    Size,
    /// The key cannot be used, or the seal was made for another key, request, lane or version, or was altered.
    #[error("the seal does not open")]
    Seal,
}

impl Binding {
    /// The `info` of the seal.
    pub fn info(&self) -> Vec<u8> {
        info([LABEL, self.rid.as_bytes(), self.lane.as_bytes(), self.version.as_bytes()])
    }
}

/// Parts of an `info`, each preceded by its length.
pub(crate) fn info(parts: [&[u8]; 4]) -> Vec<u8> {
    let mut info = Vec::with_capacity(128);
    for part in parts {
        info.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        info.extend_from_slice(part);
    }
    info
}

/// A password as it is sealed: of one size.
pub(crate) fn pad(password: &Password) -> Result<Zeroizing<[u8; PADDED]>, SealError> {
    let secret = password.expose().as_bytes();
    if secret.is_empty() {
        return Err(SealError::Size);
    }
    let length = u16::try_from(secret.len()).map_err(|_| SealError::Size)?;
    let mut plain = Zeroizing::new([0; PADDED]);
    let (head, body) = plain.split_at_mut(2);
    head.copy_from_slice(&length.to_be_bytes());
    body.get_mut(..secret.len()).ok_or(SealError::Size)?.copy_from_slice(secret);
    Ok(plain)
}

/// The password in what [`pad`] made.
pub(crate) fn unpad(plain: &[u8]) -> Result<Password, SealError> {
    let (length, body) =
        plain.split_first_chunk::<2>().filter(|_| plain.len() == PADDED).ok_or(SealError::Seal)?;
    let (secret, padding) =
        body.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(SealError::Seal)?;
    if secret.is_empty() || padding.iter().any(|byte| *byte != 0) {
        return Err(SealError::Seal);
    }
    Ok(Password::new(std::str::from_utf8(secret).map_err(|_| SealError::Seal)?.to_owned()))
}

/// Seals a password to `epk`.
pub fn seal(password: &Password, binding: &Binding, epk: &EphemeralKey) -> Result<Sealed, SealError> {
    let plain = pad(password)?;
    let key = HpkePublicKey(epk.as_bytes().to_vec());
    let (EncapsulatedSecret(enc), ct) = DH_KEM_X25519_HKDF_SHA256_AES_256
        .seal(&binding.info(), &[], plain.as_slice(), &key)
        .map_err(|_| SealError::Seal)?;
    Ok(Sealed { enc, ct })
}

/// The private half of an ephemeral key. It lives in the agent's memory for one request and is wiped after.
pub struct EphemeralSecret(HpkePrivateKey);

/// Makes an ephemeral key pair.
pub fn generate() -> Result<(EphemeralSecret, EphemeralKey), SealError> {
    let (public, secret) =
        DH_KEM_X25519_HKDF_SHA256_AES_256.generate_key_pair().map_err(|_| SealError::Seal)?;
    let public = public.0.try_into().ok().and_then(EphemeralKey::from_bytes).ok_or(SealError::Seal)?;
    Ok((EphemeralSecret(secret), public))
}

impl EphemeralSecret {
    /// The key with these 32 bytes, for test vectors.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(HpkePrivateKey::from(bytes.to_vec()))
    }

    /// Opens a sealed password.
    pub fn open(&self, sealed: &Sealed, binding: &Binding) -> Result<Password, SealError> {
        let enc = EncapsulatedSecret(sealed.enc.clone());
        let plain = DH_KEM_X25519_HKDF_SHA256_AES_256.open(&enc, &binding.info(), &[], &sealed.ct, &self.0);
        let plain = Zeroizing::new(plain.map_err(|_| SealError::Seal)?);
        unpad(&plain)
    }
}

impl std::fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EphemeralSecret([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::one_bit_off;

    const BINDING: Binding =
        Binding { rid: RequestId([1; 32]), lane: LaneId([2; 16]), version: VersionId([3; 16]) };

    fn sealed(text: &str) -> (EphemeralSecret, Result<Sealed, SealError>) {
        let (secret, key) = generate().unwrap();
        (secret, seal(&Password::new(text.to_owned()), &BINDING, &key))
    }

    #[test]
    fn what_is_sealed_opens_and_has_one_size() {
        for text in ["x", "Zp4:wq,Kd7.Rm-T3", "zwölf Boxkämpfer", &"x".repeat(254)] {
            let (secret, sealed) = sealed(text);
            let sealed = sealed.unwrap();
            assert_eq!((sealed.enc.len(), sealed.ct.len()), (32, 272));
            assert_eq!(secret.open(&sealed, &BINDING).unwrap().expose(), text);
        }
        assert_eq!(sealed("").1, Err(SealError::Size));
        assert_eq!(sealed(&"x".repeat(255)).1, Err(SealError::Size));
        assert_eq!(sealed(&"x".repeat(70_000)).1, Err(SealError::Size));
    }

    #[test]
    fn a_seal_is_bound_to_request_lane_version_and_key() {
        let (secret, sealed) = sealed("secret");
        let sealed = sealed.unwrap();
        let others = [
            Binding { rid: RequestId([9; 32]), ..BINDING },
            Binding { lane: LaneId([9; 16]), ..BINDING },
            Binding { version: VersionId([9; 16]), ..BINDING },
        ];
        for other in others {
            assert_eq!(secret.open(&sealed, &other).err(), Some(SealError::Seal), "{other:?}");
        }
        assert_eq!(generate().unwrap().0.open(&sealed, &BINDING).err(), Some(SealError::Seal));
    }

    #[test]
    fn no_bit_of_a_seal_can_be_changed() {
        let (secret, sealed) = sealed("secret");
        let sealed = sealed.unwrap();
        for ct in one_bit_off(&sealed.ct).step_by(7) {
            assert!(secret.open(&Sealed { ct, ..sealed.clone() }, &BINDING).is_err());
        }
        for enc in one_bit_off(&sealed.enc) {
            assert!(secret.open(&Sealed { enc, ..sealed.clone() }, &BINDING).is_err());
        }
        for enc in [vec![], vec![0; 32], vec![0; 31], vec![1; 33]] {
            assert!(secret.open(&Sealed { enc, ..sealed.clone() }, &BINDING).is_err());
        }
    }

    #[test]
    fn only_padded_text_is_opened() {
        let (secret, key) = generate().unwrap();
        let plain = |length: u16, body: &[u8], size: usize| {
            let mut plain = [&length.to_be_bytes(), body].concat();
            plain.resize(size, 0);
            plain
        };
        let cases = [
            ("good", plain(3, b"abc", 256), true),
            ("short", plain(3, b"abc", 255), false),
            ("long", plain(3, b"abc", 257), false),
            ("empty", Vec::new(), false),
            ("a length beyond the end", plain(255, b"abc", 256), false),
            ("padding that is not zero", plain(2, b"abc", 256), false),
            ("not UTF-8", plain(1, &[0xff], 256), false),
        ];
        for (what, plain, good) in cases {
            let key = HpkePublicKey(key.as_bytes().to_vec());
            let (enc, ct) =
                DH_KEM_X25519_HKDF_SHA256_AES_256.seal(&BINDING.info(), &[], &plain, &key).unwrap();
            assert_eq!(secret.open(&Sealed { enc: enc.0, ct }, &BINDING).is_ok(), good, "{what}");
        }
    }

    #[test]
    fn debug_texts_keep_the_secret() {
        assert_eq!(format!("{:?}", generate().unwrap().0), "EphemeralSecret([redacted])");
    }
}
