//! Examples of every kind of document: written by the types, read back by them, valid by their schemas.

use std::collections::BTreeMap;

use keyturn_domain::ids::{EventId, RequestId};
use keyturn_domain::lane::Alarm;
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::alarm::{AlarmRaised, Notice};
use keyturn_schemas::claims::Version1;
use keyturn_schemas::envelope::{Data, Envelope, Found, Stamped, TraceParent};
use keyturn_schemas::finding::Check;
use keyturn_schemas::mac::{KeyId, format_secrets};
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::outcome::{Carried, Outcome};
use keyturn_schemas::problem::Problem;
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::schema::documents;
use keyturn_schemas::signing::{KeyReference, SigningKey};
use keyturn_schemas::vault::{MasterKey, WrappedKey, format_wrapped};
use serde_json::{Value, json};

use crate::{golden, vectors, world};

/// Examples by name: the kind of document, a dot, and what is special about it.
fn examples() -> Vec<(&'static str, Value)> {
    let device = world::Device::published();
    let message = SignedMessage::parse(device.sign(&world::request())).unwrap();
    let header = |jws: &str| vectors::part(jws, 0);
    let refusal = message_refusal();
    vec![
        ("request-claims", claims(&world::request())),
        ("request-claims.first", claims(&world::first_request())),
        ("report-claims", claims(&world::report())),
        ("event-claims", claims(&world::event())),
        ("message-header", header(message.text())),
        ("stamp", json!(world::stamp(message.rid()))),
        ("finding.trusted", json!(world::finding(&message, None))),
        ("finding.disabled", json!(world::finding(&message, Some(Check::Enabled)))),
        ("request-envelope", request_envelope(&message)),
        ("finding-envelope", finding_envelope(&message)),
        ("outcome-envelope.rotate", outcome_envelope(&message)),
        ("outcome-envelope.refused", outcome_envelope_refused(&message)),
        ("alarm-envelope", envelope(&message, "rotator", alarm(&device, None))),
        ("alarm-envelope.addressed", envelope(&message, "notifier", alarm(&device, Some("on-call")))),
        (
            "alarm-notice",
            json!(Notice::of(&alarm(&device, None), world::deployment(), world::device(), message.rid())),
        ),
        ("answer.rotate", json!(answer(&device, Code::Rotate))),
        ("answer.not-due", json!(answer(&device, Code::NotDue))),
        ("answer.recorded", json!(answer(&device, Code::Recorded))),
        (
            "answer-header",
            header(&result::sign(&answer(&device, Code::Stale), &world::signing_key()).unwrap()),
        ),
        ("key-set", json!(world::key_set())),
        (
            "key-set-header",
            header(&keyturn_schemas::key_set::sign(&world::key_set(), &world::root_key()).unwrap()),
        ),
        ("public-key.root", json!(world::root_key().public())),
        ("key-ring-file.nonce", key_ring()),
        ("wrapped-keys-file", wrapped_keys()),
        ("signing-key-file", file(&SigningKey::format("signing", "sign-1", &world::SIGNING_SEED))),
        ("signing-key-file.root", file(&SigningKey::format("root", "root-1", &world::ROOT_SEED))),
        ("signing-key-reference", file(&signing_key_reference())),
        ("problem.refused", json!(Problem::new(403, "KT-0201", "The message was refused"))),
        ("problem.nonce", json!(refusal)),
        ("nonce-answer", json!({"nonce": world::nonce(world::START)})),
        ("ticket-answer", json!({"ticket": world::ticket_keys().ticket(message.rid())})),
    ]
}

