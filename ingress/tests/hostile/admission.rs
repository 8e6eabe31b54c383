//! I-17, I-21 and the two lanes: who is kept out by whom.

use std::time::Duration;

use keyturn_domain::admission::{AdmissionPolicy, Rate};
use keyturn_ingress::Limits;
use keyturn_service::http::Bounds;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::{System, deployment};

use crate::edge::{Edge, with_headers};

/// Answers at once to whoever sends too much, because these tests send much too much.
fn system(admission: AdmissionPolicy) -> System {
    let admission = AdmissionPolicy { pause: Duration::ZERO, ..admission };
    System::with_limits(Faults::none(), Limits::default(), admission)
}

#[tokio::test]
async fn i_21_who_sends_too_much_waits_for_the_answer_and_holds_up_nobody_else() {
    let pause = Duration::from_millis(400);
    let admission =
        AdmissionPolicy { address: Rate::new(1, 1), pause, paused: 2, ..AdmissionPolicy::default() };
    let edge = Edge::with(admission, Bounds::default()).await;
    let send = || edge.send(with_headers("/v1/requests", &[], "x"));
    assert_eq!(send().await.status, 415, "the share of this client");
    let begun = tokio::time::Instant::now();
    let held = async { tokio::join!(send(), send()) };
    let crowd = async {
        tokio::time::sleep(pause / 4).await;
        (send().await, begun.elapsed())
    };
    let ((first, second), (third, crowded)) = tokio::join!(held, crowd);
    assert_eq!([first.status, second.status, third.status], [429; 3]);
    assert!(begun.elapsed() >= pause, "two are held back");
    assert!(crowded < pause, "and a third is answered at once: {crowded:?}");
    assert!(third.head.to_lowercase().contains("connection: close"), "{}", third.head);
    assert!(!first.head.to_lowercase().contains("connection: close"), "{}", first.head);
}

#[tokio::test]
async fn i_17_a_spoofed_hop_makes_no_other_client() {
    let admission = AdmissionPolicy { address: Rate::new(1, 3), ..AdmissionPolicy::default() };
    let mut trusting = admission.clone();
    trusting.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    for (admission, expected) in [(admission, [415, 415, 415, 429, 429]), (trusting, [415; 5])] {
        let edge = Edge::with(admission, Bounds::default()).await;
        let mut statuses = Vec::new();
        for n in 0..5 {
            let hop = format!("X-Forwarded-For: 198.51.100.{n}");
            statuses.push(edge.send(with_headers("/v1/requests", &[&hop], "x")).await.status);
        }
        assert_eq!(statuses, expected, "I-17");
    }
}

#[tokio::test]
async fn i_21_garbage_from_one_address_is_throttled_and_told_when_to_return() {
    let system = system(AdmissionPolicy { address: Rate::new(1, 50), ..AdmissionPolicy::default() });
    let mut waits = Vec::new();
    for n in 0..1000 {
        let reply = system.send("/v1/requests", &format!("{n}.AAAA.AAAA")).await;
        match reply.status.as_u16() {
            400 => assert!(n < 50, "I-21: {n}"),
            status => {
                assert!(status == 429 && reply.body.contains("KT-0109"), "I-21: {}", reply.body);
                waits.push(reply.retry_after.unwrap());
            }
        }
    }
    assert_eq!(waits.len(), 950);
    assert!(waits.iter().all(|wait| (1..=22).contains(wait)), "{waits:?}");
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 10, "a herd is spread: {waits:?}");
    system.clock.advance(Duration::from_secs(2));
    assert_eq!(system.send("/v1/requests", "x").await.status.as_u16(), 400, "and then let in again");
}

/// Strangers use up what strangers have. A device that rotated before is not among them, and no claim to be it
/// takes anything from it.
#[tokio::test]
async fn i_21_strangers_keep_strangers_out_and_nobody_else() {
    let mut system = system(AdmissionPolicy {
        unknown: Rate::new(1, 6),
        unknown_address: Rate::new(1, 6),
        key: Rate::new(1, 3),
        ..AdmissionPolicy::default()
    });
    let mut known = FakeDevice::new(1, deployment());
    system.register(&known).await;
    assert!(system.rotate(&mut known).await);
    // Longer than a key is remembered as a stranger's, and than the buckets take to fill.
    system.clock.advance(Duration::from_secs(10));
    let mut impostor = FakeDevice::with_key(1, 3, deployment());
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let message = impostor.request(system.nonce().await);
        statuses.push(system.send("/v1/requests", &message).await.status.as_u16());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 6, "{statuses:?}");
    let mut newcomer = FakeDevice::new(2, deployment());
    let message = newcomer.request(system.nonce().await);
    assert_eq!(system.send("/v1/requests", &message).await.status.as_u16(), 429, "strangers share a bucket");
    for expected in [202, 202, 202, 429] {
        let message = known.request(system.nonce().await);
        assert_eq!(system.send("/v1/requests", &message).await.status.as_u16(), expected, "its own bucket");
    }
    system.settle().await;
}

/// With more waiting than the depth cap, a message is turned away with a time of its own to come back at.
#[tokio::test]
async fn a_deep_queue_turns_messages_away() {
    let limits = Limits { depth: 0, ..Limits::default() };
    let mut system = System::with_limits(Faults::none(), limits, AdmissionPolicy::default());
    let mut device = FakeDevice::new(1, deployment());
    system.post("/v1/requests", &device.request(system.nonce().await)).await.unwrap();
    system.clock.advance(Duration::from_secs(1));
    let mut waits = Vec::new();
    for _ in 0..20 {
        let reply = system.send("/v1/requests", &device.request(system.nonce().await)).await;
        assert!(reply.status.as_u16() == 503 && reply.body.contains("KT-0111"), "{}", reply.body);
        waits.push(reply.retry_after.unwrap());
    }
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 5 && waits.iter().all(|wait| (10..=30).contains(wait)), "{waits:?}");
    system.settle().await;
}
