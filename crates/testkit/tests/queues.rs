//! W-01 to W-19 of docs/HOSTILE.md: what somebody who can write to the queues can do with it. Nothing, but a dead
//! letter.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::queue::{DeadReason, Leased, NewMessage, Queue as _, QueueName};
use keyturn_ports::vault::VaultReader as _;
use keyturn_schemas::result::Code;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::{System, deployment};
use serde_json::{Value, json};

async fn enrolled(number: u8) -> (System, FakeDevice) {
    let system = System::new(Faults::none());
    let device = FakeDevice::new(number, deployment());
    system.register(&device).await;
    (system, device)
}

/// A message of a device as it stands on a queue. It stays there.
async fn genuine(system: &System, queue: QueueName) -> Leased {
    let leased = system.database.lease(queue, 1, Duration::from_secs(1)).await.unwrap().remove(0);
    system.clock.advance(Duration::from_secs(2));
    leased
}

async fn inject(system: &System, queue: QueueName, device: DeviceId, body: String) {
    let message = NewMessage { request: RequestId::of(&body), device, body };
    system.database.send(queue, vec![message]).await.unwrap();
}

fn changed(body: &str, pointer: &str, value: Value) -> String {
    let mut envelope: Value = serde_json::from_str(body).unwrap();
    *envelope.pointer_mut(pointer).unwrap() = value;
    envelope.to_string()
}

#[tokio::test]
async fn w_01_to_w_16_forged_messages_die_alone() {
    let (mut system, mut device) = enrolled(1).await;
    let ticket = system.post("/v1/requests", &device.request(system.nonce().await)).await.unwrap();
    let request = genuine(&system, QueueName::Requests).await.message.body;
    system.validate().await;
    let finding = genuine(&system, QueueName::Findings).await.message.body;
    let other = json!("00000000-0000-0000-0000-000000000002");
    let without = request.replacen("\"jws\":", "\"other\":", 1);
    let trace = json!("00-0\r\n\u{1b}[31m-0-01");
    let (undecodable, untrusted) = (DeadReason::Undecodable, DeadReason::Untrusted);
    let mut dead = 0;
    for (id, queue, body, reason) in [
        ("W-01", QueueName::Requests, "not JSON".to_owned(), undecodable),
        ("W-01", QueueName::Requests, String::new(), undecodable),
        ("W-01", QueueName::Findings, "\0\0".to_owned(), undecodable),
        ("W-01", QueueName::Outcomes, "[]".to_owned(), undecodable),
        ("W-02", QueueName::Requests, changed(&request, "/data/jws", json!("A".repeat(65_536))), undecodable),
        (
            "W-03",
            QueueName::Requests,
            changed(&request, "/type", json!("keyturn.request.v999")),
            DeadReason::UnsupportedVersion,
        ),
        ("W-05", QueueName::Requests, without, undecodable),
        (
            "W-06",
            QueueName::Findings,
            changed(&finding, "/data/finding/mac", json!(RequestId::of("x").to_string())),
            untrusted,
        ),
        ("W-07", QueueName::Requests, changed(&request, "/subject", other.clone()), untrusted),
        ("W-07", QueueName::Findings, changed(&finding, "/subject", other), untrusted),
        ("W-08", QueueName::Findings, changed(&finding, "/data/finding/enabled", json!(false)), untrusted),
        ("W-08", QueueName::Findings, changed(&finding, "/data/finding/directory_ms", json!(1)), untrusted),
        ("W-13", QueueName::Findings, changed(&finding, "/data/stamp/received_ms", json!(0)), untrusted),
        (
            "W-13",
            QueueName::Findings,
            changed(&finding, "/data/stamp/received_ms", json!(253_402_300_799_000_u64)),
            untrusted,
        ),
        ("W-16", QueueName::Requests, changed(&request, "/traceparent", trace), undecodable),
    ] {
        inject(&system, queue, device.id, body).await;
        system.settle().await;
        dead += 1;
        assert_eq!(system.dead().await, dead, "{id}");
        let letter = system.database.list(None, 1).await.unwrap().remove(0);
        assert_eq!((letter.queue, letter.reason), (queue, reason), "{id}: {:?}", letter.attempts);
    }
    assert!(device.apply(&system.answer(&ticket).await), "the genuine message was not disturbed");
    assert_eq!(system.vault.history(device.id).await.unwrap().len(), 1);
}