/// The point is the base point of P-256: a valid one that nobody signs with.
fn signing_key_reference() -> String {
    let key = "https://example.vault.azure.net/keys/keyturn-signing/0123456789abcdef0123456789abcdef";
    let mut point = [4; 65];
    for (byte, pair) in point.iter_mut().skip(1).zip(BASE_POINT.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    KeyReference::new("signing-2", key.to_owned(), &point).format()
}

/// x and y (SEC 2, section 2.4.2).
const BASE_POINT: &str = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                          4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

fn wrapped_keys() -> Value {
    let key = WrappedKey {
        id: KeyId(1),
        name: *MasterKey::new([7; 32].into()).id(),
        wrapped_by: "https://contoso.vault.azure.net/keys/keyturn/0123456789abcdef0123456789abcdef"
            .to_owned(),
        wrapped: vec![7; 256],
        added: Some(world::START),
        sealed_until: None,
    };
    file(&format_wrapped(&[key]))
}

fn claims(claims: &Claims) -> Value {
    match claims {
        Claims::Request(request) => json!(request),
        Claims::Report(report) => json!(report),
        Claims::Event(event) => json!(event),
    }
}

fn message_refusal() -> Problem {
    let mut problem = Problem::new(401, "KT-0108", "The nonce is not fresh")
        .detail("Sign anew with the nonce in this answer.");
    problem.nonce = Some(world::nonce(world::RECEIVED).to_string());
    problem
}

fn envelope<D: Data>(message: &SignedMessage, stage: &str, data: D) -> Value {
    let rid: RequestId = message.rid();
    let trace = TraceParent::of(rid).sampled(true);
    file(&Envelope::new(rid, world::device(), stage, world::RECEIVED, trace, data).to_json())
}

fn request_envelope(message: &SignedMessage) -> Value {
    let jws = message.text().to_owned();
    envelope(message, "ingress", Stamped { jws, stamp: world::stamp(message.rid()) })
}

fn finding_envelope(message: &SignedMessage) -> Value {
    let (jws, stamp) = (message.text().to_owned(), world::stamp(message.rid()));
    envelope(message, "validator", Found { jws, stamp, finding: world::finding(message, None) })
}

fn outcome_envelope(message: &SignedMessage) -> Value {
    let device = world::Device::published();
    let carries = Some(Carried { lane: device.lane().id(), version: world::version(2) });
    let result = Some(result::sign(&answer(&device, Code::Rotate), &world::signing_key()).unwrap());
    envelope(message, "rotator", Outcome { rid: message.rid(), carries, result, expires_ms: expiry() })
}

fn outcome_envelope_refused(message: &SignedMessage) -> Value {
    envelope(
        message,
        "rotator",
        Outcome { rid: message.rid(), carries: None, result: None, expires_ms: expiry() },
    )
}

fn alarm(device: &world::Device, webhook: Option<&str>) -> AlarmRaised {
    AlarmRaised {
        event: EventId([0xe7; 16]),
        at_ms: world::RECEIVED,
        lane: device.lane().id(),
        alarm: Alarm::Clone,
        webhook: webhook.map(|name| name.parse().unwrap()),
    }
}

fn expiry() -> UnixMillis {
    UnixMillis(world::RECEIVED.0 + 3_600_000)
}

fn answer(device: &world::Device, code: Code) -> Answer {
    let binding = device.binding();
    let sealed = vectors::committed_seal();
    let thumbprint = world::ephemeral().thumbprint();
    Answer {
        v: Version1,
        deployment: world::deployment(),
        rid: binding.rid,
        lane: binding.lane,
        code,
        retry_at: (code == Code::NotDue).then_some(UnixMillis(world::START.0 + 3 * 86_400_000)),
        issued_at: UnixMillis(world::RECEIVED.0 + 40),
        enclosed: (code == Code::Rotate).then(|| Enclosed::new(binding.version, thumbprint, &sealed)),
    }
}

fn key_ring() -> Value {
    let (new, old) = ((KeyId(2), [0xa5; 32].into()), (KeyId(1), world::NONCE_SECRET.into()));
    file(&format_secrets(NonceKeys::KIND, &[new, old]))
}

fn file(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_examples_on_disk_are_those_of_the_types() {
    golden::compare_folder(&golden::folder("examples"), ".json", examples());
}

#[test]
fn every_example_is_read_by_its_type_and_valid_by_its_schema() {
    let documents: BTreeMap<_, _> =
        documents().into_iter().map(|document| (document.name, document)).collect();
    let mut unused: Vec<&str> = documents.keys().copied().collect();
    for (name, value) in examples() {
        let (kind, _) = name.split_once('.').unwrap_or((name, ""));
        let document = &documents[kind];
        assert_eq!((document.read)(&value.to_string()), Ok(value.clone()), "{name}");
        let validator = jsonschema::draft202012::new(&document.schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        unused.retain(|name| *name != kind);
    }
    assert!(unused.is_empty(), "no example of {unused:?}");
}

/// Takes each member away in turn: the schema and the type must agree on whether that may be.
#[test]
fn schemas_require_what_the_types_require() {
    let documents: BTreeMap<_, _> =
        documents().into_iter().map(|document| (document.name, document)).collect();
    for (name, example) in examples() {
        let (kind, _) = name.split_once('.').unwrap_or((name, ""));
        let document = &documents[kind];
        for member in example.as_object().unwrap().keys() {
            let mut less = example.clone();
            less.as_object_mut().unwrap().remove(member);
            let valid = jsonschema::draft202012::is_valid(&document.schema, &less);
            let read = (document.read)(&less.to_string()).is_ok();
            // The type reads half an enclosure as none; whoever opens results treats that as no version at all.
            let half =
                kind == "answer" && ["version", "epk_thumbprint", "enc", "ct"].contains(&member.as_str());
            assert!(valid == read || half, "{name} without {member}: schema {valid}, type {read}");
        }
    }
}
