//! Results: the rotator's signed answer to a message.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::claims::{Deployment, Version1};
use crate::jws::{self, Malformed};
use crate::seal::Sealed;
use crate::signing::{PublicKey, ServerAlgorithm, SigningKey};

/// The answer's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Code {
    /// A version to set is enclosed.
    Rotate,
    /// Nothing is due before `retry_at`.
    NotDue,
    /// Rotation is held back: too many versions or refusals. Ask again at `retry_at`.
    Held,
    /// The report was taken.
    Recorded,
    /// A newer message of this lane was known already. Ask anew with a new nonce.
    Stale,
    /// The message waited too long; its report was taken. Ask anew.
    Expired,
    /// The device is not allowed to rotate.
    Refused,
}

impl Code {
    /// The word, as it is sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::NotDue => "not_due",
            Self::Held => "held",
            Self::Recorded => "recorded",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// What a result says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = crate::schema::rotate_encloses))]
pub struct Answer {
    /// 1.
    pub v: Version1,
    /// The deployment that answers.
    pub deployment: Deployment,
    /// The message it answers.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::RequestId"))]
    pub rid: RequestId,
    /// The lane.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::LaneId"))]
    pub lane: LaneId,
    /// The meaning.
    pub code: Code,
    /// When to ask again, in milliseconds since the epoch by the server's clock, where that makes sense.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::UnixMillis>"))]
    pub retry_at: Option<UnixMillis>,
    /// When it was signed, by the server's clock.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub issued_at: UnixMillis,
    /// The enclosed version.
    #[serde(flatten)]
    pub enclosed: Option<Enclosed>,
}

/// An enclosed version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Enclosed {
    /// The version.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::VersionId"))]
    pub version: VersionId,
    /// RFC 7638 thumbprint of the ephemeral key it is sealed to.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::KeyThumbprint"))]
    pub epk_thumbprint: String,
    /// Base64url of the encapsulated key.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::EncapsulatedKey"))]
    enc: String,
    /// Base64url of the ciphertext.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Ciphertext"))]
    ct: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "AnswerHeader"))]
pub(crate) struct Header {
    alg: ServerAlgorithm,
    #[cfg_attr(feature = "schema", schemars(extend("const" = TYP)))]
    typ: String,
    kid: String,
}

/// The `typ` of a result.
pub const TYP: &str = "kt-res+jws";

/// A result that an agent must not act on.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum ResultError {
    /// Not a result at all.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Not signed by a key the agent trusts.
    #[error("the result is not signed by a trusted key")]
    Untrusted,
}

impl Enclosed {
    /// Encloses a sealed version.
    pub fn new(version: VersionId, epk_thumbprint: String, sealed: &Sealed) -> Self {
        let (enc, ct) = (URL_SAFE_NO_PAD.encode(&sealed.enc), URL_SAFE_NO_PAD.encode(&sealed.ct));
        Self { version, epk_thumbprint, enc, ct }
    }

    /// The sealed version.
    pub fn sealed(&self) -> Option<Sealed> {
        Some(Sealed {
            enc: URL_SAFE_NO_PAD.decode(&self.enc).ok()?,
            ct: URL_SAFE_NO_PAD.decode(&self.ct).ok()?,
        })
    }
}

/// Signs an answer.
pub fn sign(answer: &Answer, key: &SigningKey) -> serde_json::Result<String> {
    let header = Header { alg: ServerAlgorithm::EdDSA, typ: TYP.to_owned(), kid: key.kid().to_owned() };
    let input = jws::signing_input(&header, answer)?;
    let signature = key.sign(input.as_bytes());
    Ok(jws::join(input, &signature))
}

/// What a key that is elsewhere has to sign for an answer.
pub fn signing_input(answer: &Answer, key: &PublicKey) -> serde_json::Result<String> {
    let header = Header { alg: key.alg, typ: TYP.to_owned(), kid: key.kid.clone() };
    jws::signing_input(&header, answer)
}

/// Completes a result with the signature of its [`signing_input`].
pub fn complete(signing_input: String, signature: &[u8]) -> String {
    jws::join(signing_input, signature)
}

