use serde_json::{Value, json};

use super::*;
use crate::fixtures::{DEVICE, device, event, report, request, stranger};

fn refusal(text: String) -> MessageError {
    SignedMessage::parse(text).map(|message| message.rid()).expect_err("it must be refused")
}

/// The claims with the member at a path set, or taken away.
fn with(mut claims: Value, path: &[&str], value: Option<Value>) -> Value {
    let (last, outer) = path.split_last().unwrap();
    let place = outer.iter().fold(&mut claims, |place, name| &mut place[*name]).as_object_mut().unwrap();
    match value {
        Some(value) => drop(place.insert((*last).to_owned(), value)),
        None => drop(place.remove(*last)),
    }
    claims
}

#[test]
fn every_kind_of_message_is_read_and_verified() {
    for (kind, claims) in [("kt-req+jws", request()), ("kt-rep+jws", report()), ("kt-evt+jws", event())] {
        let text = device().says(kind, &claims);
        let message = SignedMessage::parse(text.clone()).unwrap();
        assert_eq!((message.text(), message.rid()), (text.as_str(), RequestId::of(&text)));
        assert_eq!(json!(message.claims().kind()), json!(kind));
        assert_eq!(message.verify().unwrap().lane().device.to_string(), DEVICE);
    }
    let header = with(device().header("kt-req+jws"), &["alg"], Some(json!("PS256"))).to_string();
    assert!(
        SignedMessage::parse(device().message(&header, &request().to_string())).unwrap().verify().is_ok()
    );
}

#[test]
fn what_is_written_is_read() {
    let claims = Claims::Request(serde_json::from_value(request()).unwrap());
    let input = signing_input(&claims, DeviceAlgorithm::RS256, &device().der).unwrap();
    let signature = device().sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256, &input);
    let message = SignedMessage::parse(complete(input, &signature)).unwrap();
    assert_eq!(*message.claims(), claims);
    assert!(message.verify().is_ok());
}

#[test]
fn signatures_of_others_are_not_accepted() {
    let payload = request().to_string();
    let own = device().header("kt-req+jws").to_string();
    let text = device().message(&own, &payload);
    let (input, _) = text.rsplit_once('.').unwrap();
    let stolen = stranger().message(&own, &payload);
    let empty_key = format!("{input}.{}", jws::join(String::new(), &[0; 256]).trim_start_matches('.'));
    let relabelled = device().message(&own.replace("RS256", "PS256"), &payload);
    let downgraded = format!("{input}.{}", relabelled.rsplit_once('.').unwrap().1);
    for (what, text) in [("another key", stolen), ("zeros", empty_key), ("another algorithm", downgraded)] {
        assert_eq!(SignedMessage::parse(text).unwrap().verify().err(), Some(BadSignature), "{what}");
    }
}

/// Each text is refused before its signature is looked at.
#[test]
fn the_compact_form_is_strict() {
    let good = device().says("kt-req+jws", &request());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { unreachable!() };
    // 256 bytes leave four bits in the last character, all of them zero.
    let loose = format!("{}{}", &signature[..signature.len() - 1], next_character(signature));
    let cases = [
        ("nothing", String::new()),
        ("one part", header.to_owned()),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        ("no signature", format!("{header}.{payload}.")),
        ("no payload", format!("{header}..{signature}")),
        ("no header", format!(".{payload}.{signature}")),
        ("padded signature", format!("{good}==")),
        ("padded header", format!("{header}=.{payload}.{signature}")),
        ("loose bits", format!("{header}.{payload}.{loose}")),
        ("white space before", format!(" {good}")),
        ("a line end after", format!("{good}\n")),
        ("the other alphabet", format!("{header}.{payload}.{}", "+".repeat(342))),
        (
            "flattened JSON",
            json!({"protected": header, "payload": payload, "signature": signature}).to_string(),
        ),
    ];
    for (what, text) in cases {
        assert!(matches!(refusal(text), MessageError::Jws(_)), "{what}");
    }
}

/// The last character of `text`, with its lowest bit set.
fn next_character(text: &str) -> char {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(text.chars().last().unwrap()).unwrap();
    alphabet.chars().nth(at | 1).filter(|_| at.is_multiple_of(2)).unwrap()
}

