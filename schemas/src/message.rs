//! Messages of devices, from text to trust in two steps: [`SignedMessage`] is well formed, [`VerifiedMessage`]
//! is also signed by the key in its certificate. Whether that key is the device's is for the directory to say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_domain::lane::LaneKey;
use serde::{Deserialize, Serialize};

use crate::certificate::{CertificateError, DeviceAlgorithm, DeviceCertificate};
use crate::claims::{Common, Event, MAX_LISTED, Report, Request, State};
use crate::jws;

pub use crate::jws::Malformed;

/// The largest message, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// The kinds of messages, by their `typ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MessageKind {
    /// A request for a new password.
    #[serde(rename = "kt-req+jws")]
    Request,
    /// A report of what became of a result.
    #[serde(rename = "kt-rep+jws")]
    Report,
    /// An event.
    #[serde(rename = "kt-evt+jws")]
    Event,
}

/// The protected header. Nothing else may be in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "MessageHeader"))]
pub(crate) struct Header {
    alg: DeviceAlgorithm,
    typ: MessageKind,
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::DeviceId"))]
    kid: DeviceId,
    #[cfg_attr(feature = "schema", schemars(with = "[crate::schema::Certificate; 1]"))]
    x5c: [String; 1],
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claims {
    /// A request for a new password.
    Request(Request),
    /// A report of what became of a result.
    Report(Report),
    /// An event.
    Event(Event),
}

/// A well-formed message. Anybody may have written it.
#[derive(Clone, Debug)]
pub struct SignedMessage {
    text: String,
    rid: RequestId,
    algorithm: DeviceAlgorithm,
    certificate: DeviceCertificate,
    claims: Claims,
    signed: usize,
    signature: Vec<u8>,
}

/// A message signed by the key in its certificate.
#[derive(Clone, Debug)]
pub struct VerifiedMessage(SignedMessage);

/// A text that is not a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum MessageError {
    /// Too long.
    #[error("a message has at most {MAX_BYTES} bytes")]
    Size,
    /// Not a JWS with the right header and claims.
    #[error(transparent)]
    Jws(#[from] Malformed),
    /// Its certificate cannot serve.
    #[error("x5c: {0}")]
    Certificate(CertificateError),
    /// Parts of it contradict each other.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// The signature is not the certificate's key's.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("the signature does not match the certificate in the message")]
pub struct BadSignature;

impl SignedMessage {
    /// Reads a message (trust check 1, request shape).
    pub fn parse(text: String) -> Result<Self, MessageError> {
        if text.len() > MAX_BYTES {
            return Err(MessageError::Size);
        }
        let parts = jws::split::<Header>(&text)?;
        let [certificate] = &parts.header.x5c;
        let der =
            STANDARD.decode(certificate).map_err(|_| MessageError::Certificate(CertificateError::Syntax))?;
        let certificate = DeviceCertificate::from_der(&der).map_err(MessageError::Certificate)?;
        let claims = Claims::read(parts.header.typ, &parts.payload)?;
        if claims.common().device_id != parts.header.kid {
            return Err(MessageError::Inconsistent("kid and device_id differ"));
        }
        let (signed, signature, algorithm) = (parts.signing_input.len(), parts.signature, parts.header.alg);
        let rid = RequestId::of(&text);
        Ok(Self { text, rid, algorithm, certificate, claims, signed, signature })
    }

    /// Checks the signature against the key in the certificate (trust check 5).
    pub fn verify(self) -> Result<VerifiedMessage, BadSignature> {
        let input = self.text.as_bytes().get(..self.signed).unwrap_or_default();
        let good = self.certificate.verifies(self.algorithm, input, &self.signature);
        good.then_some(VerifiedMessage(self)).ok_or(BadSignature)
    }

    /// SHA-256 of the exact text.
    pub fn rid(&self) -> RequestId {
        self.rid
    }

    /// What it says.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The certificate it brings.
    pub fn certificate(&self) -> &DeviceCertificate {
        &self.certificate
    }

    /// The exact text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The exact text, given up.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl VerifiedMessage {
    /// The message, read only.
    pub fn message(&self) -> &SignedMessage {
        &self.0
    }

    /// The lane it speaks for.
    pub fn lane(&self) -> LaneKey {
        let common = self.0.claims.common();
        LaneKey {
            device: common.device_id,
            account: common.account.id.clone(),
            install: common.install_id,
            key: self.0.certificate.key_hash(),
        }
    }
}

impl Claims {
    fn read(kind: MessageKind, payload: &[u8]) -> Result<Self, MessageError> {
        let bad = |error: serde_json::Error| Malformed::Payload(error.to_string());
        let claims = match kind {
            MessageKind::Request => serde_json::from_slice(payload).map(Self::Request),
            MessageKind::Report => serde_json::from_slice(payload).map(Self::Report),
            MessageKind::Event => serde_json::from_slice(payload).map(Self::Event),
        };
        let claims = claims.map_err(bad)?;
        let long = |state: &State| state.in_doubt.len() > MAX_LISTED || state.refused.len() > MAX_LISTED;
        if claims.state().is_some_and(long) {
            return Err(MessageError::Inconsistent("state lists more than 64 versions"));
        }
        Ok(claims)
    }

    /// What every message says.
    pub fn common(&self) -> &Common {
        match self {
            Self::Request(request) => &request.common,
            Self::Report(report) => &report.common,
            Self::Event(event) => &event.common,
        }
    }

    /// The state it reports, if it reports one.
    pub fn state(&self) -> Option<&State> {
        match self {
            Self::Request(request) => Some(&request.state),
            Self::Report(report) => Some(&report.state),
            Self::Event(_) => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Request(_) => MessageKind::Request,
            Self::Report(_) => MessageKind::Report,
            Self::Event(_) => MessageKind::Event,
        }
    }
}

/// The text that a device signs to send these claims. The signature is RSASSA over its bytes; see [`complete`].
pub fn signing_input(
    claims: &Claims,
    algorithm: DeviceAlgorithm,
    certificate_der: &[u8],
) -> serde_json::Result<String> {
    let header = Header {
        alg: algorithm,
        typ: claims.kind(),
        kid: claims.common().device_id,
        x5c: [STANDARD.encode(certificate_der)],
    };
    match claims {
        Claims::Request(request) => jws::signing_input(&header, request),
        Claims::Report(report) => jws::signing_input(&header, report),
        Claims::Event(event) => jws::signing_input(&header, event),
    }
}

/// The message: what was signed, and its signature.
pub fn complete(signing_input: String, signature: &[u8]) -> String {
    jws::join(signing_input, signature)
}

#[cfg(test)]
mod tests;
