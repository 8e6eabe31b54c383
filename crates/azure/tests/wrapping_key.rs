//! Wrapping by a key of Key Vault, against a fake that Microsoft's own SDK was run against.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use keyturn_azure::wrapping_key::{Settings, Wrapped, WrappingKey};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::Kind;
use keyturn_testkit::azure::key_vault::{Call, FakeKeyVault, Fault};
use keyturn_testkit::clock::ManualClock;

use self::tokens::Tokens;

mod tokens;

async fn fake() -> FakeKeyVault {
    FakeKeyVault::start(Arc::new(ManualClock::default())).await
}

fn open(fake: &FakeKeyVault, name: &str, former: &[&str]) -> WrappingKey {
    let url = |name: &str| format!("{}/keys/{name}", fake.server.url()).parse().unwrap();
    let settings = Settings {
        key: url(name),
        former: former.iter().map(|name| url(name)).collect(),
        danger_unverified_challenge: true,
        attempts: Attempts {
            most: 3,
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_secs(2),
        },
    };
    let ca = Some(fake.server.ca.clone().into_bytes());
    let reach = Reach { timeout: Duration::from_millis(500), ca, proxy: None };
    let credential: Arc<dyn TokenCredential> = Arc::new(Tokens);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    WrappingKey::open(&settings, &reach, &credential, &entropy).unwrap()
}

const SECRET: [u8; 32] = *b"canary-0123456789-0123456789-012";

#[tokio::test]
async fn what_was_wrapped_is_unwrapped_by_the_version_that_wrapped_it() {
    let fake = fake().await;
    let first = fake.make_key("keyturn");
    let key = open(&fake, "keyturn", &[]);
    let wrapped = key.wrap(&SECRET).await.unwrap();
    assert_eq!(wrapped.by, format!("{}/keys/keyturn/{first}", fake.server.url()));
    assert_eq!(key.newest().await.unwrap(), wrapped.by);
    assert_eq!(wrapped.bytes.len(), 256);
    assert_ne!(key.wrap(&SECRET).await.unwrap().bytes, wrapped.bytes, "wrapping is not twice the same");

    let second = fake.make_key("keyturn");
    assert!(key.newest().await.unwrap().ends_with(&second));
    assert_eq!(*key.unwrap(&wrapped).await.unwrap(), SECRET, "an older version still unwraps its own");
    let misled = Wrapped { by: key.newest().await.unwrap(), ..wrapped.clone() };
    let error = key.unwrap(&misled).await.unwrap_err();
    assert!(error.to_string().contains("does not take this"), "{error}");
}

#[tokio::test]
async fn only_keys_of_the_configuration_unwrap() {
    let fake = fake().await;
    fake.make_key("one");
    fake.make_key("two");
    let wrapped = open(&fake, "one", &[]).wrap(&SECRET).await.unwrap();
    let asked = fake.count(Call::Unwrap);
    let error = open(&fake, "two", &[]).unwrap(&wrapped).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("former_wrapping_keys"), "{error}");
    for by in ["", "https://elsewhere.example/keys/one/0123456789abcdef0123456789abcdef"] {
        let strange = Wrapped { by: by.to_owned(), ..wrapped.clone() };
        assert_eq!(open(&fake, "one", &[]).unwrap(&strange).await.unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(fake.count(Call::Unwrap), asked, "nobody was asked");
    assert_eq!(*open(&fake, "two", &["one"]).unwrap(&wrapped).await.unwrap(), SECRET);
}

#[tokio::test]
async fn failures_are_told_apart_and_tell_no_secret() {
    let fake = fake().await;
    let version = fake.make_key("keyturn");
    let key = open(&fake, "keyturn", &[]);
    let wrapped = key.wrap(&SECRET).await.unwrap();
    fake.faults(Call::Unwrap, [Fault::Throttled(Some(1)), Fault::DoneThen500]);
    assert_eq!(*key.unwrap(&wrapped).await.unwrap(), SECRET, "a call that changes nothing is made again");
    for (fault, kind, word) in [
        (Fault::Forbidden(Some("ForbiddenByRbac")), Kind::Denied, "docs/AZURE.md"),
        (Fault::Forbidden(Some("ForbiddenByFirewall")), Kind::Denied, "firewall"),
        (Fault::Throttled(Some(60)), Kind::Unavailable, "429"),
        (Fault::DoneThenCut, Kind::Unavailable, "cannot be read"),
    ] {
        fake.faults(Call::Unwrap, [fault]);
        let error = key.unwrap(&wrapped).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
    fake.enable_key("keyturn", &version, false);
    let error = key.unwrap(&wrapped).await.unwrap_err();
    assert!(error.to_string().contains("disabled"), "{error}");
    let error = open(&fake, "nothing", &[]).wrap(&SECRET).await.unwrap_err();
    assert!(error.to_string().contains("no such key"), "{error}");
    assert!(fake.all_happened());
}
