//! J-01 to J-26 and K-01 to K-22: what a message looks like, and what it says. All are sent to the ingress, and for
//! those that it takes, the pipeline's answer is looked at.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyturn_domain::lane::LaneEvent;
use keyturn_ports::ledger::{Happening, LedgerReader as _};
use keyturn_schemas::result::Code;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::{System, deployment};
use serde_json::{Value, json};

/// A case: its id, the message, the status and the code.
type Case = (&'static str, String, u16, &'static str);

struct Bench {
    system: System,
    device: FakeDevice,
    header: Value,
    payload: Value,
}

impl Bench {
    async fn new() -> Self {
        let system = System::new(Faults::none());
        let mut device = FakeDevice::new(1, deployment());
        system.register(&device).await;
        let good = device.request(system.nonce().await);
        let part = |at: usize| {
            let bytes = URL_SAFE_NO_PAD.decode(good.split('.').nth(at).unwrap()).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        let (header, payload) = (part(0), part(1));
        Self { system, device, header, payload }
    }

    fn write(&self, header: &Value, payload: &Value) -> String {
        self.device.sign_bytes(header.to_string().as_bytes(), payload.to_string().as_bytes())
    }

    /// A good message but for one member of its header.
    fn header(&self, member: &str, value: Value) -> String {
        self.write(&with(&self.header, &format!("/{member}"), value), &self.payload)
    }

    /// A good message but for one member of its payload; null takes the member out.
    fn claim(&self, pointer: &str, value: Value) -> String {
        self.write(&self.header, &with(&self.payload, pointer, value))
    }

    /// A message with this payload.
    fn payload(&self, text: &[u8]) -> String {
        self.device.sign_bytes(self.header.to_string().as_bytes(), text)
    }

    async fn refuses(&self, cases: Vec<Case>) {
        for (id, message, status, code) in cases {
            let reply = self.system.send("/v1/requests", &message).await;
            assert_eq!(reply.status.as_u16(), status, "{id}: {}", reply.body);
            assert!(reply.body.contains(code), "{id}: {}", reply.body);
        }
    }

    async fn depth(&self) -> u64 {
        use keyturn_ports::queue::{Queue as _, QueueName};
        self.system.database.depth(QueueName::Requests).await.unwrap().total
    }
}

fn with(document: &Value, pointer: &str, value: Value) -> Value {
    let mut document = document.clone();
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let members = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        members.remove(member)
    } else {
        members.insert(member.to_owned(), value)
    };
    document
}

#[tokio::test]
async fn j_01_to_j_04_and_j_22_other_texts_are_malformed() {
    let bench = Bench::new().await;
    let good = bench.write(&bench.header, &bench.payload);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { panic!("three parts") };
    let serialised =
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]});
    // 256 bytes end in a character of which four bits are unused.
    let loose = match good.chars().last().unwrap() {
        'A' => 'B',
        'Q' => 'R',
        'g' => 'h',
        _ => 'x',
    };
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let signed = |signature: &[u8]| format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature));
    bench
        .refuses(vec![
            ("J-01", serialised.to_string(), 400, "KT-0101"),
            ("J-02", format!("{header}.{payload}"), 400, "KT-0101"),
            ("J-02", format!("{good}.AAAA"), 400, "KT-0101"),
            ("J-02", format!("{good}.AAAA.AAAA"), 400, "KT-0101"),
            ("J-03", format!("{good}="), 400, "KT-0101"),
            ("J-03", format!("{header}.{payload}.+/{}", &signature[2..]), 400, "KT-0101"),
            ("J-04", format!("{}{loose}", &good[..good.len() - 1]), 400, "KT-0101"),
            ("J-22", format!("{header}.{payload}."), 400, "KT-0101"),
            ("J-22", signed(&bytes[..255]), 403, "KT-0106"),
            ("J-22", signed(&[bytes.as_slice(), &[0]].concat()), 403, "KT-0106"),
            ("J-15", format!("{}.{payload}.{signature}", "A".repeat(65_536)), 413, "KT-0103"),
        ])
        .await;
    assert_eq!(bench.depth().await, 0);
}

