//! JSON Web Signatures in compact form (RFC 7515), read strictly: three parts, unpadded canonical base64url,
//! and a header with the members its reader names and no others. So nothing can be smuggled in (`jku`, `jwk`,
//! `b64`, `crit`), and no two texts decode to the same bytes: whoever has one signed message cannot make another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A JWS taken apart. Nothing in it is verified.
pub(crate) struct Parts<'a, H> {
    pub(crate) header: H,
    pub(crate) payload: Vec<u8>,
    pub(crate) signing_input: &'a str,
    pub(crate) signature: Vec<u8>,
}

/// Why a text is not a JWS of the wanted kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum Malformed {
    /// Not three parts of base64url.
    #[error("not a compact JWS: expected three parts of unpadded base64url")]
    Compact,
    /// The header is not what this kind of message has.
    #[error("the JWS header is not of this kind: {0}")]
    Header(String),
    /// The payload is not what this kind of message has.
    #[error("the payload is not of this kind: {0}")]
    Payload(String),
}

pub(crate) fn split<H: DeserializeOwned + Serialize>(text: &str) -> Result<Parts<'_, H>, Malformed> {
    let (signing_input, signature) = text.rsplit_once('.').ok_or(Malformed::Compact)?;
    let (header, payload) = signing_input.split_once('.').ok_or(Malformed::Compact)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed::Compact);
    let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    if signature.is_empty() {
        return Err(Malformed::Compact);
    }
    let header = strict_header(&header).map_err(|error| Malformed::Header(error.to_string()))?;
    Ok(Parts { header, payload, signing_input, signature })
}

/// Derived readers also take a list of values for an object, and an object with one member for a name. A header
/// in which that happened is not written back as it was read.
fn strict_header<H: DeserializeOwned + Serialize>(text: &[u8]) -> serde_json::Result<H> {
    let header: H = serde_json::from_slice(text)?;
    let plain: serde_json::Value = serde_json::from_slice(text)?;
    if serde_json::to_value(&header)? == plain {
        Ok(header)
    } else {
        Err(serde::de::Error::custom("expected an object of texts"))
    }
}

/// The part of a JWS that is signed.
pub(crate) fn signing_input(header: &impl Serialize, payload: &impl Serialize) -> serde_json::Result<String> {
    let mut text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header)?);
    text.push('.');
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(payload)?, &mut text);
    Ok(text)
}

/// Completes a JWS with its signature.
pub(crate) fn join(mut signing_input: String, signature: &[u8]) -> String {
    signing_input.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut signing_input);
    signing_input
}
