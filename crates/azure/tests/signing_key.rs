//! Signing by a key of Key Vault, against a fake that Microsoft's own SDK was run against.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use keyturn_azure::signing_key::{Settings, SigningKeys, SigningVersion};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::signing::Signer as _;
use keyturn_ports::{Error, Kind};
use keyturn_schemas::signing::{KeyReference, PublicKey, es256_digest};
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};
use keyturn_testkit::clock::ManualClock;

use self::tokens::Tokens;

mod tokens;

async fn fake() -> FakeKeyVault {
    FakeKeyVault::start(Arc::new(ManualClock::default())).await
}

fn open(fake: &FakeKeyVault, name: &str, parallel: usize) -> SigningKeys {
    let settings = Settings {
        key: format!("{}/keys/{name}", fake.server.url()).parse().unwrap(),
        danger_unverified_challenge: true,
        attempts: Attempts {
            most: 3,
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_secs(2),
        },
        parallel,
    };
    let ca = Some(fake.server.ca.clone().into_bytes());
    let reach = Reach { timeout: Duration::from_millis(500), ca, proxy: None };
    let credential: Arc<dyn TokenCredential> = Arc::new(Tokens);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    SigningKeys::open(&settings, &reach, &credential, &entropy).unwrap()
}

async fn newest(keys: &SigningKeys) -> (SigningVersion, PublicKey) {
    let half = keys.newest().await.unwrap();
    let version = keys.version(&half.address).unwrap();
    assert_eq!(version.public().await.unwrap(), half);
    (version, KeyReference::new("signing-1", half.address, &half.point).public())
}

async fn sign_one(version: &SigningVersion, message: &[u8]) -> Result<[u8; 64], Error> {
    version.sign(vec![es256_digest(message)]).await.pop().unwrap()
}

#[tokio::test]
async fn a_version_signs_for_as_long_as_it_is_named() {
    let fake = fake().await;
    fake.make_signing_key("keyturn");
    let keys = open(&fake, "keyturn", 16);
    let (first, public) = newest(&keys).await;
    let signature = sign_one(&first, b"one").await.unwrap();
    assert!(public.verifies(b"one", &signature) && !public.verifies(b"other", &signature));
    // A newer version, as by a rotation policy, changes nothing for whoever names the older one.
    fake.make_signing_key("keyturn");
    assert!(public.verifies(b"two", &sign_one(&first, b"two").await.unwrap()));
    let (second, newer) = newest(&keys).await;
    assert_ne!(newer.x, public.x);
    assert!(newer.verifies(b"three", &sign_one(&second, b"three").await.unwrap()));
}

#[tokio::test]
async fn a_batch_is_signed_in_its_order_so_many_at_once() {
    const PARALLEL: usize = 4;
    let fake = fake().await;
    fake.make_signing_key("keyturn");
    let (version, public) = newest(&open(&fake, "keyturn", PARALLEL)).await;
    // The first is the last to be answered.
    fake.faults(Call::Sign, [400, 200, 100].map(|time| Fault::Late(Duration::from_millis(time))));
    let messages: Vec<[u8; 1]> = (0..20).map(|number| [number]).collect();
    let signed = version.sign(messages.iter().map(|message| es256_digest(message)).collect()).await;
    assert_eq!(signed.len(), messages.len());
    for (message, signature) in messages.iter().zip(signed) {
        assert!(public.verifies(message, &signature.unwrap()), "{message:?}");
    }
    assert_eq!((fake.count(Call::Sign), fake.most_at_once(Call::Sign)), (20, PARALLEL));
    assert!(fake.all_happened());
}

#[tokio::test]
async fn only_versions_of_the_configured_key_sign() {
    let fake = fake().await;
    let version = fake.make_signing_key("one");
    let keys = open(&fake, "one", 1);
    let url = fake.server.url();
    assert!(keys.version(&format!("{url}/keys/one/{version}")).is_some());
    for address in [
        String::new(),
        format!("{url}/keys/one"),
        format!("{url}/keys/two/{version}"),
        format!("https://elsewhere.example/keys/one/{version}"),
        format!("{url}/keys/one/{version}/.."),
    ] {
        assert!(keys.version(&address).is_none(), "{address}");
    }
}

#[tokio::test]
async fn failures_are_told_apart_and_one_harms_no_other() {
    let fake = fake().await;
    let id = fake.make_signing_key("keyturn");
    let (version, public) = newest(&open(&fake, "keyturn", 1)).await;
    fake.faults(Call::Sign, [Fault::Throttled(Some(1)), Fault::DoneThen500]);
    assert!(public.verifies(b"a", &sign_one(&version, b"a").await.unwrap()), "it is asked for again");
    fake.faults(Call::Sign, [Fault::Silence, Fault::DoneInSilence]);
    assert!(public.verifies(b"b", &sign_one(&version, b"b").await.unwrap()));
    for (fault, kind, word) in [
        (Fault::Forbidden(Some("ForbiddenByRbac")), Kind::Denied, "docs/AZURE.md"),
        (Fault::Forbidden(Some("ForbiddenByFirewall")), Kind::Denied, "firewall"),
        (Fault::Throttled(Some(60)), Kind::Unavailable, "429"),
        (Fault::DoneThenCut, Kind::Unavailable, "cannot be read"),
        (Fault::DoneThenHtml, Kind::Unavailable, "cannot be read"),
    ] {
        fake.faults(Call::Sign, [fault]);
        let digests = [b"c", b"d"].map(|message| es256_digest(message));
        let mut signed = version.sign(digests.to_vec()).await;
        assert!(public.verifies(b"d", &signed.pop().unwrap().unwrap()));
        let error = signed.pop().unwrap().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    fake.enable_key("keyturn", &id, false);
    let error = sign_one(&version, b"e").await.unwrap_err();
    assert!(error.to_string().contains("nothing is signed without it"), "{error}");
    let error = open(&fake, "nothing", 1).newest().await.unwrap_err();
    assert!(error.to_string().contains("no such key"), "{error}");
    fake.make_key("rsa");
    let error = open(&fake, "rsa", 1).newest().await.unwrap_err();
    assert!(error.to_string().contains("P-256"), "{error}");
    assert!(fake.all_happened());
}

#[tokio::test]
async fn what_another_version_signed_does_not_verify() {
    let fake = fake().await;
    let first = fake.make_signing_key("keyturn");
    let (version, public) = newest(&open(&fake, "keyturn", 1)).await;
    let (before, second) = (version.public().await.unwrap(), fake.make_signing_key("keyturn"));
    fake.exchange_keys("keyturn", &first, &second);
    let signature = sign_one(&version, b"a").await.unwrap();
    assert!(!public.verifies(b"a", &signature));
    let after = version.public().await.unwrap();
    assert_eq!(after.address, before.address);
    assert_ne!(after.point, before.point);
}