#[tokio::test]
async fn j_05_to_j_19_other_headers_are_malformed() {
    let bench = Bench::new().await;
    let own = bench.header["x5c"][0].clone();
    let twice = bench.header.to_string().replacen('{', "{\"alg\":\"RS256\",", 1);
    let mut cases = vec![
        ("J-09", bench.header("typ", Value::Null), 400, "KT-0101"),
        ("J-09", bench.header("typ", json!("JWT")), 400, "KT-0101"),
        ("J-09", bench.header("typ", json!("kt-rep+jws")), 400, "KT-0101"),
        ("J-10", bench.header("crit", json!(["exp"])), 400, "KT-0101"),
        (
            "J-11",
            bench.device.sign_bytes(twice.as_bytes(), bench.payload.to_string().as_bytes()),
            400,
            "KT-0101",
        ),
        ("J-12", bench.header("b64", json!(false)), 400, "KT-0101"),
        ("J-13", bench.header("jku", json!("https://evil.example/k")), 400, "KT-0101"),
        ("J-13", bench.header("x5u", json!("https://evil.example/k")), 400, "KT-0101"),
        ("J-13", bench.header("jwk", json!({"kty": "RSA"})), 400, "KT-0101"),
        ("J-14", bench.header("x5c", json!([])), 400, "KT-0101"),
        ("J-14", bench.header("x5c", json!([own, own])), 400, "KT-0101"),
        ("J-18", bench.header("x5c", json!([elliptic()])), 400, "KT-0101"),
        ("J-19", bench.header("kid", json!("00000000-0000-0000-0000-000000000001")), 400, "KT-0101"),
    ];
    for alg in ["none", "HS256", "RS1", "RS384", "ES256", "rs256"] {
        let id = match alg {
            "none" => "J-05",
            "HS256" => "J-06",
            "rs256" => "J-08",
            _ => "J-07",
        };
        cases.push((id, bench.header("alg", json!(alg)), 400, "KT-0101"));
    }
    bench.refuses(cases).await;
    assert_eq!(bench.depth().await, 0);
}

fn elliptic() -> String {
    let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    STANDARD.encode(made.cert.der())
}

#[tokio::test]
async fn j_20_j_21_a_signature_that_does_not_hold_is_refused_like_any_other() {
    let bench = Bench::new().await;
    let good = bench.write(&bench.header, &bench.payload);
    let (input, signature) = good.rsplit_once('.').unwrap();
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
    flipped[100] ^= 1;
    let flipped = format!("{input}.{}", URL_SAFE_NO_PAD.encode(flipped));
    let other = bench.claim("/wait_s", json!(1));
    let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
    let mut bodies = Vec::new();
    for (id, message) in [("J-20", swapped), ("J-21", flipped)] {
        let reply = bench.system.send("/v1/requests", &message).await;
        assert_eq!(reply.status.as_u16(), 403, "{id}: {}", reply.body);
        bodies.push(reply.body);
    }
    bodies.dedup();
    assert!(bodies.len() == 1 && bodies[0].contains("KT-0106"), "{bodies:?}");
}

#[tokio::test]
async fn j_23_to_j_26_other_payloads_are_malformed() {
    let bench = Bench::new().await;
    let good = bench.payload.to_string();
    let deep =
        |depth: usize| good.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(depth), "]".repeat(depth)), 1);
    let twice = |member: &str| good.replacen('{', &format!("{{{member},"), 1);
    let surrogate = good.replace("\"host\":\"host\"", "\"host\":\"\\ud800\"");
    assert_ne!(surrogate, good);
    let mut cases = Vec::new();
    for text in ["[]", "1", "\"x\"", "null", ""] {
        cases.push(("J-23", bench.payload(text.as_bytes()), 400, "KT-0101"));
    }
    cases.extend([
        ("J-24", bench.payload(deep(2000).as_bytes()), 400, "KT-0101"),
        ("J-24", bench.payload(deep(10_000).as_bytes()), 413, "KT-0103"),
        ("J-25", bench.payload(twice("\"op\":\"rotate\"").as_bytes()), 400, "KT-0101"),
        ("J-25", bench.payload(twice("\"aud\":\"test\"").as_bytes()), 400, "KT-0101"),
        ("J-26", bench.payload(surrogate.as_bytes()), 400, "KT-0101"),
        ("J-26", bench.payload(&[good.as_bytes(), &[0xff]].concat()), 400, "KT-0101"),
        (
            "J-26",
            bench.payload(&good.replace("host\":\"host", "host\":\"\u{1}").into_bytes()),
            400,
            "KT-0101",
        ),
    ]);
    bench.refuses(cases).await;
    assert_eq!(bench.depth().await, 0);
}

