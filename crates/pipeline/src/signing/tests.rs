//! A key elsewhere, played by one that is here: it really signs, and goes wrong as it is told.

use std::sync::Mutex;

use async_trait::async_trait;
use keyturn_testkit::signer::P256;

use super::*;

/// What becomes of the digests, in their order; what is not told goes well.
#[derive(Debug)]
struct Faulty {
    key: P256,
    next: Mutex<Vec<Fault>>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Away,
    AnotherDigest,
    /// It and all after it are not answered.
    Lost,
}

#[async_trait]
impl Signer for Faulty {
    async fn sign(&self, digests: Vec<[u8; 32]>) -> Vec<Result<[u8; 64], Error>> {
        let mut faults = std::mem::take(&mut *self.next.lock().unwrap()).into_iter();
        let mut signed = Vec::new();
        for digest in digests {
            signed.push(match faults.next() {
                None => Ok(self.key.sign(&digest)),
                Some(Fault::Away) => Err(Error::new(Kind::Unavailable, "signing", "away")),
                Some(Fault::AnotherDigest) => Ok(self.key.sign(&[7; 32])),
                Some(Fault::Lost) => break,
            });
        }
        signed
    }
}

fn key(faults: &[Fault]) -> RemoteKey {
    let key = P256::generate();
    let public = key.public("signing-2");
    RemoteKey::new(public, Arc::new(Faulty { key, next: Mutex::new(faults.to_vec()) }))
}

fn messages() -> Vec<String> {
    (0..5).map(|number| format!("message {number}")).collect()
}

#[tokio::test]
async fn texts_come_back_in_their_order_each_with_its_signature() {
    let key = key(&[]);
    let signed = key.sign(messages()).await;
    assert_eq!(signed.len(), 5);
    for (sent, signed) in messages().iter().zip(signed) {
        let (message, signature) = signed.unwrap();
        assert_eq!(&message, sent);
        assert!(key.public().verifies(message.as_bytes(), &signature) && signature.len() == 64);
    }
    let one = ResultKey::Elsewhere(key.clone()).sign("one").await.unwrap();
    assert!(key.public().verifies(b"one", &one));
}

#[tokio::test]
async fn nothing_comes_back_with_a_signature_that_is_not_its_own() {
    let key = key(&[Fault::AnotherDigest, Fault::Away]);
    let mut signed = key.sign(messages()).await.into_iter();
    let denied = signed.next().unwrap().unwrap_err();
    assert!(
        denied.kind() == Kind::Denied && denied.to_string().contains("no signature of signing-2"),
        "{denied}"
    );
    assert_eq!(signed.next().unwrap().unwrap_err().kind(), Kind::Unavailable);
    assert!(signed.all(|one| one.is_ok()), "what fails for one fails for no other");
}

#[tokio::test]
async fn a_signer_that_loses_count_is_asked_again_later() {
    let kinds = |signed: Vec<Result<(String, Vec<u8>), Error>>| -> Vec<_> {
        signed.iter().map(|one| one.as_ref().map_err(Error::kind).map(drop)).collect()
    };
    let away = Err(Kind::Unavailable);
    assert_eq!(kinds(key(&[Fault::Lost]).sign(messages()).await), vec![away; 5]);
    let mixed = kinds(key(&[Fault::Away, Fault::Away, Fault::Lost]).sign(messages()).await);
    assert_eq!(mixed, vec![away; 5]);
}
