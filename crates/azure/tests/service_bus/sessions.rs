//! Queues that require sessions: the same contract, and what sessions are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use keyturn_azure::ServiceBus;
use keyturn_azure::service_bus::SessionSettings;
use keyturn_domain::ids::{DeviceId, RequestId};
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::queue::{DeadReason, NewMessage, Queue as _, Settlement};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::{Subject, sample};
use serde_json::{Value, json};

use crate::server::{Deployment, usual};
use crate::{LEASE, ON, QUEUE, later, lease_one, settle};

/// A deployment whose queues require sessions.
struct WithSessions(Deployment);

const SESSIONS: SessionSettings = SessionSettings { held: 8, idle: Duration::from_millis(50) };

fn given() -> Value {
    json!({ "lockMs": 60_000, "maxDelivery": 2000, "dedupMs": 600_000, "sessions": true })
}

fn deployment() -> Deployment {
    Deployment::having(&given(), Some(SESSIONS))
}

impl Subject for WithSessions {
    type Engine = ServiceBus;

    async fn fresh() -> Self {
        Self(deployment())
    }

    fn engine(&self) -> &ServiceBus {
        &self.0.queues
    }

    fn clock(&self) -> &ManualClock {
        &self.0.clock
    }
}

keyturn_testkit::conformance!(queue_with_strict_leases, WithSessions);

/// Message `n` of a device.
fn of(device: u8, n: u8) -> NewMessage {
    let request = RequestId([[device; 16], [n; 16]].concat().try_into().unwrap());
    NewMessage { request, device: DeviceId::from_bytes([device; 16]), body: n.to_string() }
}

async fn complete(queues: &ServiceBus, leased: &keyturn_ports::queue::Leased) {
    assert_eq!(settle(queues, leased, Settlement::Complete).await, []);
}

/// Who works on which device at the moment, and what was done of each, in this order.
#[derive(Default)]
struct Seen {
    busy: Mutex<BTreeSet<DeviceId>>,
    done: Mutex<BTreeMap<DeviceId, Vec<u8>>>,
}

/// Workers side by side and many messages of few devices: of one device never two at once, and each in its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_handled_by_one_worker_at_a_time_and_in_order() {
    const DEVICES: u8 = 5;
    const EACH: u8 = 24;
    let deployment = deployment();
    for n in 0..EACH {
        // Spread out, so that neighbours on the queue are of different devices.
        deployment.queues.send(QUEUE, (0..DEVICES).map(|device| of(device, n)).collect()).await.unwrap();
    }
    let seen = Seen::default();
    let work = async || {
        let (queues, mut done) = (deployment.sibling(), 0);
        loop {
            let leased = queues.lease(QUEUE, 3, LEASE).await.unwrap();
            if leased.is_empty() {
                return done;
            }
            for one in &leased {
                assert!(
                    seen.busy.lock().unwrap().insert(one.message.device),
                    "two at once of {:?}",
                    one.message
                );
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
            for one in &leased {
                let mut all = seen.done.lock().unwrap();
                all.entry(one.message.device).or_default().push(one.message.body.parse().unwrap());
                assert!(seen.busy.lock().unwrap().remove(&one.message.device));
            }
            done += leased.len();
            let settled = leased.iter().map(|one| (one.receipt.clone(), Settlement::Complete)).collect();
            assert_eq!(queues.settle(QUEUE, settled, Vec::new()).await.unwrap(), []);
        }
    };
    let (one, two) = tokio::join!(work(), work());
    assert_eq!(one + two, usize::from(DEVICES) * usize::from(EACH), "every message once");
    assert!(one > 0 && two > 0, "both worked: {one} and {two}");
    for (device, done) in seen.done.into_inner().unwrap() {
        assert_eq!(done, (0..EACH).collect::<Vec<_>>(), "{device}");
    }
}

/// Until the link that a lease left waiting for a session has ended, and every session without work was given back. Both
/// are times of this process, and no clock but the real one tells it to.
async fn a_link_waits_no_more() {
    tokio::time::sleep(Duration::from_millis(700)).await;
}