#[tokio::test]
async fn k_01_to_k_21_claims_that_cannot_be_are_refused() {
    let bench = Bench::new().await;
    let foreign = URL_SAFE_NO_PAD.encode([7; 36]);
    let mut cases = vec![
        ("K-01", bench.claim("/nonce", json!(foreign)), 401, "KT-0108"),
        ("K-01", bench.claim("/nonce", Value::Null), 400, "KT-0101"),
        ("K-01", bench.claim("/nonce", json!("")), 400, "KT-0101"),
        (
            "K-03",
            bench.payload(bench.payload.to_string().replace("\"iat\":0", "\"iat\":1e400").as_bytes()),
            400,
            "KT-0101",
        ),
        ("K-04", bench.claim("/aud", json!("other")), 401, "KT-0107"),
        ("K-08", bench.claim("/device_id", json!("x' or startswith(displayName,'")), 400, "KT-0101"),
        ("K-15", bench.claim("/account/id", json!("a".repeat(129))), 400, "KT-0101"),
        ("K-16", bench.claim("/epk/x", json!(URL_SAFE_NO_PAD.encode([0; 32]))), 400, "KT-0101"),
        ("K-16", bench.claim("/epk/x", json!(URL_SAFE_NO_PAD.encode([9; 31]))), 400, "KT-0101"),
        ("K-17", bench.claim("/epk/crv", json!("Ed25519")), 400, "KT-0101"),
        ("K-17", bench.claim("/epk/kty", json!("RSA")), 400, "KT-0101"),
        ("K-17", bench.claim("/epk/d", json!(URL_SAFE_NO_PAD.encode([9; 32]))), 400, "KT-0101"),
        ("K-19", bench.claim("/op", json!("delete")), 400, "KT-0101"),
        (
            "K-21",
            format!("{}{{\"SecretUpdateOverride\":true}}", bench.write(&bench.header, &bench.payload)),
            400,
            "KT-0101",
        ),
    ];
    for member in
        ["/iat", "/jti", "/aud", "/op", "/v", "/device_id", "/account", "/install_id", "/epk", "/state"]
    {
        cases.push(("K-02", bench.claim(member, Value::Null), 400, "KT-0101"));
    }
    for iat in [json!(-1), json!(1.5), json!("123")] {
        cases.push(("K-03", bench.claim("/iat", iat), 400, "KT-0101"));
    }
    for bytes in [0, 8, 768] {
        let mark = URL_SAFE_NO_PAD.encode(vec![1; bytes]);
        cases.push(("K-05", bench.claim("/jti", json!(mark)), 400, "KT-0101"));
    }
    let id = bench.device.id.to_string();
    for written in
        [format!("{{{id}}}"), id.replace('-', ""), "ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEFAB".to_owned()]
    {
        cases.push(("K-07", bench.claim("/device_id", json!(written)), 400, "KT-0101"));
    }
    for label in ["x".repeat(300), "a\0b".to_owned(), "a\nb".to_owned()] {
        cases.push(("K-12", bench.claim("/labels/serial", json!(label)), 400, "KT-0101"));
    }
    for label in ["a\u{202e}b", "a\u{200b}b", "a\u{7}b"] {
        cases.push(("K-14", bench.claim("/labels/host", json!(label)), 400, "KT-0101"));
    }
    for account in ["a\"b", "a\0b", "", "a b", "DOMAIN\\x"] {
        cases.push(("K-15", bench.claim("/account/id", json!(account)), 400, "KT-0101"));
    }
    bench.refuses(cases).await;
    assert_eq!(bench.depth().await, 0);
}

