//! U-01 to U-10 of docs/HOSTILE.md, as far as the embedded engines are the upstream: what a directory may answer, and
//! that a device is rotated only if the answer says plainly that it may be.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_ports::directory::{DeviceRecord, DirectoryAdmin as _};
use keyturn_schemas::security_id::RegisteredKey;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::{System, deployment};
use serde_json::{Value, json};

/// A record as it comes from the directory.
fn written(device: &FakeDevice) -> Value {
    serde_json::to_value(device.record()).unwrap()
}

/// Whether a device gets a password while the directory says this of it.
async fn rotates(record: Value) -> bool {
    let mut system = System::new(Faults::none());
    let mut device = FakeDevice::new(1, deployment());
    let record: DeviceRecord = serde_json::from_value(record).unwrap();
    system.database.put(vec![record]).await.unwrap();
    let ticket = system.post("/v1/requests", &device.request(system.nonce().await)).await.unwrap();
    system.settle().await;
    assert_eq!(system.dead().await, 0, "a record is no reason to give up a message");
    let reply = system.poll(&ticket).await;
    let set = reply.status.as_u16() == 200 && device.apply(&system.answer(&ticket).await);
    let issued = system.lanes(&device).await.iter().any(|lane| !lane.candidates().is_empty());
    assert_eq!(set, issued, "{}", reply.body);
    set
}

fn with(pointer: &str, value: Value) -> Value {
    let mut record = written(&FakeDevice::new(1, deployment()));
    *record.pointer_mut(pointer).unwrap() = value;
    record
}

fn key() -> RegisteredKey {
    RegisteredKey::decode(&FakeDevice::new(1, deployment()).record().alternative_security_ids[0].key).unwrap()
}

fn text(key: &RegisteredKey) -> String {
    let bytes = STANDARD.decode(key.encode()).unwrap();
    let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    String::from_utf16(&units.collect::<Vec<_>>()).unwrap()
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

#[tokio::test]
async fn the_record_of_a_trusted_device_is_read() {
    let own = FakeDevice::new(1, deployment());
    assert!(rotates(written(&own)).await);
    let mut more = written(&own);
    let own_key = json!({"type": 2, "identityProvider": null, "key": key().encode()});
    more["alternativeSecurityIds"] = json!([null, 7, {"type": "2"}, {"type": 2, "key": null}, own_key]);
    more["displayName"] = json!(["x"]);
    more["registrationDateTime"] = json!("2026-01-01T00:00:00Z");
    assert!(rotates(more).await, "what nobody can read beside it does no harm");
}

#[tokio::test]
async fn u_03_u_05_keys_that_are_none() {
    let own = text(&key());
    for keys in [
        json!([]),
        json!(null),
        json!("x"),
        json!({}),
        json!([{"type": 2, "key": null}]),
        json!([{"type": 2, "key": "not base64!"}]),
        json!([{"type": 2, "key": STANDARD.encode([0x58, 0x00, 0x35])}]),
        json!([{"type": 2, "key": STANDARD.encode([0x00, 0xd8, 0x00, 0xd8])}]),
        json!([{"type": 2, "key": encoded(own.strip_prefix("X509:<SHA1-TP-PUBKEY>").unwrap())}]),
        json!([{"type": 2, "key": encoded("")}]),
        json!([{"type": 1, "key": key().encode()}]),
        json!([{"key": key().encode()}]),
    ] {
        assert!(!rotates(with("/alternativeSecurityIds", keys.clone())).await, "U-03, U-05: {keys}");
    }
}

#[tokio::test]
async fn u_04_u_06_u_07_keys_that_are_almost_it() {
    let (own, foreign) = (key(), FakeDevice::new(2, deployment()).record());
    let foreign = RegisteredKey::decode(&foreign.alternative_security_ids[0].key).unwrap();
    let entry = |text: &str| json!({"type": 2, "key": encoded(text)});
    let halves = [
        RegisteredKey { key_hash: foreign.key_hash, ..own },
        RegisteredKey { thumbprint: foreign.thumbprint, ..own },
    ];
    let split: Vec<Value> = halves.iter().map(|key| entry(&text(key))).collect();
    assert!(!rotates(with("/alternativeSecurityIds", json!(split))).await, "U-04");

    let own = text(&own);
    let (head, hash) = own.split_at(own.len() - 44);
    let (prefix, thumbprint) = head.split_at(head.len() - 40);
    let lower = format!("{prefix}{}{hash}", thumbprint.to_lowercase());
    assert!(rotates(with("/alternativeSecurityIds", json!([entry(&lower)]))).await, "U-06: hex has no case");
    let swapped: String = hash
        .chars()
        .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    for (id, almost) in [
        ("U-06", format!("{head}{swapped}")),
        ("U-07", format!("{prefix}00{thumbprint}00{hash}")),
        ("U-07", format!("{prefix}{hash}")),
        ("U-07", format!("{prefix}{}", &thumbprint[..38])),
    ] {
        assert!(!rotates(with("/alternativeSecurityIds", json!([entry(&almost)]))).await, "{id}: {almost}");
    }
}

#[tokio::test]
async fn u_08_only_true_is_enabled() {
    for enabled in [json!(null), json!("true"), json!(1), json!(false), json!([true]), json!({"value": true})]
    {
        assert!(!rotates(with("/accountEnabled", enabled.clone())).await, "U-08: {enabled}");
    }
    let mut silent = written(&FakeDevice::new(1, deployment()));
    silent.as_object_mut().unwrap().remove("accountEnabled");
    assert!(!rotates(silent).await, "U-08: missing");
    for joined in [json!(null), json!(7), json!("Workplace"), json!("AzureAd "), json!(["AzureAd"])] {
        assert!(!rotates(with("/trustType", joined.clone())).await, "join type: {joined}");
    }
}

#[tokio::test]
async fn u_01_a_record_about_another_device_is_none_about_this_one() {
    let mut other = written(&FakeDevice::new(2, deployment()));
    other["alternativeSecurityIds"] =
        written(&FakeDevice::new(1, deployment()))["alternativeSecurityIds"].clone();
    assert!(!rotates(other).await, "U-01");
}
