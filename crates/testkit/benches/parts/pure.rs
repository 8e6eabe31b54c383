//! Parts that touch neither disk nor network.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use keyturn_domain::ids::{LaneId, RequestId, VersionId};
use keyturn_domain::lane::{About, Heard, HeardKind, Hints, Lane, Order, Reported, RotationPolicy, decide};
use keyturn_domain::password::PasswordPolicy;
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::claims::{EphemeralKey, Version1};
use keyturn_schemas::finding::{Facts, FindingKeys};
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_schemas::message::SignedMessage;
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::seal::{self, Binding};
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::stamp::{Freshness, StampKeys};
use keyturn_schemas::vault;
use keyturn_testkit::conformance::sample;
use keyturn_testkit::entropy::SeededEntropy;
use zeroize::Zeroizing;

use super::Part;

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

/// The signed request of the vectors: its certificate has a key of 2048 bits.
pub(super) fn message() -> String {
    let vectors = include_str!("../../../../schemas/vectors/message.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    vectors["request"]["jws"].as_str().unwrap().to_owned()
}

fn ring() -> KeyRing {
    KeyRing::new([(KeyId(1), [1; 32])])
}

pub(super) fn parts() -> Vec<Part> {
    let (text, parsed) = (message(), SignedMessage::parse(message()).unwrap());
    let verified = parsed.clone();
    let mut all = vec![
        Part::pure("message: parse", move || drop(black_box(SignedMessage::parse(text.clone()).unwrap()))),
        Part::pure("message: verify", move || drop(black_box(verified.clone().verify().unwrap()))),
        Part::pure("password: generate", || {
            drop(black_box(PasswordPolicy::default().generate(&keyturn_domain::ambient::SystemEntropy)));
        }),
        Part::pure("decide: a rotation is due", decision()),
    ];
    all.extend(macs(parsed.rid()));
    all.extend(answers(parsed.rid()));
    all.push(vault_seal());
    all
}

fn macs(rid: RequestId) -> Vec<Part> {
    let (nonces, stamps, findings) =
        (NonceKeys::new(ring()), StampKeys::new(ring()), FindingKeys::new(ring()));
    let entropy = SeededEntropy::new(1);
    let nonce = nonces.issue(NOW, &entropy).unwrap();
    let order = Order { received: NOW, nonce: NOW };
    let stamp = stamps.stamp(rid, order, "ingress-1").unwrap();
    let key_hash = sample::lane_key(1, 1).key;
    let facts =
        Facts { rid, key_hash, enabled: true, failed: None, directory_ms: NOW, groups: BTreeSet::new() };
    let finding = findings.seal(facts.clone()).unwrap();
    let (sealing, sealing_too) = (StampKeys::new(ring()), FindingKeys::new(ring()));
    vec![
        Part::pure("nonce: check", move || assert!(black_box(&nonces).holds(black_box(&nonce)))),
        Part::pure("stamp: seal", move || drop(black_box(sealing.stamp(rid, order, "ingress-1").unwrap()))),
        Part::pure("stamp: check", move || {
            black_box(stamps.check(&stamp, rid, NOW, Freshness::default(), NOW).unwrap());
        }),
        Part::pure("finding: seal", move || drop(black_box(sealing_too.seal(facts.clone()).unwrap()))),
        Part::pure("finding: open", move || drop(black_box(findings.open(&finding, rid, key_hash).unwrap()))),
    ]
}

fn answers(rid: RequestId) -> Vec<Part> {
    let (secret, epk) = seal::generate().unwrap();
    let binding = Binding { rid, lane: lane_id(), version: VersionId([5; 16]) };
    let password = PasswordPolicy::default().generate(&SeededEntropy::new(1));
    let key = SigningKey::from_seed("signing-1", &[8; 32]).unwrap();
    let answer = answer(rid, &epk, &seal::seal(&password, &binding, &epk).unwrap());
    let signed = result::sign(&answer, &key).unwrap();
    let trusted = [key.public()];
    let sealed = seal::seal(&password, &binding, &epk).unwrap();
    vec![
        Part::pure("answer: seal the password", move || {
            drop(black_box(seal::seal(&password, &binding, &epk).unwrap()));
        }),
        Part::pure("answer: sign", move || drop(black_box(result::sign(&answer, &key).unwrap()))),
        Part::pure("agent: verify the answer", move || {
            drop(black_box(result::verify(&signed, &trusted).unwrap()));
        }),
        Part::pure("agent: open the password", move || {
            drop(black_box(secret.open(&sealed, &binding).unwrap()));
        }),
    ]
}

fn answer(rid: RequestId, epk: &EphemeralKey, sealed: &seal::Sealed) -> Answer {
    Answer {
        v: Version1,
        deployment: "example".parse().unwrap(),
        rid,
        lane: lane_id(),
        code: Code::Rotate,
        retry_at: None,
        issued_at: NOW,
        enclosed: Some(Enclosed::new(VersionId([5; 16]), epk.thumbprint(), sealed)),
    }
}

fn lane_id() -> LaneId {
    sample::lane_key(1, 1).id()
}

fn vault_seal() -> Part {
    let key = vault::MasterKey::new(Zeroizing::new([9; 32]));
    let (entropy, bound) = (SeededEntropy::new(1), vault::bound_to(lane_id(), VersionId([5; 16])));
    let password = "x".repeat(24);
    Part::pure("vault: seal a version", move || {
        drop(black_box(vault::seal(&key, &entropy, &bound, &password).unwrap()));
    })
}

/// A lane whose confirmed version is four days old.
fn decision() -> impl FnMut() {
    let ago = Duration::from_hours(96);
    let mut lane: Lane = sample::lane(1, 1);
    let version = VersionId([3; 16]);
    lane.confirmed = Some(keyturn_domain::lane::Dated { version, at: NOW.minus(ago) });
    let heard = Heard {
        key: lane.key.clone(),
        kind: HeardKind::Request { wait: Duration::from_mins(15) },
        order: Order { received: NOW, nonce: NOW },
        state: Reported { cur: Some(version), issued: [version].into(), ..Reported::default() },
        hints: Hints::default(),
        about: About::default(),
        groups: None,
        directory_answered: NOW,
    };
    let (lanes, policy) = ([lane], RotationPolicy::default());
    move || drop(black_box(decide(&lanes, None, black_box(&heard), &policy, NOW)))
}