/// What looks odd and may be: labels are only shown, times of the device only told, hints only lengthen.
#[tokio::test]
async fn k_01_and_k_11_to_k_22_what_may_be_odd_is_answered() {
    let never = URL_SAFE_NO_PAD.encode([0xEE; 16]);
    for (id, pointer, value) in [
        ("K-01", "/iat", json!(0)),
        ("K-01", "/iat", json!(9_999_999_999_999_u64)),
        ("K-11", "/labels", json!({"serial": "SN-OF-ANOTHER", "host": "HOST-OF-ANOTHER"})),
        ("K-12", "/labels/serial", json!("../../x")),
        ("K-12", "/labels/serial", json!("a?b#c")),
        ("K-13", "/labels/host", json!("<script>alert(1)</script>")),
        ("K-18", "/state/cur", json!(never)),
        ("K-20", "/policy", json!({"min_len": 1})),
        ("K-22", "/unheard_of", json!({"x": [1]})),
    ] {
        let mut bench = Bench::new().await;
        let message = bench.claim(pointer, value);
        let ticket = bench
            .system
            .post("/v1/requests", &message)
            .await
            .unwrap_or_else(|reply| panic!("{id}: {reply:?}"));
        bench.system.settle().await;
        assert_eq!(bench.system.answer(&ticket).await.code, Code::Rotate, "{id}");
        let lanes = bench.system.lanes(&bench.device).await;
        assert_eq!((lanes.len(), lanes[0].confirmed), (1, None), "{id}");
    }
}

/// A device that asks for the impossible gets no version, and neither does a message of nobody.
#[tokio::test]
async fn k_09_k_10_k_20_nobody_is_harmed() {
    let mut bench = Bench::new().await;
    let ticket = bench
        .system
        .post("/v1/requests", &bench.claim("/policy", json!({"min_len": 1_000_000_000})))
        .await
        .unwrap();
    bench.system.settle().await;
    let code = bench.system.answer(&ticket).await.code;
    assert!(matches!(code, Code::Held | Code::Refused | Code::Rotate), "K-20: {code:?}");

    let before = bench.system.lanes(&bench.device).await;
    let mut nobody = FakeDevice::new(0, deployment());
    let mut impostor = FakeDevice::with_key(1, 3, deployment());
    for (id, device) in [("K-09", &mut nobody), ("K-10", &mut impostor)] {
        let message = device.request(bench.system.nonce().await);
        let ticket = bench.system.post("/v1/requests", &message).await.unwrap();
        bench.system.settle().await;
        let reply = bench.system.poll(&ticket).await;
        assert!(reply.status.as_u16() == 403 && reply.body.contains("KT-0201"), "{id}: {}", reply.body);
    }
    assert_eq!(bench.system.lanes(&bench.device).await, before, "untouched");
}

/// A version that was never issued only widens what is shown, and raises an alarm once something was confirmed.
#[tokio::test]
async fn k_18_a_version_that_never_was_confirms_nothing() {
    let mut bench = Bench::new().await;
    let mut device = FakeDevice::new(1, deployment());
    assert!(bench.system.rotate(&mut device).await);
    let confirmed = bench.system.lanes(&device).await[0].confirmed;
    let nonce = bench.system.nonce().await.to_string();
    let payload = with(
        &with(&bench.payload, "/nonce", json!(nonce)),
        "/jti",
        json!(URL_SAFE_NO_PAD.encode([0x77; 16])),
    );
    let payload = with(&payload, "/state/cur", json!(URL_SAFE_NO_PAD.encode([0xEE; 16])));
    bench.system.post("/v1/requests", &bench.write(&bench.header, &payload)).await.unwrap();
    bench.system.settle().await;
    assert_eq!(bench.system.lanes(&device).await[0].confirmed, confirmed);
    let timeline = bench.system.database.timeline(device.id, 20).await.unwrap();
    let alarmed = timeline
        .iter()
        .any(|event| matches!(&event.what, Happening::Lane { event: LaneEvent::AlarmRaised { .. }, .. }));
    assert!(alarmed, "{timeline:?}");
}
