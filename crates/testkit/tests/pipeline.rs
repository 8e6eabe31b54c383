//! The whole pipeline, in one process: what devices get, and what becomes of what they should not get.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use keyturn_domain::ids::{GroupId, RequestId};
use keyturn_domain::lane::RotationPolicy;
use keyturn_domain::password::{Complexity, Password, PasswordPolicy};
use keyturn_domain::policies::{Group, Members, Policies, Policy};
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::directory::DirectoryAdmin as _;
use keyturn_ports::ledger::{Happening, LedgerReader as _};
use keyturn_ports::queue::{DeadReason, NewMessage, Queue as _, QueueName};
use keyturn_ports::vault::VaultReader as _;
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::result::Code;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::{Faults, Mode};
use keyturn_testkit::system::{System, deployment};

async fn enrolled(number: u8) -> (System, FakeDevice) {
    let system = System::new(Faults::none());
    let device = FakeDevice::new(number, deployment());
    system.register(&device).await;
    (system, device)
}

/// Two rotations, whatever single call goes wrong: the account's password is the one candidate, and exactly two
/// versions were ever made.
async fn two_rotations(mut system: System) {
    let mut device = FakeDevice::new(1, deployment());
    system.register(&device).await;
    for made in 1..=2 {
        assert!(system.rotate(&mut device).await);
        let shown = system.confirmed(&device).await;
        assert_eq!(Some(shown.expose()), device.account.as_ref().map(Password::expose));
        assert_eq!(system.vault.history(device.id).await.unwrap().len(), made, "versions made");
        system.force(&device).await;
    }
    assert_eq!(system.dead().await, 0);
}

#[tokio::test]
async fn a_device_rotates_and_rotates_again() {
    two_rotations(System::new(Faults::none())).await;
}

/// A group's policy makes its devices' passwords and sets their pace, and nobody else's.
#[tokio::test]
async fn a_device_comes_under_the_policy_of_its_group() {
    let daily = RotationPolicy { update_frequency: Duration::from_hours(24), ..RotationPolicy::default() };
    let words = PasswordPolicy::windows_laps(Complexity::ShortWords, 14, 6, Some('-')).unwrap();
    let mut devices = [1, 2].map(|number| FakeDevice::new(number, deployment()));
    let members = Members { devices: Some([devices[0].id].into()), ..Members::default() };
    let policy = Policy { passwords: words, rotation: daily };
    let default = Policy { passwords: PasswordPolicy::default(), rotation: RotationPolicy::default() };
    let group = Group { name: "kiosks".to_owned(), members, policy };
    let mut system = System::with_policies(Faults::none(), &Policies::new(default, vec![group]).unwrap());
    for (device, hyphens) in devices.iter_mut().zip([5, 0]) {
        system.register(device).await;
        assert!(system.rotate(device).await);
        let shown = system.confirmed(device).await;
        assert_eq!(shown.expose().len() == 16, hyphens == 0);
        assert!(hyphens == 0 || shown.expose().matches('-').count() >= hyphens);
    }
    system.clock.advance(Duration::from_hours(25));
    assert!(system.rotate(&mut devices[0]).await, "due after a day");
    assert!(!system.rotate(&mut devices[1]).await, "not due before three");
}

/// The directory says who is in a group, and from the next request on that is what counts.
#[tokio::test]
async fn a_device_comes_under_the_policy_of_its_group_in_the_directory() {
    let [kiosks, other] = [1, 2].map(|number| GroupId::from_bytes([number; 16]));
    let words = PasswordPolicy::windows_laps(Complexity::ShortWords, 14, 6, Some('-')).unwrap();
    let hourly = RotationPolicy { update_frequency: Duration::from_hours(1), ..RotationPolicy::default() };
    let members = Members { groups: Some([kiosks].into()), ..Members::default() };
    let policy = Policy { passwords: words, rotation: hourly };
    let default = Policy { passwords: PasswordPolicy::default(), rotation: RotationPolicy::default() };
    let group = Group { name: "kiosks".to_owned(), members, policy };
    let mut system = System::with_policies(Faults::none(), &Policies::new(default, vec![group]).unwrap());
    let mut device = FakeDevice::new(1, deployment());
    for (member, of_words) in [(vec![other, kiosks], true), (vec![other], false), (vec![kiosks], true)] {
        system.join(&device, &member).await;
        system.force(&device).await;
        assert!(system.rotate(&mut device).await);
        let shown = system.confirmed(&device).await;
        assert_eq!(shown.expose().len() != 16, of_words, "{member:?}");
        system.clock.advance(Duration::from_mins(61));
        assert_eq!(system.rotate(&mut device).await, of_words, "a member is due after an hour");
        system.clock.advance(Duration::from_hours(25));
    }
}