/// A stamp that the ingress did not seal gets no version, whatever it says.
#[tokio::test]
async fn w_13_a_stamp_of_another_time_gets_nothing() {
    for received in [json!(0), json!(253_402_300_799_000_u64)] {
        let (mut system, mut device) = enrolled(1).await;
        system.post("/v1/requests", &device.request(system.nonce().await)).await.unwrap();
        let leased =
            system.database.lease(QueueName::Requests, 1, Duration::from_mins(1)).await.unwrap().remove(0);
        let body = changed(&leased.message.body, "/data/stamp/received_ms", received);
        let settled = vec![(leased.receipt, keyturn_ports::queue::Settlement::Complete)];
        let forged = NewMessage { body, ..leased.message };
        system
            .database
            .settle(QueueName::Requests, settled, vec![(QueueName::Requests, forged)])
            .await
            .unwrap();
        system.settle().await;
        assert!(
            system.vault.history(device.id).await.unwrap().is_empty()
                && system.lanes(&device).await.is_empty()
        );
    }
}

#[tokio::test]
async fn w_09_the_same_message_two_hundred_times_is_one() {
    let (mut system, mut device) = enrolled(1).await;
    let ticket = system.post("/v1/requests", &device.request(system.nonce().await)).await.unwrap();
    let message = genuine(&system, QueueName::Requests).await.message;
    system.database.send(QueueName::Requests, vec![message; 200]).await.unwrap();
    system.settle().await;
    assert!(device.apply(&system.answer(&ticket).await));
    assert_eq!((system.vault.history(device.id).await.unwrap().len(), system.dead().await), (1, 0));
}

#[tokio::test]
async fn w_11_a_report_of_another_devices_version_confirms_nothing() {
    let (mut system, mut one) = enrolled(1).await;
    let mut two = FakeDevice::new(2, deployment());
    system.register(&two).await;
    assert!(system.rotate(&mut one).await);
    let before = system.lanes(&one).await;
    let ticket = system.post("/v1/requests", &two.request(system.nonce().await)).await.unwrap();
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Rotate);
    let stolen = one.version.unwrap();
    two.journal.setting(stolen);
    two.journal.proved(stolen, Some(1));
    system.post("/v1/reports", &two.report(system.nonce().await)).await.unwrap();
    system.settle().await;
    assert_eq!(system.lanes(&one).await, before, "untouched");
    assert!(system.lanes(&two).await.iter().all(|lane| lane.confirmed.is_none()));
}

#[tokio::test]
async fn w_12_an_older_report_changes_nothing() {
    let (mut system, mut device) = enrolled(1).await;
    assert!(system.rotate(&mut device).await);
    let late = device.report(system.nonce().await);
    system.force(&device).await;
    assert!(system.rotate(&mut device).await);
    let before = system.lanes(&device).await;
    let ticket = system.post("/v1/reports", &late).await.unwrap();
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Stale);
    assert_eq!(system.lanes(&device).await, before);
}

/// A replay brings back message and stamp as they were, so what has expired stays expired.
#[tokio::test]
async fn w_18_what_expired_stays_expired() {
    let (mut system, mut device) = enrolled(1).await;
    let ticket = system.post("/v1/requests", &device.request(system.nonce().await)).await.unwrap();
    system.clock.advance(Duration::from_hours(2));
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Expired);
    assert!(system.vault.history(device.id).await.unwrap().is_empty());
}
