use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::lane::Order;
use keyturn_ports::directory::AlternativeSecurityId;
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::entropy::SeededEntropy;
use keyturn_testkit::system::deployment;

use super::*;

/// A device's request on its way, and everything it is judged by.
struct Case {
    clock: ManualClock,
    nonces: NonceKeys,
    stamps: StampKeys,
    message: SignedMessage,
    stamp: Stamp,
    record: DeviceRecord,
    deployment: Deployment,
}

fn ring(seed: u8) -> KeyRing {
    KeyRing::new([(KeyId(1), [seed; 32])])
}

fn case() -> Case {
    let entropy: &dyn Entropy = &SeededEntropy::new(1);
    let (clock, nonces, stamps) = (ManualClock::default(), NonceKeys::new(ring(1)), StampKeys::new(ring(2)));
    let mut device = FakeDevice::new(1, deployment());
    let nonce = nonces.issue(clock.now(), entropy).unwrap();
    let message = SignedMessage::parse(device.request(nonce)).unwrap();
    let order = Order { received: clock.now(), nonce: nonce.issued() };
    let stamp = stamps.stamp(message.rid(), order, "test").unwrap();
    Case { clock, nonces, stamps, message, stamp, record: device.record(), deployment: deployment() }
}

impl Case {
    fn judged_by(&self, records: &[DeviceRecord]) -> Option<Check> {
        let rules = Rules {
            deployment: &self.deployment,
            join_types: JoinTypes::default(),
            freshness: Freshness::default(),
            nonces: &self.nonces,
            stamps: &self.stamps,
        };
        let signature_holds = self.message.clone().verify().is_ok();
        first_failure(&self.message, signature_holds, &self.stamp, records, &rules, self.clock.now())
    }

    /// The outcome with the record changed.
    fn with(&self, change: impl FnOnce(&mut DeviceRecord)) -> Option<Check> {
        let mut record = self.record.clone();
        change(&mut record);
        self.judged_by(&[record])
    }
}

fn entry(key: String) -> AlternativeSecurityId {
    AlternativeSecurityId { kind: DEVICE_KEY, key }
}

#[test]
fn a_registered_enabled_device_is_trusted() {
    let case = case();
    assert_eq!(case.judged_by(std::slice::from_ref(&case.record)), None);
}

#[test]
fn exactly_one_record_makes_a_known_device() {
    let case = case();
    let twice = [case.record.clone(), case.record.clone()];
    let other = FakeDevice::new(2, deployment()).record();
    for records in [&[][..], &twice, &[other]] {
        assert_eq!(case.judged_by(records), Some(Check::KnownDevice));
    }
}

#[test]
fn thumbprint_and_key_must_stand_in_one_entry() {
    let case = case();
    let own = RegisteredKey::decode(&case.record.alternative_security_ids[0].key).unwrap();
    let foreign =
        RegisteredKey::decode(&FakeDevice::new(3, deployment()).record().alternative_security_ids[0].key)
            .unwrap();
    let own_thumbprint = RegisteredKey { key_hash: foreign.key_hash, ..own }.encode();
    let own_key = RegisteredKey { thumbprint: foreign.thumbprint, ..own }.encode();
    for (keys, expected) in [
        (vec![], Some(Check::Thumbprint)),
        (vec![foreign.encode()], Some(Check::Thumbprint)),
        (vec![own_key.clone()], Some(Check::Thumbprint)),
        (vec![own_thumbprint.clone()], Some(Check::PublicKey)),
        (vec![own_thumbprint, own_key], Some(Check::PublicKey)),
        (vec![String::new(), "%".to_owned(), "AAA=".to_owned()], Some(Check::Thumbprint)),
        (vec![foreign.encode(), own.encode()], None),
        (vec!["%".to_owned(), own.encode()], None),
    ] {
        let entries = keys.iter().cloned().map(entry).collect();
        assert_eq!(case.with(|record| record.alternative_security_ids = entries), expected, "{keys:?}");
    }
    assert_eq!(
        case.with(|record| record.alternative_security_ids[0].kind = 1),
        Some(Check::Thumbprint),
        "only entries of type 2 are device keys"
    );
}

#[test]
fn a_record_that_does_not_say_enabled_is_not() {
    let case = case();
    for enabled in [None, Some(false)] {
        assert_eq!(case.with(|record| record.account_enabled = enabled), Some(Check::Enabled));
    }
}

#[test]
fn join_types_are_exact_words() {
    let case = case();
    for (trust, expected) in [
        (Some("AzureAd"), None),
        (Some("ServerAd"), None),
        (Some("Workplace"), Some(Check::JoinType)),
        (Some("azuread"), Some(Check::JoinType)),
        (Some(""), Some(Check::JoinType)),
        (None, Some(Check::JoinType)),
    ] {
        assert_eq!(case.with(|record| record.trust_type = trust.map(str::to_owned)), expected, "{trust:?}");
    }
}

#[test]
fn a_signature_over_other_bytes_fails_and_comes_before_what_the_directory_says_of_the_device() {
    let mut case = case();
    let text = case.message.text();
    let (input, signature) = text.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{input}.{flipped}{}", &signature[1..]);
    case.message = SignedMessage::parse(forged).unwrap();
    assert_eq!(case.with(|record| record.account_enabled = None), Some(Check::Signature));
}

#[test]
fn stamps_and_nonces_must_be_ours_and_fresh() {
    let fails = |change: fn(&mut Case)| {
        let mut case = case();
        change(&mut case);
        case.judged_by(std::slice::from_ref(&case.record))
    };
    for change in [
        (|case| case.stamps = StampKeys::new(ring(9))) as fn(&mut Case),
        |case| case.nonces = NonceKeys::new(ring(9)),
        |case| case.stamp.received_ms.0 += 1,
        |case| case.stamp.ingress.push('x'),
        |case| case.deployment = "other".parse().unwrap(),
        |case| {
            let late =
                Order { received: case.clock.now().plus(Duration::from_secs(301)), nonce: case.clock.now() };
            case.stamp = case.stamps.stamp(case.message.rid(), late, "test").unwrap();
            case.clock.advance(Duration::from_secs(301));
        },
        |case| case.clock.set(case.clock.now().minus(Duration::from_secs(61))),
    ] {
        assert_eq!(fails(change), Some(Check::Freshness));
    }
    assert_eq!(
        fails(|case| case.clock.advance(Duration::from_hours(5))),
        None,
        "waiting in a queue is no staleness"
    );
}

#[test]
fn a_certificate_about_another_device_fails_last() {
    let mut case = case();
    // The key of device 1 in a certificate for device 1, in a message that claims to be device 5.
    let mut claims = case.message.claims().clone();
    if let Claims::Request(request) = &mut claims {
        request.common.device_id = FakeDevice::new(5, deployment()).id;
    }
    let device = FakeDevice::new(1, deployment());
    case.message = SignedMessage::parse(device.sign(&claims)).unwrap();
    let order = Order { received: case.clock.now(), nonce: claims.common().nonce.issued() };
    case.stamp = case.stamps.stamp(case.message.rid(), order, "test").unwrap();
    let outcome = case.with(|record| record.device_id = claims.common().device_id);
    assert_eq!(outcome, Some(Check::Certificate));
}
