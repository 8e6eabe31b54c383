//! Test vectors for other implementations, recomputed here from their inputs.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyturn_domain::ids::{GroupId, RequestId, VersionId};
use keyturn_domain::lane::{LaneKey, Order};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::certificate::DeviceCertificate;
use keyturn_schemas::claims::{EphemeralKey, Version1};
use keyturn_schemas::finding::{Check, Facts};
use keyturn_schemas::key_set::{self, KeySet, KeySetError};
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::result::{self, Answer, Code, Enclosed};
use keyturn_schemas::seal::{Binding, EphemeralSecret, Sealed};
use keyturn_schemas::security_id::RegisteredKey;
use keyturn_schemas::signing::{PublicKey, SigningKey};
use serde_json::{Value, json};

use crate::golden;
use crate::hpke::{self, Aead};
use crate::world::{self, Device, base64url, hex};

/// The private half of RFC 7748 section 6.1 (Bob), here the sender's key of the one seal in the vectors.
const SENDER_SECRET: [u8; 32] = [
    0x5d, 0xab, 0x08, 0x7e, 0x62, 0x4a, 0x8a, 0x4b, 0x79, 0xe1, 0x7f, 0x8b, 0x83, 0x80, 0x0e, 0xe6, 0x6f,
    0x3b, 0xb1, 0x29, 0x26, 0x18, 0xb6, 0xfd, 0x1c, 0x2f, 0x8b, 0x27, 0xff, 0x88, 0xe0, 0xeb,
];

#[test]
fn the_vectors_on_disk_are_those_of_the_code() {
    let device = Device::published();
    let files = [
        ("certificate", certificate(&device)),
        ("security-id", security_id(&device)),
        ("lane", lane(&device)),
        ("nonce", nonce()),
        ("message", message(&device)),
        ("stamp", stamp(&device)),
        ("ticket", ticket(&device)),
        ("finding", finding(&device)),
        ("ephemeral-key", ephemeral_key()),
        ("seal", seal(&device)),
        ("result", result(&device)),
        ("key-set", key_set()),
    ];
    golden::compare_folder(&golden::folder("vectors"), ".json", files);
}

fn certificate(device: &Device) -> Value {
    let certificate = device.certificate();
    json!({
        "about": "A device registration certificate and what the checks take from it.",
        "key_file": "test-only-device.key.pem",
        "certificate_file": "test-only-device.cert.pem",
        "der": STANDARD.encode(&device.der),
        "common_name": certificate.common_name(),
        "thumbprint_hex": hex(certificate.thumbprint().as_bytes()),
        "rsa_public_key_der": STANDARD.encode(device.rsa_public_key()),
        "key_hash": certificate.key_hash(),
    })
}

fn security_id(device: &Device) -> Value {
    let certificate = device.certificate();
    let own = RegisteredKey { thumbprint: certificate.thumbprint(), key_hash: certificate.key_hash() };
    let sample = "X509:<SHA1-TP-PUBKEY>1BBF43F156D6544D87BD98580273C75F0344DA56zw4/fMMN7MbkH3DB7XrbDgnGchQ/wkRHkkb32d2M5Nk=";
    let sample = RegisteredKey::decode(&utf16(sample)).unwrap();
    let case = |key: RegisteredKey| {
        let entry = key.encode();
        assert_eq!(RegisteredKey::decode(&entry), Some(key));
        let (thumbprint, hash) = (key.thumbprint.as_bytes(), key.key_hash.as_bytes());
        let text =
            format!("X509:<SHA1-TP-PUBKEY>{}{}", hex(thumbprint).to_uppercase(), STANDARD.encode(hash));
        assert_eq!(utf16(&text), entry);
        json!({"key": entry, "text": text, "thumbprint_hex": hex(thumbprint), "key_hash": key.key_hash})
    };
    json!({
        "about": "The key of an alternativeSecurityIds entry of type 2, and what it says.",
        "cases": [case(own), case(sample)],
    })
}

