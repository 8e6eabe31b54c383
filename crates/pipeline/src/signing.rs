//! The key that signs results, wherever its private half is.

use std::sync::Arc;

use keyturn_ports::signing::Signer;
use keyturn_ports::{Error, Kind};
use keyturn_schemas::signing::{PublicKey, SigningKey, es256_digest};

use crate::aside::aside;

const SIGNING: &str = "signing results";

/// The key that signs results.
#[derive(Clone, Debug)]
pub enum ResultKey {
    /// In this process: signing is a matter of microseconds and asks nobody.
    Here(Arc<SigningKey>),
    /// In a service that signs for us.
    Elsewhere(RemoteKey),
}

/// A key in a service that signs for us.
#[derive(Clone, Debug)]
pub struct RemoteKey {
    public: PublicKey,
    signer: Arc<dyn Signer>,
}

impl ResultKey {
    /// Its public half.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Here(key) => key.public(),
            Self::Elsewhere(key) => key.public.clone(),
        }
    }

    /// Its name.
    pub fn kid(&self) -> &str {
        match self {
            Self::Here(key) => key.kid(),
            Self::Elsewhere(key) => &key.public.kid,
        }
    }

    /// Signs one text.
    ///
    /// # Errors
    /// As [`RemoteKey::sign`]; a key in this process has none.
    pub async fn sign(&self, message: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::Here(key) => Ok(key.sign(message.as_bytes())),
            Self::Elsewhere(key) => {
                let signed = key.sign(vec![message.to_owned()]).await.pop();
                signed.unwrap_or_else(|| Err(miscounted())).map(|(_, signature)| signature)
            }
        }
    }
}

impl From<SigningKey> for ResultKey {
    fn from(key: SigningKey) -> Self {
        Self::Here(Arc::new(key))
    }
}

impl RemoteKey {
    /// The key whose public half agents know, and who signs with its private half.
    pub fn new(public: PublicKey, signer: Arc<dyn Signer>) -> Self {
        Self { public, signer }
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs texts. They come back in their order, each with its signature, and only with one that this very key's public
    /// half verifies: no agent would take another.
    ///
    /// # Errors
    /// What the service says. Denied if it signs with another key.
    pub async fn sign(&self, messages: Vec<String>) -> Vec<Result<(String, Vec<u8>), Error>> {
        let count = messages.len();
        let digests = messages.iter().map(|message| es256_digest(message.as_bytes())).collect();
        let signed = self.signer.sign(digests).await;
        let public = self.public.clone();
        let verifying = aside(count, move || {
            let mut signed = signed.into_iter();
            let mut one = |message: String| {
                let signature = signed.next().unwrap_or_else(|| Err(miscounted()))?;
                if public.verifies(message.as_bytes(), &signature) {
                    Ok((message, signature.to_vec()))
                } else {
                    Err(Error::new(Kind::Denied, SIGNING, strange(&public.kid)))
                }
            };
            messages.into_iter().map(&mut one).collect()
        });
        verifying.await.unwrap_or_else(|panic| {
            (0..count).map(|_| Err(Error::new(Kind::Unavailable, SIGNING, panic.to_string()))).collect()
        })
    }
}

fn strange(kid: &str) -> String {
    format!(
        "what came back is no signature of {kid}, so nothing of it was used; `keyturn doctor` compares the keys"
    )
}

/// A service that did not answer for each of those it was asked for.
fn miscounted() -> Error {
    Error::new(Kind::Unavailable, SIGNING, "the service lost count of its answers")
}

#[cfg(test)]
mod tests;
