//! A key in the machine's TPM 2.0, at a persistent handle, through libtss2 (TCG TPM 2.0 Library, part 3, TPM2_Sign).
//!
//! A saved key context would not do: it ends with the next start of the machine. Nothing of the TPM is kept between
//! two signatures, so that a machine without a resource manager has its slots to itself.

use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind};
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Auth, Digest, HashScheme, HashcheckTicket, Public, RsaScheme, Signature, SignatureScheme,
};
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};
use tss_esapi::{Context, TctiNameConf};

use super::guard::Turn;
use super::{Error, Guard, Signer};

/// Which key.
#[derive(Clone, Debug)]
pub struct TpmKey {
    /// The way to the TPM, as tpm2-tools name it.
    pub tcti: Tcti,
    /// The key's persistent handle.
    pub handle: Handle,
    /// The key's authorization value, where it has one, and the tries of it.
    pub guard: Guard,
    /// How long a signature may take.
    pub time_limit: Duration,
}

/// The way to a TPM.
#[derive(Clone, Debug)]
pub struct Tcti {
    text: String,
    way: TctiNameConf,
}

/// A persistent handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(u32);

/// A text that names no way to a TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a way to a TPM as tpm2-tools have it, like device:/dev/tpmrm0")]
pub struct NotATcti;

/// A text that is no handle of a stored key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a persistent handle, from 0x81000000 to 0x81ffffff")]
pub struct NotAHandle;

impl FromStr for Tcti {
    type Err = NotATcti;

    fn from_str(text: &str) -> Result<Self, NotATcti> {
        Ok(Self { text: text.to_owned(), way: text.parse().map_err(|_| NotATcti)? })
    }
}

impl FromStr for Handle {
    type Err = NotAHandle;

    fn from_str(text: &str) -> Result<Self, NotAHandle> {
        let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 8).ok_or(NotAHandle)?;
        let value = u32::from_str_radix(digits, 16).map_err(|_| NotAHandle)?;
        if value >> 24 == 0x81 { Ok(Self(value)) } else { Err(NotAHandle) }
    }
}

impl Signer for TpmKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let turn = self.guard.turn()?;
        let mut tpm = Context::new(self.tcti.way.clone()).map_err(|error| Error::Away {
            place: format!("the TPM at {}", self.tcti.text),
            reason: format!("{error}; is there one, and may the agent open it (the unit's DeviceAllow)?"),
        })?;
        let key = self.find(&mut tpm)?;
        self.check(&mut tpm, key)?;
        let secret = turn.secret()?;
        if let Some(text) = &secret {
            let auth = Auth::try_from(text.as_bytes());
            let set = auth.and_then(|auth| tpm.tr_set_auth(key.into(), auth));
            if let Err(error) = set {
                turn.answered()?;
                return Err(self.failed(error));
            }
        }
        let signed = ask(&mut tpm, key, message);
        self.note(&turn, secret.as_ref().map(|text| text.as_str()), signed.as_ref().err().copied())?;
        match signed {
            Ok(Signature::RsaSsa(signature)) => Ok(signature.signature().value().to_vec()),
            Ok(_) => Err(self.unfit("it did not sign with RSASSA")),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn place(&self) -> String {
        format!("the key {:#010x} of the TPM at {}", self.handle.0, self.tcti.text)
    }

    fn time_limit(&self) -> Option<Duration> {
        Some(self.time_limit)
    }
}

impl TpmKey {
    fn find(&self, tpm: &mut Context) -> Result<KeyHandle, Error> {
        let handle = PersistentTpmHandle::new(self.handle.0).map_err(|error| self.failed(error))?;
        let found: Result<ObjectHandle, _> = tpm.tr_from_tpm_public(TpmHandle::Persistent(handle));
        found.map(KeyHandle::from).map_err(|error| match kind(error) {
            Some(Tss2ResponseCodeKind::Handle | Tss2ResponseCodeKind::ReferenceH0) => Error::Absent {
                place: format!("the TPM at {}", self.tcti.text),
                reason: format!(
                    "nothing is stored at {:#010x}; see tpm2_getcap handles-persistent",
                    self.handle.0
                ),
            },
            _ => self.failed(error),
        })
    }