fn utf16(text: &str) -> String {
    STANDARD.encode(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

fn lane(device: &Device) -> Value {
    let windows = device.lane();
    let linux = LaneKey { account: "0".parse().unwrap(), ..windows.clone() };
    let case = |key: LaneKey| {
        let account = key.account.as_str().as_bytes();
        let parts = [
            b"keyturn lane v1",
            key.device.as_bytes().as_slice(),
            account,
            key.install.as_bytes(),
            key.key.as_bytes(),
        ];
        json!({
            "device_id": key.device,
            "account_id": key.account,
            "install_id": key.install,
            "key_hash": key.key,
            "input_hex": hex(prefixed(&parts)),
            "lane": key.id(),
        })
    };
    json!({
        "about": "Lane ids: the first 16 bytes of SHA-256 over the input.",
        "cases": [case(windows), case(linux)],
    })
}

/// Parts, each preceded by its length in two bytes, big endian.
fn prefixed(parts: &[&[u8]]) -> Vec<u8> {
    parts
        .iter()
        .flat_map(|part| [&u16::try_from(part.len()).unwrap().to_be_bytes(), *part].concat())
        .collect()
}

fn nonce() -> Value {
    let case = |at: UnixMillis| {
        let nonce = world::nonce(at);
        let bytes = URL_SAFE_NO_PAD.decode(nonce.to_string()).unwrap();
        let (head, mac) = bytes.split_at(20);
        assert!(world::nonce_keys().holds(&nonce));
        json!({
            "key_id": 1,
            "secret_hex": hex(world::NONCE_SECRET),
            "issued_ms": nonce.issued(),
            "random_hex": hex(&head[9..]),
            "mac_input_hex": hex([b"keyturn nonce v1", head].concat()),
            "mac_hex": hex(mac),
            "nonce": nonce,
        })
    };
    json!({"about": "Nonces.", "cases": [case(world::START), case(UnixMillis(0))]})
}

fn message(device: &Device) -> Value {
    let case = |claims: Claims| {
        let jws = device.sign(&claims);
        let message = SignedMessage::parse(jws.clone()).unwrap();
        assert_eq!(*message.claims(), claims);
        let (rid, lane) = (message.rid(), message.verify().unwrap().lane().id());
        let text =
            |at| String::from_utf8(URL_SAFE_NO_PAD.decode(jws.split('.').nth(at).unwrap()).unwrap()).unwrap();
        json!({"header": text(0), "payload": text(1), "jws": jws, "rid": rid, "lane": lane})
    };
    json!({
        "about": "Messages signed with RS256 by the key of certificate.json. header and payload are the exact texts \
            that were encoded.",
        "request": case(world::request()),
        "first_request": case(world::first_request()),
        "report": case(world::report()),
        "event": case(world::event()),
    })
}

/// A part of a JWS, as JSON.
pub(crate) fn part(jws: &str, at: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jws.split('.').nth(at).unwrap()).unwrap()).unwrap()
}

fn stamp(device: &Device) -> Value {
    let rid = device.binding().rid;
    let stamp = world::stamp(rid);
    let order = Order { received: world::RECEIVED, nonce: world::START };
    let limits = keyturn_schemas::stamp::Freshness::default();
    assert_eq!(world::stamp_keys().check(&stamp, rid, world::START, limits, world::RECEIVED), Ok(order));
    let (nonce, received) = (world::START.0.to_be_bytes(), world::RECEIVED.0.to_be_bytes());
    let input =
        [b"keyturn stamp v1", rid.as_bytes().as_slice(), &nonce, &received, world::INGRESS.as_bytes()]
            .concat();
    json!({
        "about": "The stamp on the request of message.json.",
        "secret_hex": hex(world::STAMP_SECRET),
        "mac_input_hex": hex(input),
        "stamp": stamp,
    })
}

fn ticket(device: &Device) -> Value {
    let rid = device.binding().rid;
    let ticket = world::ticket_keys().ticket(rid).unwrap();
    assert_eq!(world::ticket_keys().open(&ticket), Some(rid));
    json!({
        "about": "The ticket of the request of message.json.",
        "key_id": 3,
        "secret_hex": hex(world::TICKET_SECRET),
        "rid": rid,
        "mac_input_hex": hex([b"keyturn ticket v1", rid.as_bytes().as_slice()].concat()),
        "ticket": ticket,
    })
}