/// Every call to an engine goes wrong once, in every way, at every point of two whole rotations.
async fn every_call_goes_wrong(system: impl Fn(Arc<Faults>) -> System) -> usize {
    let counting = Faults::none();
    two_rotations(system(Arc::clone(&counting))).await;
    let calls = counting.calls();
    for mode in Mode::ALL {
        for call in 1..=calls {
            two_rotations(system(Faults::at(call, mode))).await;
        }
    }
    calls
}

#[tokio::test]
async fn no_single_failure_or_death_does_harm() {
    let calls = every_call_goes_wrong(System::new).await;
    assert!(calls > 20, "the rotations made {calls} calls");
}

/// A service that signs is one more engine: it may fail or its caller die before and after it signed, when the version is
/// in the vault and nobody was told of it.
#[tokio::test]
async fn no_single_failure_or_death_does_harm_where_a_service_signs() {
    let here = Faults::none();
    two_rotations(System::new(Arc::clone(&here))).await;
    let calls = every_call_goes_wrong(System::signed_elsewhere).await;
    assert!(calls >= here.calls() + 4, "a request and a report of each rotation were signed: {calls} calls");
}

#[tokio::test]
async fn the_same_bytes_are_merged_and_the_same_mark_is_refused() {
    refuses_the_same_mark(System::new(Faults::none())).await;
    refuses_the_same_mark(System::signed_elsewhere(Faults::none())).await;
}

async fn refuses_the_same_mark(mut system: System) {
    let mut device = FakeDevice::new(1, deployment());
    system.register(&device).await;
    let request = device.request(system.nonce().await);
    let ticket = system.post("/v1/requests", &request).await.unwrap();
    system.settle().await;
    system.clock.advance(Duration::from_mins(10));
    for _ in 0..50 {
        assert_eq!(system.post("/v1/requests", &request).await.unwrap(), ticket, "stale but known");
    }
    system.settle().await;
    assert_eq!(system.vault.history(device.id).await.unwrap().len(), 1);

    let mut claims = SignedMessage::parse(request).unwrap().claims().clone();
    if let Claims::Request(request) = &mut claims {
        request.common.nonce = system.nonce().await;
        request.wait_s += 1;
    }
    let forged = device.sign(&claims);
    let ticket = system.post("/v1/requests", &forged).await.unwrap();
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Refused);
}

#[tokio::test]
async fn a_request_that_was_overtaken_is_stale() {
    let (mut system, mut device) = enrolled(1).await;
    let early = system.nonce().await;
    assert!(system.rotate(&mut device).await);
    let late = device.request(early);
    let ticket = system.post("/v1/requests", &late).await.unwrap();
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Stale);
}

#[tokio::test]
async fn a_second_request_before_the_report_gets_the_same_version() {
    let (mut system, mut device) = enrolled(1).await;
    let mut versions = Vec::new();
    for _ in 0..3 {
        let request = device.request(system.nonce().await);
        let ticket = system.post("/v1/requests", &request).await.unwrap();
        system.settle().await;
        versions.push(system.answer(&ticket).await.enclosed.unwrap().version);
    }
    versions.dedup();
    assert_eq!(versions.len(), 1);
}