/// Reads a result signed by one of `trusted`.
pub fn verify(text: &str, trusted: &[PublicKey]) -> Result<Answer, ResultError> {
    let parts = jws::split::<Header>(text)?;
    if parts.header.typ != TYP {
        return Err(Malformed::Header(format!("typ is not {TYP}")).into());
    }
    let key = trusted.iter().find(|key| key.kid == parts.header.kid && key.alg == parts.header.alg);
    if !key.is_some_and(|key| key.verifies(parts.signing_input.as_bytes(), &parts.signature)) {
        return Err(ResultError::Untrusted);
    }
    serde_json::from_slice(&parts.payload).map_err(|error| Malformed::Payload(error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{Digest, SHA256};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;
    use crate::signing::es256_digest;

    fn answer() -> Answer {
        Answer {
            v: Version1,
            deployment: "example".parse().unwrap(),
            rid: RequestId([1; 32]),
            lane: LaneId([2; 16]),
            code: Code::NotDue,
            retry_at: Some(UnixMillis(1)),
            issued_at: UnixMillis(0),
            enclosed: None,
        }
    }

    fn key(kid: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(kid, &[seed; 32]).unwrap()
    }

    #[test]
    fn results_of_both_live_keys_are_read_and_of_no_other() {
        let (old, new) = (key("a", 1), key("b", 2));
        let (both, only_new) = ([new.public(), old.public()], [new.public()]);
        for signer in [&old, &new] {
            assert_eq!(verify(&sign(&answer(), signer).unwrap(), &both), Ok(answer()));
        }
        let by_old = sign(&answer(), &old).unwrap();
        for trusted in [&only_new as &[PublicKey], &[], &[key("a", 3).public()], &[key("b", 1).public()]] {
            assert_eq!(verify(&by_old, trusted), Err(ResultError::Untrusted));
        }
    }

    #[test]
    fn es256_keys_verify_results_too() {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let public = |alg| PublicKey { kid: "v".to_owned(), alg, x: x.clone() };
        let input = signing_input(&answer(), &public(ServerAlgorithm::ES256)).unwrap();
        let digest = Digest::import_less_safe(&es256_digest(input.as_bytes()), &SHA256).unwrap();
        let signature = pair.sign_digest(&digest).unwrap();
        let text = complete(input, signature.as_ref());
        assert_eq!(verify(&text, &[public(ServerAlgorithm::ES256)]), Ok(answer()));
        assert_eq!(verify(&text, &[public(ServerAlgorithm::EdDSA)]), Err(ResultError::Untrusted));
    }

    #[test]
    fn answers_that_are_no_answers_are_refused_after_the_signature() {
        #[derive(Serialize)]
        struct Other {
            v: u8,
        }
        let signer = key("a", 1);
        let header = Header { alg: ServerAlgorithm::EdDSA, typ: TYP.to_owned(), kid: "a".to_owned() };
        let input = jws::signing_input(&header, &Other { v: 1 }).unwrap();
        let signature = signer.sign(input.as_bytes());
        let text = jws::join(input, &signature);
        assert!(matches!(
            verify(&text, &[signer.public()]),
            Err(ResultError::Malformed(Malformed::Payload(_)))
        ));
        assert_eq!(verify(&text, &[key("a", 2).public()]), Err(ResultError::Untrusted));
    }

    /// Half an enclosure is no enclosure: whoever opens results must not take it for a version.
    #[test]
    fn half_an_enclosure_is_none() {
        let whole = Enclosed {
            version: VersionId([3; 16]),
            epk_thumbprint: String::new(),
            enc: String::new(),
            ct: String::new(),
        };
        let mut value = serde_json::to_value(Answer { enclosed: Some(whole.clone()), ..answer() }).unwrap();
        assert_eq!(serde_json::from_value::<Answer>(value.clone()).unwrap().enclosed, Some(whole));
        value.as_object_mut().unwrap().remove("ct");
        assert_eq!(serde_json::from_value::<Answer>(value).unwrap().enclosed, None);
    }
}
