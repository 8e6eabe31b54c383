//! What unit tests share: a device key made once per process, and messages and certificates made by hand, so that
//! they can be wrong in one way and right in all others.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use serde_json::{Value, json};

use crate::mac::{KeyId, KeyRing};
use crate::nonce::{Nonce, NonceKeys};

pub(crate) const DEVICE: &str = "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11";
pub(crate) const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

/// Entropy that is none.
pub(crate) struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, out: &mut [u8]) {
        out.fill(0);
    }
}

/// A ring of one key.
pub(crate) fn ring(id: u8, secret: u8) -> KeyRing {
    KeyRing::new([(KeyId(id), [secret; 32])])
}

/// A ring in the middle of a change: the new key seals, the old one is still accepted.
pub(crate) fn changing() -> KeyRing {
    KeyRing::new([(KeyId(2), [2; 32]), (KeyId(1), [1; 32])])
}

pub(crate) fn nonce() -> Nonce {
    NonceKeys::new(ring(1, 1)).issue(NOW, &Zeros).unwrap()
}

/// Every text that differs from base64url of `bytes` by one bit in what it decodes to.
pub(crate) fn one_bit_off(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut other = bytes.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        other
    })
}

/// A device: its key and its certificate.
pub(crate) struct Device {
    pair: RsaKeyPair,
    pub(crate) der: Vec<u8>,
}

/// The one device of this process.
pub(crate) fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(Device::generate)
}

/// Another device with another key.
pub(crate) fn stranger() -> &'static Device {
    static STRANGER: OnceLock<Device> = OnceLock::new();
    STRANGER.get_or_init(Device::generate)
}

impl Device {
    fn generate() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        Self { pair, der: certificate(&[DEVICE], &spki) }
    }

    pub(crate) fn sign(&self, padding: &'static dyn RsaEncoding, input: &str) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(padding, &SystemRandom::new(), input.as_bytes(), &mut signature).unwrap();
        signature
    }

    /// A header like this device writes it.
    pub(crate) fn header(&self, kind: &str) -> Value {
        json!({"alg": "RS256", "typ": kind, "kid": DEVICE, "x5c": [STANDARD.encode(&self.der)]})
    }

    /// A message of exactly these texts, signed as it says.
    pub(crate) fn message(&self, header: &str, payload: &str) -> String {
        let padding: &'static dyn RsaEncoding =
            if header.contains("PS256") { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(padding, &input));
        format!("{input}.{signature}")
    }

    /// A message with a good header and these claims.
    pub(crate) fn says(&self, kind: &str, claims: &Value) -> String {
        self.message(&self.header(kind).to_string(), &claims.to_string())
    }
}

/// Claims of a request in full.
pub(crate) fn request() -> Value {
    json!({
        "v": 1, "aud": "example", "jti": "AAAAAAAAAAAAAAAAAAAAAA", "iat": 1_790_000_000, "nonce": nonce(),
        "device_id": DEVICE,
        "labels": {"serial": "S1", "host": "LAB-07", "os": "Windows 11", "vm": false},
        "account": {"id": "S-1-5-21-1-2-3-500", "name": "Administrator"},
        "install_id": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "op": "rotate",
        "epk": {"kty": "OKP", "crv": "X25519", "x": "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"},
        "wait_s": 600,
        "state": {"cur": null, "in_doubt": [], "refused": [], "password_age": null, "account_missing": false},
        "policy": {"min_len": 14, "complexity": true, "max_len": null},
        "reason": "scheduled",
    })
}

/// Claims of a report with nothing that may be left out.
pub(crate) fn report() -> Value {
    let mut report = request();
    let members = report.as_object_mut().unwrap();
    for member in ["labels", "epk", "wait_s", "policy", "reason"] {
        members.remove(member);
    }
    members.insert("op".to_owned(), json!("applied"));
    members.insert("state".to_owned(), json!({"cur": "AAAAAAAAAAAAAAAAAAAAAA"}));
    report
}

/// Claims of an event.
pub(crate) fn event() -> Value {
    let mut event = report();
    let members = event.as_object_mut().unwrap();
    members.remove("state");
    members.insert("op".to_owned(), json!("event"));
    members.insert("result".to_owned(), json!("PasswordRotated"));
    event
}

/// An element of DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, low @ 0..=127] => vec![tag, low],
        [0, low] => vec![tag, 0x81, low],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head, content].concat()
}

const RSA_ENCRYPTION: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const SHA256_WITH_RSA: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];

/// A certificate with these common names and this `SubjectPublicKeyInfo`. Its own signature is worthless, as
/// nobody looks at it.
pub(crate) fn certificate(common_names: &[&str], spki: &[u8]) -> Vec<u8> {
    let attribute = |name: &&str| {
        der(0x31, &[&der(0x30, &[&[0x06, 0x03, 0x55, 0x04, 0x03], &der(0x0c, &[name.as_bytes()])])])
    };
    let name = der(0x30, &[&common_names.iter().flat_map(attribute).collect::<Vec<u8>>()]);
    let validity = der(0x30, &[&der(0x17, &[b"260101000000Z"]), &der(0x17, &[b"460101000000Z"])]);
    let version = der(0xa0, &[&[0x02, 0x01, 0x02]]);
    let body = der(0x30, &[&version, &[0x02, 0x01, 0x01], &SHA256_WITH_RSA, &name, &validity, &name, spki]);
    der(0x30, &[&body, &SHA256_WITH_RSA, &[0x03, 0x02, 0x00, 0x00]])
}

/// The `SubjectPublicKeyInfo` of an RSA key with a modulus of so many bits (only the first and the last are one)
/// and this exponent, big endian.
pub(crate) fn rsa(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0; bits.div_ceil(8)];
    modulus[0] = 1 << ((bits - 1) % 8);
    *modulus.last_mut().unwrap() |= 1;
    let integer = |bytes: &[u8]| {
        let sign: &[u8] = if bytes[0] > 0x7f { &[0] } else { &[] };
        der(0x02, &[sign, bytes])
    };
    let key = der(0x30, &[&integer(&modulus), &integer(exponent)]);
    der(0x30, &[&RSA_ENCRYPTION, &der(0x03, &[&[0], &key])])
}