fn finding(device: &Device) -> Value {
    let message = SignedMessage::parse(device.sign(&world::request())).unwrap();
    let case = |facts: Facts| {
        let finding = world::finding_keys().seal(facts.clone()).unwrap();
        assert_eq!(world::finding_keys().open(&finding, facts.rid, facts.key_hash), Some(facts.clone()));
        let (failed, flags) = (facts.failed, u8::from(facts.failed.is_none()) + 2 * u8::from(facts.enabled));
        let name = json!(failed).as_str().unwrap_or_default().to_owned();
        let mut groups = Vec::new();
        if !facts.groups.is_empty() {
            groups.extend([0, u8::try_from(facts.groups.len()).unwrap()]);
            groups.extend(facts.groups.iter().flat_map(GroupId::as_bytes));
        }
        let label: &[u8] = if groups.is_empty() { b"keyturn finding v1" } else { b"keyturn finding v2" };
        let head = [label, facts.rid.as_bytes(), facts.key_hash.as_bytes()].concat();
        let directory = facts.directory_ms.0.to_be_bytes();
        let input = [head.as_slice(), &directory, &[flags], &groups, name.as_bytes()].concat();
        json!({"mac_input_hex": hex(input), "code": failed.map(Check::code), "finding": finding})
    };
    let failed = [None, Some(Check::KnownDevice), Some(Check::Enabled), Some(Check::JoinType)];
    let plain = failed.map(|failed| case(world::facts(&message, failed)));
    let grouped = case(world::facts_with_groups(&message));
    json!({
        "about": "Findings about the request of message.json, the last of a device in two groups.",
        "secret_hex": hex(world::FINDING_SECRET),
        "cases": plain.into_iter().chain([grouped]).collect::<Vec<_>>(),
    })
}