/// While one message of a device is out, the others wait, whoever asks; then they come one by one.
#[tokio::test]
async fn the_next_message_of_a_device_comes_when_the_one_before_is_settled() {
    let deployment = deployment();
    let (first, other) = (&deployment.queues, deployment.sibling());
    first.send(QUEUE, vec![of(1, 1), of(1, 2), of(1, 3)]).await.unwrap();
    let one = lease_one(first).await;
    for queues in [first, &other] {
        assert!(queues.lease(QUEUE, 9, LEASE).await.unwrap().is_empty(), "the device is in hand");
    }
    // Put off at once, it is the first again.
    let retry = Settlement::Retry { after: Duration::ZERO, error: "again".to_owned() };
    assert_eq!(settle(first, &one, retry).await, []);
    let again = lease_one(first).await;
    assert_eq!((&again.message, again.deliveries), (&of(1, 1), 2));
    complete(first, &again).await;
    let two = lease_one(first).await;
    assert_eq!(two.message, of(1, 2));
    complete(first, &two).await;
    // Without a message for a while the session is given back, and another worker gets the rest.
    let three = lease_one(first).await;
    assert_eq!(settle(first, &three, later()).await, []);
    a_link_waits_no_more().await;
    deployment.clock.advance(Duration::from_secs(30));
    let three = lease_one(&other).await;
    assert_eq!((&three.message, three.deliveries), (&of(1, 3), 2));
    complete(&other, &three).await;
    assert_eq!(first.depth(QUEUE).await.unwrap().total, 0);
}

/// A session whose lock ran out, or whose connection broke, is a lost lease: nothing is settled under it any more.
#[tokio::test]
async fn a_session_that_was_lost_is_a_lost_lease() {
    let deployment = deployment();
    let (queues, other) = (&deployment.queues, deployment.sibling());
    queues.send(QUEUE, vec![of(1, 1), of(1, 2)]).await.unwrap();
    let lost = lease_one(queues).await;
    a_link_waits_no_more().await;
    deployment.clock.advance(LEASE);
    let taken = lease_one(&other).await;
    assert_eq!((&taken.message, taken.deliveries), (&of(1, 1), 2));
    for settlement in [later(), Settlement::Release, Settlement::Complete] {
        assert_eq!(settle(queues, &lost, settlement).await, std::slice::from_ref(&lost.receipt));
    }
    complete(&other, &taken).await;
    let second = lease_one(&other).await;
    assert_eq!(second.message, of(1, 2));
    // The connection goes, and with it the session; the same process may get it again, under another lock.
    deployment.fake.drop_links();
    let mut again = Vec::new();
    for _ in 0..5 {
        again = other.lease(QUEUE, 9, LEASE).await.unwrap();
        if !again.is_empty() {
            break;
        }
    }
    let [again] = again.as_slice() else { panic!("it comes again: {again:?}") };
    assert_eq!((&again.message, again.deliveries), (&of(1, 2), 2));
    let receipt = || vec![second.receipt.clone()];
    assert_eq!(other.renew(QUEUE, receipt(), LEASE).await.unwrap(), receipt(), "the old receipt is void");
    assert_eq!(settle(&other, &second, Settlement::Complete).await, receipt());
    complete(&other, again).await;
    assert_eq!(queues.depth(QUEUE).await.unwrap().total, 0);
}

/// A connection that breaks before or after each kind of step: nothing is lost, and what was done is done once.
#[tokio::test]
async fn links_that_drop_lose_and_double_nothing() {
    let deployment = deployment();
    let queues = &deployment.queues;
    for (step, how) in [
        ("deliver", "before"),
        ("deliver", "after"),
        ("renew-session-lock", "before"),
        ("renew-session-lock", "after"),
        ("schedule-message", "before"),
        ("schedule-message", "after"),
        ("update-disposition", "before"),
        ("update-disposition", "after"),
    ] {
        // Before it is sent: whoever waits on a link of before is given it at once.
        deployment.fake.fault(step, how, 1);
        queues.send(QUEUE, vec![of(1, 1)]).await.unwrap();
        let mut tries = 0;
        while queues.depth(QUEUE).await.unwrap().total > 0 {
            for leased in queues.lease(QUEUE, 9, LEASE).await.unwrap() {
                assert_eq!(leased.message, of(1, 1), "{step} {how}");
                queues.renew(QUEUE, vec![leased.receipt.clone()], LEASE).await.unwrap();
                let retry = leased.deliveries < 3 && step == "schedule-message";
                let end = if retry { later() } else { Settlement::Complete };
                settle(queues, &leased, end).await;
            }
            deployment.clock.advance(LEASE);
            tries += 1;
            assert!(tries < 20, "{step} {how}: {}", deployment.fake.look(ON));
        }
        assert_eq!(deployment.fake.look(ON)["faults"], 0, "{step} {how} was met");
    }
}