#[tokio::test]
async fn a_rotation_is_due_when_the_password_is_old() {
    let (mut system, mut device) = enrolled(1).await;
    assert!(system.rotate(&mut device).await);
    assert!(!system.rotate(&mut device).await, "not due");
    system.clock.advance(Duration::from_hours(72));
    assert!(system.rotate(&mut device).await, "due");
}

#[tokio::test]
async fn devices_that_are_not_trusted_get_nothing_and_others_stay_untouched() {
    let (mut system, mut honest) = enrolled(1).await;
    assert!(system.rotate(&mut honest).await);
    let before = system.lanes(&honest).await;

    let mut unknown = FakeDevice::new(2, deployment());
    let mut impostor = FakeDevice::with_key(1, 3, deployment());
    let mut bodies = Vec::new();
    for device in [&mut unknown, &mut impostor] {
        let request = device.request(system.nonce().await);
        let ticket = system.post("/v1/requests", &request).await.unwrap();
        system.settle().await;
        let reply = system.poll(&ticket).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert!(reply.body.contains("KT-0201"), "{}", reply.body);
        bodies.push(reply.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "all refusals before the proof are alike");

    system.database.enable(honest.id, false).await.unwrap();
    let request = honest.request(system.nonce().await);
    let ticket = system.post("/v1/requests", &request).await.unwrap();
    system.settle().await;
    assert_eq!(
        system.answer(&ticket).await.code,
        Code::Refused,
        "proved to be itself, so the refusal is signed"
    );
    assert_eq!(system.lanes(&honest).await, before);
}

#[tokio::test]
async fn a_report_of_a_disabled_device_still_counts() {
    let (mut system, mut device) = enrolled(1).await;
    let request = device.request(system.nonce().await);
    let ticket = system.post("/v1/requests", &request).await.unwrap();
    system.settle().await;
    assert!(device.apply(&system.answer(&ticket).await));
    system.database.enable(device.id, false).await.unwrap();
    let report = device.report(system.nonce().await);
    let ticket = system.post("/v1/reports", &report).await.unwrap();
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Recorded);
    assert_eq!(system.confirmed(&device).await.expose(), device.account.as_ref().unwrap().expose());
}