fn ephemeral_key() -> Value {
    let key = world::ephemeral();
    assert_eq!(hpke::public(&world::EPHEMERAL_SECRET), key.as_bytes());
    let jwk = json!(key);
    let canonical = format!(r#"{{"crv":"X25519","kty":"OKP","x":"{}"}}"#, base64url(key.as_bytes()));
    let refused = small_order().map(|point| {
        assert_eq!(EphemeralKey::from_bytes(point), None);
        hex(point)
    });
    json!({
        "about": "An ephemeral key (RFC 7748 section 6.1), its JWK and thumbprint, and the points that are refused.",
        "secret_hex": hex(world::EPHEMERAL_SECRET),
        "public_hex": hex(key.as_bytes()),
        "jwk": jwk,
        "thumbprint_input": canonical,
        "thumbprint": key.thumbprint(),
        "refused_public_hex": refused,
    })
}

/// Points of small order, among them ones that are not in canonical form and ones with the unused top bit set.
fn small_order() -> [[u8; 32]; 5] {
    let above = |low: u8, top: u8| {
        let mut point = [0xff; 32];
        (point[0], point[31]) = (low, top);
        point
    };
    let one = |top: u8| {
        let mut point = [0; 32];
        (point[0], point[31]) = (1, top);
        point
    };
    [[0; 32], one(0), one(0x80), above(0xed, 0x7f), above(0xee, 0xff)]
}

/// The seal in the vectors: of version 2, for the request.
pub(crate) fn committed_seal() -> Sealed {
    let binding = Device::published().binding();
    let recipient = world::ephemeral();
    let (enc, ct) = hpke::seal(
        Aead::Aes256Gcm,
        &SENDER_SECRET,
        recipient.as_bytes(),
        &binding.info(),
        &[],
        &padded(world::PASSWORD),
    );
    Sealed { enc, ct }
}

fn padded(password: &str) -> Vec<u8> {
    let mut plain = prefixed(&[password.as_bytes()]);
    plain.resize(256, 0);
    plain
}

fn seal(device: &Device) -> Value {
    let (binding, sealed) = (device.binding(), committed_seal());
    let secret = EphemeralSecret::from_bytes(world::EPHEMERAL_SECRET);
    assert_eq!(secret.open(&sealed, &binding).unwrap().expose(), world::PASSWORD);
    let parts = [
        b"keyturn result v1",
        binding.rid.as_bytes().as_slice(),
        binding.lane.as_bytes(),
        binding.version.as_bytes(),
    ];
    assert_eq!(binding.info(), prefixed(&parts));
    let refused = [
        ("another request", Binding { rid: RequestId([0; 32]), ..binding }),
        ("another lane", Binding { lane: keyturn_domain::ids::LaneId([0; 16]), ..binding }),
        ("another version", Binding { version: world::version(1), ..binding }),
    ];
    let refused = refused.map(|(why, Binding { rid, lane, version })| {
        assert!(secret.open(&sealed, &Binding { rid, lane, version }).is_err());
        json!({"why": why, "rid": rid, "lane": lane, "version": version})
    });
    json!({
        "about": "A password sealed to the key of ephemeral-key.json with a sender's key that is known, so that \
            sealing can be repeated.",
        "rid": binding.rid,
        "lane": binding.lane,
        "version": binding.version,
        "info_hex": hex(binding.info()),
        "recipient_secret_hex": hex(world::EPHEMERAL_SECRET),
        "recipient_public_hex": hex(world::ephemeral().as_bytes()),
        "sender_secret_hex": hex(SENDER_SECRET),
        "plaintext_hex": hex(padded(world::PASSWORD)),
        "password": world::PASSWORD,
        "enc": base64url(&sealed.enc),
        "ct": base64url(&sealed.ct),
        "refused": refused,
    })
}

/// What the library seals opens by the code above, which shares nothing with it.
#[test]
fn the_library_seals_what_the_rfc_opens() {
    let binding = Device::published().binding();
    let password = keyturn_domain::password::Password::new(world::PASSWORD.to_owned());
    let sealed = keyturn_schemas::seal::seal(&password, &binding, &world::ephemeral()).unwrap();
    let plain =
        hpke::open(Aead::Aes256Gcm, &world::EPHEMERAL_SECRET, &sealed.enc, &binding.info(), &[], &sealed.ct);
    assert_eq!(plain, padded(world::PASSWORD));
}

fn result(device: &Device) -> Value {
    let (key, trusted) = (world::signing_key(), [world::signing_key().public()]);
    let good = |code: Code, retry: Option<UnixMillis>| {
        let answer = answer(device, code, retry);
        let jws = result::sign(&answer, &key).unwrap();
        assert_eq!(result::verify(&jws, &trusted).unwrap(), answer);
        let text =
            |at| String::from_utf8(URL_SAFE_NO_PAD.decode(jws.split('.').nth(at).unwrap()).unwrap()).unwrap();
        json!({"code": code, "header": text(0), "payload": text(1), "jws": jws})
    };
    let later = Some(UnixMillis(world::START.0 + 3 * 86_400_000));
    json!({
        "about": "Results that answer the request of message.json. All of those that are refused, but for the unknown \
            key and the altered one, are signed correctly.",
        "seed_hex": hex(world::SIGNING_SEED),
        "trusted": trusted,
        "accepted": [
            good(Code::Rotate, None),
            good(Code::NotDue, later),
            good(Code::Held, later),
            good(Code::Recorded, None),
            good(Code::Stale, None),
            good(Code::Expired, None),
            good(Code::Refused, None),
        ],
        "refused": refused_results(device, &key, &trusted),
    })
}

fn answer(device: &Device, code: Code, retry_at: Option<UnixMillis>) -> Answer {
    let binding = device.binding();
    let thumbprint = world::ephemeral().thumbprint();
    Answer {
        v: Version1,
        deployment: world::deployment(),
        rid: binding.rid,
        lane: binding.lane,
        code,
        retry_at,
        issued_at: UnixMillis(world::RECEIVED.0 + 40),
        enclosed: (code == Code::Rotate)
            .then(|| Enclosed::new(binding.version, thumbprint, &committed_seal())),
    }
}

fn refused_results(device: &Device, key: &SigningKey, trusted: &[PublicKey]) -> Vec<Value> {
    let answer = answer(device, Code::Recorded, None);
    let (good, payload) = (result::sign(&answer, key).unwrap(), serde_json::to_string(&answer).unwrap());
    let stranger = SigningKey::from_seed("sign-1", &[0xb9; 32]).unwrap();
    let other_name = SigningKey::from_seed("sign-9", &world::SIGNING_SEED).unwrap();
    let header = |text: &str| compact(key, text, &payload);
    let cases = [
        ("signed by an unknown key under a known name", result::sign(&answer, &stranger).unwrap()),
        ("signed by a known key under an unknown name", result::sign(&answer, &other_name).unwrap()),
        ("one character of the payload is another", good.replacen(".eyJ2Ijox", ".eyJ2Ijoy", 1)),
        ("padded base64", format!("{good}==")),
        ("a fourth part", format!("{good}.AA")),
        ("no signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
        ("typ of a key set", header(r#"{"alg":"EdDSA","typ":"kt-keys+jws","kid":"sign-1"}"#)),
        ("alg none", header(r#"{"alg":"none","typ":"kt-res+jws","kid":"sign-1"}"#)),
        ("alg HS256", header(r#"{"alg":"HS256","typ":"kt-res+jws","kid":"sign-1"}"#)),
        ("alg in lower case", header(r#"{"alg":"eddsa","typ":"kt-res+jws","kid":"sign-1"}"#)),
        ("alg twice", header(r#"{"alg":"EdDSA","alg":"EdDSA","typ":"kt-res+jws","kid":"sign-1"}"#)),
        (
            "a further header member",
            header(r#"{"alg":"EdDSA","typ":"kt-res+jws","kid":"sign-1","crit":["b64"],"b64":true}"#),
        ),
        (
            "version 2",
            compact(
                key,
                r#"{"alg":"EdDSA","typ":"kt-res+jws","kid":"sign-1"}"#,
                &payload.replacen(r#""v":1"#, r#""v":2"#, 1),
            ),
        ),
    ];
    let case = |(why, jws): (&str, String)| {
        assert!(result::verify(&jws, trusted).is_err(), "{why}");
        assert_ne!(jws, good, "{why}");
        json!({"why": why, "jws": jws})
    };
    cases.map(case).into()
}

/// A JWS of exactly these texts.
fn compact(key: &SigningKey, header: &str, payload: &str) -> String {
    let input = format!("{}.{}", base64url(header), base64url(payload));
    let signature = base64url(key.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

fn key_set() -> Value {
    let (root, deployment) = (world::root_key(), world::deployment());
    let set = world::key_set();
    let next = SigningKey::from_seed("sign-2", &[0xb3; 32]).unwrap().public();
    let change = KeySet { serial: 8, keys: vec![world::signing_key().public(), next], ..set.clone() };
    let now = world::RECEIVED;
    let good = |set: &KeySet| {
        let jws = key_set::sign(set, &root).unwrap();
        assert_eq!(key_set::verify(&jws, &root.public(), &deployment, now).unwrap(), *set);
        let text =
            |at| String::from_utf8(URL_SAFE_NO_PAD.decode(jws.split('.').nth(at).unwrap()).unwrap()).unwrap();
        json!({"serial": set.serial, "header": text(0), "payload": text(1), "jws": jws})
    };
    json!({
        "about": "Key sets, read by an agent of this deployment with this root key at this time.",
        "root_seed_hex": hex(world::ROOT_SEED),
        "root": root.public(),
        "deployment": deployment,
        "now_ms": now,
        "accepted": [good(&set), good(&change)],
        "refused": refused_key_sets(&set, &root, now),
    })
}

fn refused_key_sets(set: &KeySet, root: &SigningKey, now: UnixMillis) -> Vec<Value> {
    let deployment = world::deployment();
    let other = KeySet { deployment: "example2".parse().unwrap(), ..set.clone() };
    let stranger = SigningKey::from_seed("root-1", &[0xb9; 32]).unwrap();
    let other_name = SigningKey::from_seed("root-2", &world::ROOT_SEED).unwrap();
    let header = r#"{"alg":"EdDSA","typ":"kt-res+jws","kid":"root-1"}"#;
    let cases = [
        ("signed by another root", key_set::sign(set, &stranger).unwrap(), KeySetError::Untrusted),
        ("signed under another name", key_set::sign(set, &other_name).unwrap(), KeySetError::Untrusted),
        (
            "signed by a key that it lists",
            key_set::sign(set, &world::signing_key()).unwrap(),
            KeySetError::Untrusted,
        ),
        ("for another deployment", key_set::sign(&other, root).unwrap(), KeySetError::Deployment),
        (
            "ended",
            key_set::sign(&KeySet { not_after: now, ..set.clone() }, root).unwrap(),
            KeySetError::Ended,
        ),
        (
            "typ of a result",
            compact(root, header, &serde_json::to_string(set).unwrap()),
            KeySetError::Malformed(keyturn_schemas::message::Malformed::Header(
                "typ is not kt-keys+jws".to_owned(),
            )),
        ),
    ];
    let case = |(why, jws, error): (&str, String, KeySetError)| {
        assert_eq!(key_set::verify(&jws, &root.public(), &deployment, now), Err(error), "{why}");
        json!({"why": why, "jws": jws})
    };
    cases.map(case).into()
}

#[test]
fn the_published_certificate_is_one_of_a_device() {
    let certificate = DeviceCertificate::from_der(&Device::published().der).unwrap();
    assert_eq!(certificate.common_name(), Some(world::device()));
    assert_eq!(world::version(1), VersionId(world::counting(0x10)));
}
