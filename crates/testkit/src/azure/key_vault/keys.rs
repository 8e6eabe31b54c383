//! The keys of a vault: <https://learn.microsoft.com/rest/api/keyvault/keys>. RSA keys wrap and unwrap, keys on P-256
//! sign; the private halves stay in here.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{
    KeyPair as RsaKeyPair, KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use serde_json::{Value, json};

use super::Refusal;

#[derive(Debug, Default)]
pub(super) struct Keys(BTreeMap<String, Vec<Version>>);

#[derive(Debug)]
struct Version {
    id: String,
    material: Material,
    enabled: bool,
    created: u64,
}

enum Material {
    Rsa(Box<Rsa>),
    P256(EcdsaKeyPair),
}

struct Rsa {
    private: OaepPrivateDecryptingKey,
    public: OaepPublicEncryptingKey,
    n: Vec<u8>,
    e: Vec<u8>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

impl Material {
    fn kind(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RSA",
            Self::P256(_) => "EC",
        }
    }

    fn make(kty: &str, body: &Value) -> Result<Self, Refusal> {
        let broken = || Refusal::bad("the key cannot be made");
        let failed = |_| broken();
        match (kty, &body["key_size"], body["crv"].as_str()) {
            ("RSA", size, None) => {
                let size = match size.as_u64().unwrap_or(2048) {
                    2048 => KeySize::Rsa2048,
                    3072 => KeySize::Rsa3072,
                    4096 => KeySize::Rsa4096,
                    _ => return Err(Refusal::bad("key_size must be 2048, 3072 or 4096")),
                };
                let pair = RsaKeyPair::generate(size).map_err(failed)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                let private = PrivateDecryptingKey::from_pkcs8(der.as_ref()).map_err(|_| broken())?;
                let public = OaepPublicEncryptingKey::new(private.public_key()).map_err(failed)?;
                // RSAPublicKey ends with the modulus, then the exponent 65537 as `02 03 01 00 01`.
                let (rest, exponent) =
                    pair.public_key().as_ref().split_last_chunk::<3>().ok_or_else(broken)?;
                let modulus = rest.len().checked_sub(2).and_then(|end| rest.get(end - size.len()..end));
                Ok(Self::Rsa(Box::new(Rsa {
                    public,
                    n: modulus.ok_or_else(broken)?.to_vec(),
                    e: exponent.to_vec(),
                    private: OaepPrivateDecryptingKey::new(private).map_err(failed)?,
                })))
            }
            ("EC", Value::Null, Some("P-256")) => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Self::P256).map_err(failed)
            }
            // As of the service: Ed25519 is not among its curves.
            _ => Err(Refusal::bad("kty, key_size and crv do not go together, or are not known here")),
        }
    }

    /// The public half, as members of a JSON Web Key, and what the key may do.
    fn public(&self) -> Value {
        match self {
            Self::Rsa(rsa) => json!({
                "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(&rsa.n), "e": URL_SAFE_NO_PAD.encode(&rsa.e),
                "key_ops": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
            }),
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref().get(1..).unwrap_or_default().split_at(32);
                json!({
                    "kty": "EC", "crv": "P-256", "key_ops": ["sign", "verify"],
                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
                })
            }
        }
    }

    /// Does what `operation` asks for with the value of the body.
    fn operate(&self, operation: &str, algorithm: &str, value: &[u8]) -> Result<Vec<u8>, Refusal> {
        let failed = |_| Refusal::bad("The parameter is incorrect.");
        match (self, operation, algorithm) {
            (Self::Rsa(rsa), "wrapkey", "RSA-OAEP-256") => {
                let mut out = vec![0; rsa.public.ciphertext_size()];
                let wrapped = rsa.public.encrypt(&OAEP_SHA256_MGF1SHA256, value, &mut out, None);
                Ok(wrapped.map_err(failed)?.to_vec())
            }
            (Self::Rsa(rsa), "unwrapkey", "RSA-OAEP-256") => {
                let mut out = vec![0; rsa.private.min_output_size()];
                let plain = rsa.private.decrypt(&OAEP_SHA256_MGF1SHA256, value, &mut out, None);
                Ok(plain.map_err(failed)?.to_vec())
            }
            (Self::P256(pair), "sign", "ES256") => {
                let digest = Digest::import_less_safe(value, &SHA256).map_err(failed)?;
                Ok(pair.sign_digest(&digest).map_err(failed)?.as_ref().to_vec())
            }
            _ => Err(Refusal::bad(format!("Key and signing algorithm are incompatible: {algorithm}"))),
        }
    }
}