#[tokio::test]
async fn an_event_reaches_the_timeline() {
    let (mut system, mut device) = enrolled(1).await;
    let event = device.event(system.nonce().await, "PasswordRotated");
    system.post("/v1/events", &event).await.unwrap();
    system.settle().await;
    let timeline = system.database.timeline(device.id, 10).await.unwrap();
    let told =
        |what: &Happening| matches!(what, Happening::Client { result, .. } if result == "PasswordRotated");
    assert!(timeline.iter().any(|event| told(&event.what)), "{timeline:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_message_is_said_before_anything_is_enqueued() {
    let (system, mut device) = enrolled(1).await;
    let good = device.request(system.nonce().await);
    let (input, _) = good.rsplit_once('.').unwrap();
    let flipped = format!("{input}.{}", "A".repeat(342));
    let stale = device.request(system.nonce().await);
    for (path, message, status, code) in [
        ("/v1/requests", "not a message", StatusCode::BAD_REQUEST, "KT-0101"),
        ("/v1/requests", "", StatusCode::BAD_REQUEST, "KT-0101"),
        ("/v1/reports", good.as_str(), StatusCode::BAD_REQUEST, "KT-0101"),
        ("/v1/requests", &flipped, StatusCode::FORBIDDEN, "KT-0106"),
        ("/v1/requests", &"A".repeat(16 * 1024 + 1), StatusCode::PAYLOAD_TOO_LARGE, "KT-0103"),
        ("/v1/nowhere", "", StatusCode::NOT_FOUND, "KT-0105"),
        ("/v1/nonce", "", StatusCode::METHOD_NOT_ALLOWED, "KT-0104"),
    ] {
        let reply = system.post(path, message).await.unwrap_err();
        assert_eq!(reply.status, status, "{path} {}", reply.body);
        assert!(reply.body.contains(code), "{path} {}", reply.body);
    }
    system.clock.advance(Duration::from_mins(6));
    let reply = system.post("/v1/requests", &stale).await.unwrap_err();
    assert!(reply.status == StatusCode::UNAUTHORIZED && reply.body.contains("KT-0108"), "{}", reply.body);
    let mut foreign = FakeDevice::new(1, "other".parse().unwrap());
    let reply = system.post("/v1/requests", &foreign.request(system.nonce().await)).await.unwrap_err();
    assert!(reply.body.contains("KT-0107"), "{}", reply.body);
    assert_eq!(system.database.depth(QueueName::Requests).await.unwrap().total, 0);
    for ticket in ["x", "01", &"0".repeat(66), &format!("01{}", "A".repeat(64))] {
        assert_eq!(system.poll(ticket).await.status, StatusCode::NOT_FOUND, "{ticket}");
    }
}

#[tokio::test]
async fn messages_written_by_others_are_dead_lettered_alone() {
    let (mut system, mut device) = enrolled(1).await;
    let request = device.request(system.nonce().await);
    let ticket = system.post("/v1/requests", &request).await.unwrap();
    let genuine =
        system.database.lease(QueueName::Requests, 1, Duration::from_secs(1)).await.unwrap().remove(0);
    system.clock.advance(Duration::from_secs(2));
    let body = genuine.message.body;
    let rid = genuine.message.request;
    let seal = format!(
        "\"finding\":{{\"rid\":\"{rid}\",\"key_hash\":\"{rid}\",\"enabled\":true,\"failed\":null,\"directory_ms\":1,\
         \"key\":1,\"mac\":\"{rid}\"}},\"stamp\":"
    );
    let finding = body.replace("keyturn.request.v1", "keyturn.finding.v1").replace("\"stamp\":", &seal);
    for (queue, body, reason) in [
        (QueueName::Requests, "not JSON".to_owned(), DeadReason::Undecodable),
        (QueueName::Requests, body.replace("request.v1", "request.v999"), DeadReason::UnsupportedVersion),
        (QueueName::Requests, body.replace("\"jws\":\"", "\"jws\":\"x"), DeadReason::Undecodable),
        (QueueName::Findings, finding, DeadReason::Untrusted),
        (QueueName::Outcomes, "{}".to_owned(), DeadReason::Undecodable),
    ] {
        let message = NewMessage { request: RequestId::of(&body), device: device.id, body };
        system.database.send(queue, vec![message]).await.unwrap();
        system.settle().await;
        let letter = system.database.list(None, 1).await.unwrap().remove(0);
        assert_eq!((letter.queue, letter.reason), (queue, reason), "{:?}", letter.attempts);
    }
    assert_eq!(system.dead().await, 5);
    assert!(device.apply(&system.answer(&ticket).await), "the genuine message was not disturbed");
}

#[tokio::test]
async fn a_finding_that_waited_is_looked_at_again_and_a_request_that_waited_longer_is_expired() {
    for (minutes, expected) in [(11, Code::Rotate), (16, Code::Expired)] {
        let (mut system, mut device) = enrolled(1).await;
        let request = device.request(system.nonce().await);
        let ticket = system.post("/v1/requests", &request).await.unwrap();
        system.validate().await;
        system.clock.advance(Duration::from_mins(minutes));
        system.settle().await;
        assert_eq!(system.answer(&ticket).await.code, expected, "after {minutes} minutes");
    }
}

#[tokio::test]
async fn a_device_that_is_disabled_while_its_finding_waits_gets_nothing() {
    let (mut system, mut device) = enrolled(1).await;
    let request = device.request(system.nonce().await);
    let ticket = system.post("/v1/requests", &request).await.unwrap();
    system.validate().await;
    system.database.enable(device.id, false).await.unwrap();
    system.clock.advance(Duration::from_mins(11));
    system.settle().await;
    assert_eq!(system.answer(&ticket).await.code, Code::Refused);
    assert!(system.vault.history(device.id).await.unwrap().is_empty());
}
