//! The recovery log: every version once more, outside the database, sealed so that only a key that is kept
//! offline opens it.
//!
//! A line is JSON: `head`, base64url of the JSON of [`Head`]; `enc` and `ct`, base64url of an HPKE seal (RFC 9180,
//! base mode, the suite of [`crate::seal`]) of the password, padded to 256 bytes. `info` is the label
//! `keyturn recovery v1`, the request id, the lane and the version, each preceded by its length in two bytes, big
//! endian; `aad` is the bytes of `head`, so that neither a password nor what stands beside it fits another line.
//!
//! The public key makes nobody known: whoever has it can write lines. A log is worth what the access to its file
//! is worth, and what comes out of it never replaces a version that the vault has.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::claims::Version1;
use crate::seal::{SealError, info, pad, unpad};

const LABEL: &[u8] = b"keyturn recovery v1";
const PUBLIC: &str = "recovery-public";
const SECRET: &str = "recovery";

/// What a line says in the clear: what the vault keeps beside a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// 1.
    pub v: Version1,
    /// The message the version was made for.
    pub rid: RequestId,
    /// The lane.
    pub lane: LaneId,
    /// The version.
    pub version: VersionId,
    /// When the line was written.
    pub at_ms: UnixMillis,
    /// The device.
    pub device_id: DeviceId,
    /// The account's name.
    pub user_name: String,
    /// The device's name.
    pub device_name: String,
    /// The device's serial number.
    pub serial_number: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    head: String,
    enc: String,
    ct: String,
}

/// A line that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum LineError {
    /// Cut off, or never a line.
    #[error("it is not a line of a recovery log")]
    Shape,
    /// For another key, or altered.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A file that holds no recovery key.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("it is not the {kind} file that `keyturn vault recovery-key` writes")]
pub struct RecoveryFileError {
    kind: &'static str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    kind: String,
    key: Zeroizing<String>,
}

/// The half that seals. Not a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPublic([u8; 32]);

/// The half that opens. It belongs offline.
pub struct RecoverySecret(HpkePrivateKey);

/// Makes a key pair.
pub fn generate() -> Result<(RecoverySecret, RecoveryPublic), SealError> {
    let (public, secret) =
        DH_KEM_X25519_HKDF_SHA256_AES_256.generate_key_pair().map_err(|_| SealError::Seal)?;
    let public = public.0.try_into().map_err(|_| SealError::Seal)?;
    Ok((RecoverySecret(secret), RecoveryPublic(public)))
}

impl RecoveryPublic {
    /// Reads the key from its file's text.
    pub fn parse(text: &str) -> Result<Self, RecoveryFileError> {
        parse(PUBLIC, text).map(|key| Self(*key))
    }

    /// Its file's text.
    pub fn format(&self) -> String {
        format(PUBLIC, &self.0).to_string()
    }

    /// What people compare to see that two files are the same key: the beginning of SHA-256 over it, hexadecimal.
    pub fn fingerprint(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.0).into();
        let bytes: Vec<String> = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        bytes.concat()
    }

    /// The line of a version, without the line's end.
    pub fn seal(&self, head: &Head, password: &Password) -> Result<String, SealError> {
        let text = serde_json::to_vec(head).map_err(|_| SealError::Seal)?;
        let (enc, ct) = self.seal_bound(&bound(head), &text, password)?;
        let [head, enc, ct] = [text, enc, ct].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        serde_json::to_string(&Line { head, enc, ct }).map_err(|_| SealError::Seal)
    }

    /// A password sealed with what it is bound to: `enc` and `ct`.
    pub(crate) fn seal_bound(
        &self,
        info: &[u8],
        aad: &[u8],
        password: &Password,
    ) -> Result<(Vec<u8>, Vec<u8>), SealError> {
        let (plain, key) = (pad(password)?, HpkePublicKey(self.0.to_vec()));
        let (EncapsulatedSecret(enc), ct) = DH_KEM_X25519_HKDF_SHA256_AES_256
            .seal(info, aad, plain.as_slice(), &key)
            .map_err(|_| SealError::Seal)?;
        Ok((enc, ct))
    }
}

impl RecoverySecret {
    /// Reads the key from its file's text.
    pub fn parse(text: &str) -> Result<Self, RecoveryFileError> {
        parse(SECRET, text).map(|key| Self(HpkePrivateKey::from(key.to_vec())))
    }

    /// Its file's text.
    pub fn format(&self) -> Zeroizing<String> {
        format(SECRET, self.0.secret_bytes())
    }