#[tokio::test]
async fn messages_of_sessions_die_into_the_index_once() {
    let deployment = deployment();
    let Deployment { queues, state, clock, fake, .. } = &deployment;
    queues.send(QUEUE, vec![sample::message(1), sample::message(2)]).await.unwrap();
    let leased = queues.lease(QUEUE, 9, LEASE).await.unwrap();
    assert_eq!(leased.len(), 2);
    let dead = || Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "the end".to_owned() };
    assert_eq!(settle(queues, &leased[0], dead()).await, []);
    assert_eq!(settle(queues, &leased[0], dead()).await.len(), 1, "it dies once");
    complete(queues, &leased[1]).await;
    clock.advance(LEASE);
    assert!(queues.lease(QUEUE, 9, LEASE).await.unwrap().is_empty());
    let letters = state.list(None, 9).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].message, leased[0].message);
    assert_eq!(fake.look(ON)["dead"][0]["properties"]["DeadLetterReason"], "exhausted");
    assert_eq!(queues.depth(QUEUE).await.unwrap().dead, 1);

    // What the service gives up by itself is found beside a queue with sessions too.
    let strict = json!({ "lockMs": 60_000, "maxDelivery": 1, "sessions": true });
    let deployment = Deployment::having(&strict, Some(SESSIONS));
    deployment.queues.send(QUEUE, vec![sample::message(3)]).await.unwrap();
    lease_one(&deployment.queues).await;
    deployment.clock.advance(LEASE);
    assert!(deployment.queues.lease(QUEUE, 9, LEASE).await.unwrap().is_empty());
    let letters = deployment.state.list(None, 9).await.unwrap();
    assert_eq!(letters.iter().map(|letter| &letter.message).collect::<Vec<_>>(), [&sample::message(3)]);
}

/// A queue that requires sessions and settings that do not say so, and the other way around, are told apart from a queue
/// that is away, with what to mend.
#[tokio::test]
async fn settings_that_do_not_agree_with_the_queues_are_told() {
    let (without, with) = (Deployment::having(&given(), None), Deployment::having(&usual(), Some(SESSIONS)));
    for deployment in [&without, &with] {
        let asked = deployment.queues.agrees(QUEUE).await.unwrap_err().to_string();
        assert!(asked.contains("queues.service_bus.sessions"), "{asked}");
        let leased = deployment.queues.lease(QUEUE, 9, LEASE).await.unwrap_err().to_string();
        assert!(leased.contains("queues.service_bus.sessions"), "{leased}");
    }
    let (without, with) = (Deployment::with(&usual()), deployment());
    for deployment in [&without, &with] {
        deployment.queues.agrees(QUEUE).await.unwrap();
        deployment.queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
        deployment.queues.agrees(QUEUE).await.unwrap();
        assert_eq!(lease_one(&deployment.queues).await.deliveries, 1, "asking takes no message");
    }
}

/// No more sessions than the settings say, and the others are for others.
#[tokio::test]
async fn a_process_has_so_many_sessions_and_no_more() {
    let few = SessionSettings { held: 2, ..SESSIONS };
    let deployment = Deployment::having(&given(), Some(few));
    deployment.queues.send(QUEUE, (1..=5).map(|device| of(device, 1)).collect()).await.unwrap();
    let mine = deployment.queues.lease(QUEUE, 9, LEASE).await.unwrap();
    assert_eq!(mine.len(), 2);
    let theirs = deployment.sibling().lease(QUEUE, 9, LEASE).await.unwrap();
    assert_eq!(theirs.len(), 2);
    let devices: BTreeSet<DeviceId> = mine.iter().chain(&theirs).map(|one| one.message.device).collect();
    assert_eq!(devices.len(), 4);
}