#[test]
fn the_header_has_its_members_and_no_others() {
    let good = device().header("kt-req+jws");
    let certificate = good["x5c"][0].clone();
    let changed = |member: &str, value: Value| with(good.clone(), &[member], Some(value)).to_string();
    let plain = good.to_string();
    let cases = [
        ("alg none", changed("alg", json!("none"))),
        ("alg HS256", changed("alg", json!("HS256"))),
        ("alg in lower case", changed("alg", json!("rs256"))),
        ("alg ES256", changed("alg", json!("ES256"))),
        ("alg as an object", changed("alg", json!({"RS256": null}))),
        ("typ of a result", changed("typ", json!("kt-res+jws"))),
        ("typ JWT", changed("typ", json!("JWT"))),
        ("typ in upper case", changed("typ", json!("KT-REQ+JWS"))),
        ("typ as an object", changed("typ", json!({"kt-req+jws": null}))),
        ("kid in upper case", changed("kid", json!(DEVICE.to_uppercase()))),
        ("no certificate", changed("x5c", json!([]))),
        ("two certificates", changed("x5c", json!([certificate, certificate]))),
        ("a certificate outside a list", changed("x5c", certificate.clone())),
        ("crit", changed("crit", json!(["exp"]))),
        ("b64", changed("b64", json!(false))),
        ("jku", changed("jku", json!("https://keys.example"))),
        ("jwk", changed("jwk", json!({"kty": "RSA"}))),
        ("x5u", changed("x5u", json!("https://keys.example"))),
        ("zip", changed("zip", json!("DEF"))),
        ("no alg", with(good.clone(), &["alg"], None).to_string()),
        ("no typ", with(good.clone(), &["typ"], None).to_string()),
        ("no kid", with(good.clone(), &["kid"], None).to_string()),
        ("no x5c", with(good.clone(), &["x5c"], None).to_string()),
        ("alg twice", plain.replacen('{', r#"{"alg":"RS256","#, 1)),
        ("alg twice, written differently", plain.replacen('{', r#"{"\u0061lg":"RS256","#, 1)),
        ("a list of values", json!(["RS256", "kt-req+jws", DEVICE, [certificate]]).to_string()),
        ("more after it", format!("{plain}{{}}")),
        ("no JSON", "RS256".to_owned()),
    ];
    for (what, header) in cases {
        let error = refusal(device().message(&header, &request().to_string()));
        assert!(matches!(error, MessageError::Jws(Malformed::Header(_))), "{what}: {error}");
    }
}

#[test]
fn certificates_are_padded_base64_of_one_certificate() {
    let good = device().header("kt-req+jws");
    let text = good["x5c"][0].as_str().unwrap();
    let cases = [
        String::new(),
        "AAAA".to_owned(),
        format!("{text}AAAA"),
        format!("{text} "),
        text.replace('+', "-").replace('/', "_") + "-",
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"),
    ];
    for certificate in cases {
        let header = with(good.clone(), &["x5c"], Some(json!([certificate]))).to_string();
        let error = refusal(device().message(&header, &request().to_string()));
        assert_eq!(error, MessageError::Certificate(CertificateError::Syntax), "{certificate}");
    }
}

#[test]
fn required_claims_are_required() {
    for member in [
        "v",
        "aud",
        "jti",
        "iat",
        "nonce",
        "device_id",
        "account",
        "install_id",
        "op",
        "epk",
        "wait_s",
        "state",
    ] {
        let error = refusal(device().says("kt-req+jws", &with(request(), &[member], None)));
        assert!(matches!(error, MessageError::Jws(Malformed::Payload(_))), "{member}: {error}");
    }
    for member in ["labels", "policy", "reason"] {
        let text = device().says("kt-req+jws", &with(request(), &[member], None));
        assert!(SignedMessage::parse(text).is_ok(), "{member}");
    }
    assert!(SignedMessage::parse(device().says("kt-rep+jws", &with(report(), &["state"], None))).is_err());
    assert!(SignedMessage::parse(device().says("kt-evt+jws", &with(event(), &["result"], None))).is_err());
}

#[test]
fn claims_have_their_types_and_bounds() {
    let key = |member: &str, value: Value| with(request()["epk"].clone(), &[member], Some(value));
    let cases: [(&str, &[&str], Value); 31] = [
        ("version 2", &["v"], json!(2)),
        ("version as text", &["v"], json!("1")),
        ("version 1.0", &["v"], json!(1.0)),
        ("no audience", &["aud"], json!("")),
        ("an audience in upper case", &["aud"], json!("Example")),
        ("a long audience", &["aud"], json!("a".repeat(65))),
        ("two audiences", &["aud"], json!(["example"])),
        ("a short mark", &["jti"], json!("AAAA")),
        ("a padded mark", &["jti"], json!("AAAAAAAAAAAAAAAAAAAAAA==")),
        ("a mark with loose bits", &["jti"], json!("AAAAAAAAAAAAAAAAAAAAAB")),
        ("a negative time", &["iat"], json!(-1)),
        ("half a second", &["iat"], json!(0.5)),
        ("a short nonce", &["nonce"], json!("AAAA")),
        ("a device id in braces", &["device_id"], json!(format!("{{{DEVICE}}}"))),
        ("an account with a space", &["account", "id"], json!("a b")),
        ("a label with a control character", &["labels", "host"], json!("a\u{7}")),
        ("a label that runs backwards", &["labels", "host"], json!("a\u{202e}b")),
        ("a long label", &["labels", "host"], json!("x".repeat(65))),
        ("another operation", &["op"], json!("applied")),
        ("a negative wait", &["wait_s"], json!(-1)),
        ("an endless wait", &["wait_s"], json!(4_294_967_296_u64)),
        ("a state that is null", &["state"], Value::Null),
        ("a version in another form", &["state", "cur"], json!("1")),
        ("versions outside a list", &["state", "in_doubt"], json!("AAAAAAAAAAAAAAAAAAAAAA")),
        ("epk with a private part", &["epk"], key("d", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))),
        ("epk on P-256", &["epk"], key("crv", json!("P-256"))),
        ("epk on X448", &["epk"], key("crv", json!("X448"))),
        ("epk of another type", &["epk"], key("kty", json!("EC"))),
        ("epk of 31 bytes", &["epk"], key("x", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))),
        ("epk as text", &["epk"], json!("hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo")),
        ("nesting without end", &["more"], json!(null)),
    ];
    for (what, path, value) in cases {
        let mut payload = with(request(), path, Some(value)).to_string();
        if path == ["more"] {
            payload = payload
                .replace(r#""more":null"#, &format!(r#""more":{}{}"#, "[".repeat(3000), "]".repeat(3000)));
        }
        let error = refusal(device().message(&device().header("kt-req+jws").to_string(), &payload));
        assert!(matches!(error, MessageError::Jws(Malformed::Payload(_))), "{what}: {error}");
    }
}

#[test]
fn ephemeral_keys_of_small_order_are_refused() {
    let encode = |bytes: [u8; 32]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let mut one = [0; 32];
    one[0] = 1;
    let (mut below, mut above) = ([0xff; 32], [0xff; 32]);
    (below[0], below[31], above[0], above[31]) = (0xec, 0x7f, 0xee, 0x7f);
    let mut top = one;
    top[31] = 0x80;
    for point in [[0; 32], one, below, above, top] {
        let claims = with(request(), &["epk", "x"], Some(json!(encode(point))));
        assert!(matches!(
            refusal(device().says("kt-req+jws", &claims)),
            MessageError::Jws(Malformed::Payload(_))
        ));
    }
}

#[test]
fn a_member_may_stand_once() {
    let payload = request().to_string();
    for member in [r#""v":1"#, r#""op":"rotate""#, r#""wait_s":600"#, r#""aud":"other""#] {
        let twice = payload.replacen('{', &format!("{{{member},"), 1);
        let error = refusal(device().message(&device().header("kt-req+jws").to_string(), &twice));
        assert!(matches!(error, MessageError::Jws(Malformed::Payload(_))), "{member}: {error}");
    }
}

#[test]
fn unknown_claims_are_ignored() {
    let claims =
        with(with(request(), &["later"], Some(json!({"a": 1}))), &["state", "later"], Some(json!(1)));
    assert!(SignedMessage::parse(device().says("kt-req+jws", &claims)).is_ok());
}

#[test]
fn a_state_lists_at_most_64_versions() {
    let versions =
        |count: u8| -> Value { (0..count).map(|n| json!(keyturn_domain::ids::VersionId([n; 16]))).collect() };
    for list in ["in_doubt", "refused"] {
        let claims = |count| with(request(), &["state", list], Some(versions(count)));
        assert!(SignedMessage::parse(device().says("kt-req+jws", &claims(64))).is_ok());
        let error = refusal(device().says("kt-req+jws", &claims(65)));
        assert_eq!(error, MessageError::Inconsistent("state lists more than 64 versions"));
    }
}

#[test]
fn header_and_claims_name_the_same_device() {
    let other = "00000000-0000-0000-0000-000000000000";
    let claims = with(request(), &["device_id"], Some(json!(other)));
    let error = refusal(device().says("kt-req+jws", &claims));
    assert_eq!(error, MessageError::Inconsistent("kid and device_id differ"));
}

#[test]
fn messages_have_at_most_16_kib() {
    let longest = |extra: usize| {
        device().says("kt-req+jws", &with(request(), &["pad"], Some(json!("x".repeat(extra)))))
    };
    let mut extra = (MAX_BYTES - longest(0).len()) * 3 / 4 - 2;
    while longest(extra).len() < MAX_BYTES - 1 {
        extra += 1;
    }
    assert!(SignedMessage::parse(longest(extra)).is_ok());
    assert_eq!(refusal(longest(extra + 3)), MessageError::Size);
}