    /// What a line says, and its password, if the line was sealed for this key as it stands.
    pub fn open(&self, line: &str) -> Result<(Head, Password), LineError> {
        let line: Line = serde_json::from_str(line).map_err(|_| LineError::Shape)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| LineError::Shape);
        let (text, enc, ct) = (decode(&line.head)?, decode(&line.enc)?, decode(&line.ct)?);
        let head: Head = serde_json::from_slice(&text).map_err(|_| LineError::Shape)?;
        let password = self.open_bound(&bound(&head), &text, enc, &ct)?;
        Ok((head, password))
    }

    /// The password of a seal with what it is bound to.
    pub(crate) fn open_bound(
        &self,
        info: &[u8],
        aad: &[u8],
        enc: Vec<u8>,
        ct: &[u8],
    ) -> Result<Password, SealError> {
        let plain = DH_KEM_X25519_HKDF_SHA256_AES_256
            .open(&EncapsulatedSecret(enc), info, aad, ct, &self.0)
            .map(Zeroizing::new)
            .map_err(|_| SealError::Seal)?;
        unpad(&plain)
    }

    /// The public half's [`RecoveryPublic::fingerprint`].
    ///
    /// # Errors
    /// [`SealError`] if the key is none.
    pub fn fingerprint(&self) -> Result<String, SealError> {
        let key =
            PrivateKey::from_private_key(&X25519, self.0.secret_bytes()).map_err(|_| SealError::Seal)?;
        let public = key.compute_public_key().map_err(|_| SealError::Seal)?;
        let public = public.as_ref().try_into().map_err(|_| SealError::Seal)?;
        Ok(RecoveryPublic(public).fingerprint())
    }
}

impl fmt::Debug for RecoverySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoverySecret([redacted])")
    }
}

fn bound(head: &Head) -> Vec<u8> {
    info([LABEL, head.rid.as_bytes(), head.lane.as_bytes(), head.version.as_bytes()])
}

fn parse(kind: &'static str, text: &str) -> Result<Zeroizing<[u8; 32]>, RecoveryFileError> {
    let error = RecoveryFileError { kind };
    let file: KeyFile = serde_json::from_str(text).map_err(|_| error)?;
    let key = Zeroizing::new(URL_SAFE_NO_PAD.decode(file.key.as_bytes()).map_err(|_| error)?);
    let key = key.as_slice().try_into().map_err(|_| error)?;
    if file.kind == kind { Ok(Zeroizing::new(key)) } else { Err(error) }
}

fn format(kind: &str, key: &[u8]) -> Zeroizing<String> {
    let file = KeyFile { kind: kind.to_owned(), key: Zeroizing::new(URL_SAFE_NO_PAD.encode(key)) };
    Zeroizing::new(serde_json::to_string_pretty(&file).unwrap_or_default() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            v: Version1,
            rid: RequestId([1; 32]),
            lane: LaneId([2; 16]),
            version: VersionId([3; 16]),
            at_ms: UnixMillis(4),
            device_id: DeviceId::from_bytes([5; 16]),
            user_name: "localadmin".to_owned(),
            device_name: "LAB-07".to_owned(),
            serial_number: "SN".to_owned(),
        }
    }

    #[test]
    fn a_line_opens_with_the_key_it_was_sealed_to_and_as_it_stands() {
        let (secret, public) = generate().unwrap();
        let (secret, public) = (
            RecoverySecret::parse(&secret.format()).unwrap(),
            RecoveryPublic::parse(&public.format()).unwrap(),
        );
        let line = public.seal(&head(), &Password::new("Zp4:wq,Kd7".to_owned())).unwrap();
        assert!(!line.contains("Zp4"));
        let (read, password) = secret.open(&line).unwrap();
        assert_eq!((read, password.expose()), (head(), "Zp4:wq,Kd7"));
        let stranger = generate().unwrap().0;
        assert_eq!(stranger.open(&line).unwrap_err(), LineError::Seal(SealError::Seal));
        assert_eq!(secret.open(&line[..line.len() - 9]).unwrap_err(), LineError::Shape);
        let parsed: Line = serde_json::from_str(&line).unwrap();
        for other in [
            Head { version: VersionId([9; 16]), ..head() },
            Head { lane: LaneId([9; 16]), ..head() },
            Head { user_name: "root".to_owned(), ..head() },
        ] {
            let swapped = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&other).unwrap());
            let line = line.replace(&parsed.head, &swapped);
            assert_eq!(secret.open(&line).unwrap_err(), LineError::Seal(SealError::Seal));
        }
    }

    #[test]
    fn the_halves_are_not_mixed_up() {
        let (secret, public) = generate().unwrap();
        assert!(RecoveryPublic::parse(&secret.format()).is_err());
        assert!(RecoverySecret::parse(&public.format()).is_err());
        assert_eq!(format!("{secret:?}"), "RecoverySecret([redacted])");
    }
}
