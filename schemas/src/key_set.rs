//! The key set: which keys sign results, signed in turn by the deployment's offline root key.
//!
//! An agent is installed with the root's public key and trusts nothing else: no root, no start. It keeps the key
//! set with the highest serial it has seen and takes only a higher one, which comes with any answer of the
//! server in the header [`HEADER`].

use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::claims::{Deployment, Version1};
use crate::jws::{self, Malformed};
use crate::signing::{PublicKey, ServerAlgorithm, SigningKey};

/// The `typ` of a key set.
pub const TYP: &str = "kt-keys+jws";

/// The HTTP header in which every answer carries the key set.
pub const HEADER: &str = "keyturn-key-set";

/// The most keys in a set: two live ones during a change, and room for two that sign elsewhere.
pub const MAX_KEYS: usize = 4;

/// What a key set says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeySet {
    /// 1.
    pub v: Version1,
    /// The deployment.
    pub deployment: Deployment,
    /// Grows with every change.
    pub serial: u64,
    /// The keys that sign results; two during a change.
    pub keys: Vec<PublicKey>,
    /// When it ends, in milliseconds since the epoch.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub not_after: UnixMillis,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "KeySetHeader"))]
pub(crate) struct Header {
    alg: ServerAlgorithm,
    #[cfg_attr(feature = "schema", schemars(extend("const" = TYP)))]
    typ: String,
    kid: String,
}

/// A key set that an agent must not take.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum KeySetError {
    /// Not a key set at all.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Not signed by the root.
    #[error("the key set is not signed by this deployment's root key")]
    Untrusted,
    /// For another deployment.
    #[error("the key set is for another deployment")]
    Deployment,
    /// Past its end.
    #[error("the key set has ended")]
    Ended,
}

/// Signs a key set with the root key.
pub fn sign(set: &KeySet, root: &SigningKey) -> serde_json::Result<String> {
    let header = Header { alg: ServerAlgorithm::EdDSA, typ: TYP.to_owned(), kid: root.kid().to_owned() };
    let input = jws::signing_input(&header, set)?;
    let signature = root.sign(input.as_bytes());
    Ok(jws::join(input, &signature))
}

/// Reads a key set of `deployment`, signed by `root` and not ended at `now`.
pub fn verify(
    text: &str,
    root: &PublicKey,
    deployment: &Deployment,
    now: UnixMillis,
) -> Result<KeySet, KeySetError> {
    let parts = jws::split::<Header>(text)?;
    if parts.header.typ != TYP {
        return Err(Malformed::Header(format!("typ is not {TYP}")).into());
    }
    let named = parts.header.kid == root.kid && parts.header.alg == root.alg;
    if !named || !root.verifies(parts.signing_input.as_bytes(), &parts.signature) {
        return Err(KeySetError::Untrusted);
    }
    let set = payload(&parts.payload)?;
    if set.deployment != *deployment {
        return Err(KeySetError::Deployment);
    }
    if set.not_after <= now {
        return Err(KeySetError::Ended);
    }
    Ok(set)
}

/// What a key set says, for those who hand it on: nothing is known of who signed it.
pub fn read(text: &str) -> Result<KeySet, KeySetError> {
    Ok(payload(&jws::split::<Header>(text)?.payload)?)
}

fn payload(bytes: &[u8]) -> Result<KeySet, Malformed> {
    let set: KeySet = serde_json::from_slice(bytes).map_err(|error| Malformed::Payload(error.to_string()))?;
    let mut names: Vec<&str> = set.keys.iter().map(|key| key.kid.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() != set.keys.len() || !(1..=MAX_KEYS).contains(&names.len()) {
        return Err(Malformed::Payload(format!("expected 1 to {MAX_KEYS} keys with different names")));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

    fn key(kid: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(kid, &[seed; 32]).unwrap()
    }

    fn set(deployment: &str, not_after: u64) -> KeySet {
        let keys = vec![key("sign-1", 1).public(), key("sign-2", 2).public()];
        KeySet {
            v: Version1,
            deployment: deployment.parse().unwrap(),
            serial: 7,
            keys,
            not_after: UnixMillis(not_after),
        }
    }

    #[test]
    fn a_key_set_is_of_one_root_and_deployment_and_time() {
        let root = key("root-1", 9);
        let cases = [
            ("good", set("example", NOW.0 + 1), &root, Ok(())),
            ("another root", set("example", NOW.0 + 1), &key("root-1", 8), Err(KeySetError::Untrusted)),
            ("another name", set("example", NOW.0 + 1), &key("root-2", 9), Err(KeySetError::Untrusted)),
            (
                "a key that it lists",
                set("example", NOW.0 + 1),
                &key("sign-1", 1),
                Err(KeySetError::Untrusted),
            ),
            ("another deployment", set("example.org", NOW.0 + 1), &root, Err(KeySetError::Deployment)),
            ("ended", set("example", NOW.0), &root, Err(KeySetError::Ended)),
        ];
        for (what, set, signer, expected) in cases {
            let text = sign(&set, signer).unwrap();
            let read = verify(&text, &root.public(), &"example".parse().unwrap(), NOW);
            assert_eq!(read, expected.map(|()| set), "{what}");
        }
    }

    #[test]
    fn a_key_file_is_of_its_kind() {
        let text = SigningKey::format("root", "root-1", &[9; 32]);
        assert_eq!(SigningKey::parse("root", &text).unwrap().public(), key("root-1", 9).public());
        assert!(SigningKey::parse("signing", &text).is_err());
        assert!(SigningKey::parse("root", &text.replace("EdDSA", "ES256")).is_err());
        assert!(SigningKey::parse("root", &text.replacen('{', r#"{"more":1,"#, 1)).is_err());
    }
}