fn not_found(name: &str) -> Refusal {
    let message = format!("A key with (name/id) {name} was not found in this key vault.");
    Refusal(StatusCode::NOT_FOUND, "KeyNotFound", None, message)
}

impl Keys {
    /// The versions of a key, oldest first.
    pub(super) fn versions(&self, name: &str) -> Vec<String> {
        self.0.get(name).into_iter().flatten().map(|version| version.id.clone()).collect()
    }

    pub(super) fn create(
        &mut self,
        origin: &str,
        name: &str,
        body: &Value,
        now: u64,
    ) -> Result<Value, Refusal> {
        let named = (1..=127).contains(&name.len())
            && name.bytes().all(|one| one.is_ascii_alphanumeric() || one == b'-');
        let kty = body["kty"].as_str().ok_or_else(|| Refusal::bad("kty is missing"))?;
        if !named {
            return Err(Refusal::bad("The request URI contains an invalid name"));
        }
        let material = Material::make(kty, body)?;
        let entropy: &dyn Entropy = &SystemEntropy;
        let id = format!("{:032x}", u128::from_be_bytes(entropy.bytes()));
        let version = Version { id, material, enabled: true, created: now };
        let told = bundle(origin, name, &version);
        self.0.entry(name.to_owned()).or_default().push(version);
        Ok(told)
    }

    fn version(&self, name: &str, id: &str) -> Result<&Version, Refusal> {
        let versions = self.0.get(name).ok_or_else(|| not_found(name))?;
        let found = if id.is_empty() { versions.last() } else { versions.iter().find(|one| one.id == id) };
        found.ok_or_else(|| not_found(name))
    }

    pub(super) fn get(&self, origin: &str, name: &str, id: &str) -> Result<Value, Refusal> {
        self.version(name, id).map(|version| bundle(origin, name, version))
    }

    pub(super) fn enable(&mut self, name: &str, id: &str, enabled: bool) {
        let versions = self.0.get_mut(name).into_iter().flatten();
        versions.filter(|one| one.id == id).for_each(|one| one.enabled = enabled);
    }

    pub(super) fn exchange(&mut self, name: &str, one: &str, other: &str) {
        let Some(versions) = self.0.get_mut(name) else { return };
        let place = |id: &str| versions.iter().position(|version| version.id == id);
        let (Some(first), Some(second)) = (place(one), place(other)) else { return };
        versions.swap(first, second);
        for (place, id) in [(first, one), (second, other)] {
            if let Some(version) = versions.get_mut(place) {
                id.clone_into(&mut version.id);
            }
        }
    }

    pub(super) fn operate(
        &self,
        origin: &str,
        name: &str,
        id: &str,
        operation: &str,
        body: &Value,
    ) -> Result<Value, Refusal> {
        let known = ["alg", "value"];
        let members = body.as_object().ok_or_else(|| Refusal::bad("the body must be an object"))?;
        if let Some(strange) = members.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(Refusal::bad(format!("Unrecognized member {strange}")));
        }
        let version = self.version(name, id)?;
        // To take apart what there is needs the version that made it, and only that may be told.
        if operation == "unwrapkey" && id.is_empty() {
            return Err(Refusal::bad("unwrapkey needs a version here"));
        }
        if !version.enabled {
            let message = format!("Operation {operation} is not allowed on a disabled key.");
            return Err(Refusal(StatusCode::FORBIDDEN, "Forbidden", Some("KeyDisabled"), message));
        }
        let algorithm = body["alg"].as_str().ok_or_else(|| Refusal::bad("alg is missing"))?;
        let value = body["value"].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let value = value.ok_or_else(|| Refusal::bad("value is not base64url"))?;
        let done = version.material.operate(operation, algorithm, &value)?;
        Ok(json!({ "kid": kid(origin, name, version), "value": URL_SAFE_NO_PAD.encode(done) }))
    }
}

fn kid(origin: &str, name: &str, version: &Version) -> String {
    format!("{origin}/keys/{name}/{}", version.id)
}

fn bundle(origin: &str, name: &str, version: &Version) -> Value {
    let mut key = version.material.public();
    if let Some(members) = key.as_object_mut() {
        members.insert("kid".to_owned(), json!(kid(origin, name, version)));
    }
    let Version { enabled, created, .. } = version;
    json!({
        "key": key,
        "attributes": {
            "enabled": enabled, "created": created, "updated": created, "exportable": false,
            "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
        },
    })
}
