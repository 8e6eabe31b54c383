//! T-01 to T-08: polling.

use std::time::Duration;

use keyturn_domain::admission::{AdmissionPolicy, Rate};
use keyturn_ingress::Limits;
use keyturn_testkit::device::FakeDevice;
use keyturn_testkit::faults::Faults;
use keyturn_testkit::system::{System, deployment};
use tokio::io::AsyncWriteExt as _;

use crate::edge::{Edge, post, read};

#[tokio::test]
async fn t_01_t_02_what_is_no_ticket_of_ours_is_unknown_whatever_it_is() {
    let edge = Edge::open().await;
    let foreign = format!("01{}", "A".repeat(64));
    let mut bodies = Vec::new();
    for (id, ticket) in [
        ("T-01", foreign.as_str()),
        ("T-02", "x"),
        ("T-02", "%00"),
        ("T-02", "01%2f%2e"),
        ("T-02", &"A".repeat(4096)),
        ("T-02", &format!("zz{}", "A".repeat(64))),
        ("T-02", &format!("01{}", "+".repeat(64))),
    ] {
        let reply = edge.send(format!("GET /v1/requests/{ticket} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        reply.is(id, 404, "KT-0110");
        bodies.push(reply.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let long = format!("GET /v1/requests/{} HTTP/1.1\r\nHost: x\r\n\r\n", "A".repeat(10 * 1024));
    assert_eq!(edge.send(long).await.status, 431, "T-02");
}

#[tokio::test]
async fn t_03_t_08_guesses_and_hammering_are_throttled() {
    let admission = AdmissionPolicy {
        poll: Rate::new(1, 100),
        ticket: Rate::new(1, 5),
        pause: Duration::ZERO,
        ..AdmissionPolicy::default()
    };
    let system = System::with_limits(Faults::none(), Limits::default(), admission);
    let message = FakeDevice::new(1, deployment()).request(system.nonce().await);
    let ticket = system.post("/v1/requests", &message).await.unwrap();
    for (id, guess, granted, otherwise) in
        [("T-08", ticket.clone(), 5, 202), ("T-03", format!("01{}", "A".repeat(64)), 80, 404)]
    {
        let mut throttled = 0;
        for _ in 0..90 {
            let reply = system.poll(&guess).await;
            match reply.status.as_u16() {
                429 => {
                    assert!(
                        reply.body.contains("KT-0109") && reply.retry_after.unwrap() >= 1,
                        "{id}: {reply:?}"
                    );
                    throttled += 1;
                }
                status => assert_eq!(status, otherwise, "{id}: {}", reply.body),
            }
        }
        assert!(throttled >= 90 - granted, "{id}: {throttled}");
    }
}

#[tokio::test]
async fn t_04_t_05_a_ticket_leads_to_what_is_sealed_and_nothing_else() {
    let mut system = System::new(Faults::none());
    let mut device = FakeDevice::new(1, deployment());
    system.register(&device).await;
    let request = device.request(system.nonce().await);
    let ticket = system.post("/v1/requests", &request).await.unwrap();
    let early = system.poll(&ticket).await;
    assert_eq!((early.status.as_u16(), early.retry_after), (202, Some(1)), "T-04: {}", early.body);
    system.settle().await;
    let reply = system.poll(&ticket).await;
    assert!(device.apply(&system.answer(&ticket).await));
    let password = device.account.as_ref().unwrap().expose();
    assert!(reply.status.as_u16() == 200 && !reply.body.contains(password), "T-05");
}

/// The second long-poll of a client that may hold one is answered at once, the first one still waits.
#[tokio::test]
async fn one_client_holds_only_so_many_long_polls() {
    let admission = AdmissionPolicy { polls_per_address: 1, ..AdmissionPolicy::default() };
    let edge = Edge::with(admission, keyturn_service::http::Bounds::default()).await;
    let message = FakeDevice::new(1, deployment()).request(edge.system.nonce().await);
    let reply = edge.send(post("/v1/requests", &message)).await;
    let place = reply.header("location").unwrap();
    // The ticket is told in the body as it is written; the head was read in lower case.
    let ticket: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert!(place.starts_with("/v1/requests/"));
    let ask = format!(
        "GET /v1/requests/{} HTTP/1.1\r\nHost: x\r\nPrefer: wait=30\r\n\r\n",
        ticket["ticket"].as_str().unwrap()
    );
    let (mut one, mut two) = (edge.connect().await, edge.connect().await);
    one.write_all(ask.as_bytes()).await.unwrap();
    two.write_all(ask.as_bytes()).await.unwrap();
    let answered = tokio::select! {
        reply = read(&mut one) => reply,
        reply = read(&mut two) => reply,
    };
    assert_eq!(answered.unwrap().status, 202);
}