    /// Whether the key may sign what is hashed here, in the one way that the protocol and every TPM have in common.
    fn check(&self, tpm: &mut Context, key: KeyHandle) -> Result<(), Error> {
        let (public, ..) = tpm.read_public(key).map_err(|error| self.failed(error))?;
        let Public::Rsa { object_attributes, parameters, .. } = public else {
            return Err(self.unfit("it is not an RSA key"));
        };
        if !object_attributes.sign_encrypt() || object_attributes.restricted() {
            return Err(self.unfit("its attributes have to have sign and not restricted"));
        }
        match parameters.rsa_scheme() {
            RsaScheme::Null | RsaScheme::RsaSsa(_) => Ok(()),
            _ => Err(self.unfit("it is bound to another scheme than RSASSA; create it with rsassa or none")),
        }
    }

    fn note(
        &self,
        turn: &Turn<'_>,
        secret: Option<&str>,
        error: Option<tss_esapi::Error>,
    ) -> Result<(), Error> {
        let place = self.place();
        let wrong = matches!(
            error.and_then(kind),
            Some(Tss2ResponseCodeKind::AuthFail | Tss2ResponseCodeKind::BadAuth)
        );
        match (wrong, secret) {
            (true, Some(text)) => {
                turn.refused(text)?;
                Err(Error::Refused { place, secret: self.guard.file().cloned().unwrap_or_default() })
            }
            (true, None) => {
                let reason = "has an authorization value; name a file with it in key.pin_file".to_owned();
                Err(Error::Locked { place, reason })
            }
            (false, _) => turn.answered(),
        }
    }

    fn unfit(&self, reason: &str) -> Error {
        Error::Unfit { place: self.place(), reason: reason.to_owned() }
    }

    fn failed(&self, error: tss_esapi::Error) -> Error {
        if kind(error) == Some(Tss2ResponseCodeKind::Lockout) {
            let reason =
                "is locked after too many wrong tries; wait, or use tpm2_dictionarylockout".to_owned();
            return Error::Locked { place: format!("the TPM at {}", self.tcti.text), reason };
        }
        Error::Failed { place: self.place(), reason: error.to_string() }
    }
}

/// In a session, so that the authorization value itself does not go over the wire to the TPM.
fn ask(tpm: &mut Context, key: KeyHandle, message: &[u8]) -> tss_esapi::Result<Signature> {
    let digest = Digest::try_from(&Sha256::digest(message)[..])?;
    let scheme = SignatureScheme::RsaSsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) };
    let ticket = HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: TPM2B_DIGEST::default(),
    })?;
    tpm.execute_with_nullauth_session(|tpm| tpm.sign(key, digest, scheme, ticket))
}

fn kind(error: tss_esapi::Error) -> Option<Tss2ResponseCodeKind> {
    match error {
        tss_esapi::Error::Tss2Error(code) => match code {
            Tss2ResponseCode::FormatZero(code) => Tss2ResponseCode::FormatZero(code).kind(),
            Tss2ResponseCode::FormatOne(code) => Tss2ResponseCode::FormatOne(code).kind(),
            Tss2ResponseCode::Success => None,
        },
        tss_esapi::Error::WrapperError(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stored_keys_and_known_ways() {
        assert_eq!("0x81010001".parse(), Ok(Handle(0x8101_0001)));
        for bad in ["81010001", "0x80000000", "0x8201_0001", "0x810100011", "0x+1010001", ""] {
            assert_eq!(bad.parse::<Handle>(), Err(NotAHandle), "{bad}");
        }
        assert!(
            "device:/dev/tpmrm0".parse::<Tcti>().is_ok()
                && "swtpm:host=127.0.0.1,port=2321".parse::<Tcti>().is_ok()
        );
        assert!("libtcti-evil.so".parse::<Tcti>().is_err(), "no library of anybody's choice is loaded");
    }
}
