//! Alarms to receivers that fail in every way, over real sockets and through the real queue. The clock is ticked by
//! hand, so the retries of three days take no time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod house;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;

use keyturn_domain::ids::EventId;
use keyturn_domain::lane::Alarm;
use keyturn_pipeline::worker::Worker;
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::queue::{DeadReason, NewMessage, Queue as _, QueueName};
use keyturn_schemas::alarm::{ID, SIGNATURE, TIMESTAMP, WebhookSecrets};
use keyturn_testkit::conformance::sample;
use keyturn_testkit::receiver::{Act, Receiver};

use crate::house::{GIVE_UP, House, LONGEST, SECRET, id};

fn ids(receiver: &Receiver) -> Vec<String> {
    receiver.heard().iter().map(|delivery| delivery.header(ID).to_owned()).collect()
}

#[tokio::test]
async fn an_alarm_is_told_signed_and_once() {
    let receiver = Receiver::start().await;
    let house = House::new(&[("on-call", receiver.url(), &Alarm::ALL)]);
    house.raise(1, 7, Alarm::Clone).await;
    house.work().await;
    house.later().await;
    let heard = receiver.heard();
    let [delivery] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((delivery.header("content-type"), delivery.header(ID)), ("application/json", id(1).as_str()));
    let at = delivery.header(TIMESTAMP).parse().unwrap();
    let signature = WebhookSecrets::parse(SECRET).unwrap().signature(EventId([1; 16]), at, &delivery.body);
    assert_eq!(delivery.header(SIGNATURE), signature);
    let body: serde_json::Value = serde_json::from_str(&delivery.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["alarm"]), (&"keyturn.alarm.clone".into(), &"clone".into()));
    assert_eq!(body["data"]["device_id"], sample::device(7).to_string());
    assert_eq!((house.undelivered().await, house.dead().await.len()), (0, 0));
}

/// Every way to fail that may pass: the same alarm comes again under the same id, until it is taken.
#[tokio::test]
async fn whatever_is_not_taken_comes_again_under_its_id() {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let failures = [
        Act::Answer(500),
        Act::Answer(503),
        Act::Answer(429),
        Act::Answer(404),
        Act::Answer(401),
        Act::Redirect(elsewhere.url()),
        Act::Hang,
        Act::Close,
    ];
    receiver.script(failures.clone());
    let house = House::new(&[("on-call", receiver.url(), &Alarm::ALL)]);
    house.raise(1, 7, Alarm::RolledBack).await;
    house.work().await;
    for _ in &failures {
        assert_eq!(house.undelivered().await, 1);
        house.later().await;
    }
    assert_eq!(ids(&receiver), vec![id(1); failures.len() + 1]);
    assert!(elsewhere.heard().is_empty(), "a redirect is not followed");
    assert_eq!((house.undelivered().await, house.dead().await.len()), (0, 0));
}

/// A receiver that answers without end costs no more than its head.
#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    let receiver = Receiver::start().await;
    receiver.script([Act::Flood]);
    let house = House::new(&[("on-call", receiver.url(), &Alarm::ALL)]);
    house.raise(1, 7, Alarm::Held).await;
    house.work().await;
    assert_eq!((receiver.heard().len(), house.undelivered().await), (1, 0));
}

#[tokio::test]
async fn gone_means_no_more_attempts_and_nothing_is_lost() {
    let receiver = Receiver::start().await;
    receiver.script([Act::Answer(410)]);
    let house = House::new(&[("on-call", receiver.url(), &Alarm::ALL)]);
    house.raise(1, 7, Alarm::Held).await;
    house.work().await;
    house.later().await;
    assert_eq!(receiver.heard().len(), 1);
    let dead = house.dead().await;
    assert!(dead.len() == 1 && dead[0].attempts[0].error.contains("410"), "{dead:?}");
    let again = keyturn_pipeline::replay::plan(&dead[0]).unwrap();
    assert_eq!(house.database.replay(vec![again]).await.unwrap().len(), 1);
    house.work().await;
    assert_eq!(ids(&receiver), [id(1), id(1)], "a replay has the id it had");
    assert_eq!((house.undelivered().await, house.dead().await.len()), (0, 0));
}

/// A receiver that is away is tried once per batch, its alarms come in order when it is back, and one that stays
/// away ends in the dead letters.
#[tokio::test]
async fn a_receiver_that_is_away_is_waited_for_and_given_up_on() {
    let gone = Receiver::start().await;
    let (address, url) = (gone.address, gone.url());
    drop(gone);
    let house = House::new(&[("on-call", url, &Alarm::ALL)]);
    for n in 1..=3 {
        house.raise(n, n, Alarm::Clone).await;
    }
    house.work().await;
    house.later().await;
    assert_eq!(house.undelivered().await, 3);
    let back = Receiver::on(address).await;
    house.later().await;
    assert_eq!(ids(&back), [id(1), id(2), id(3)]);
    drop(back);
    house.raise(4, 1, Alarm::Clone).await;
    house.work().await;
    house.clock.advance(GIVE_UP.saturating_sub(LONGEST));
    house.work().await;
    assert_eq!((house.undelivered().await, house.dead().await.len()), (1, 0));
    house.later().await;
    house.later().await;
    let dead = house.dead().await;
    assert_eq!((house.undelivered().await, dead.len()), (0, 1));
    assert_eq!(dead[0].reason, DeadReason::Exhausted);
}

/// What one receiver does not take, or when it is not there, another gets all the same; and each gets its kinds.
#[tokio::test]
async fn webhooks_are_apart() {
    let (one, two) = (Receiver::start().await, Receiver::start().await);
    one.script([Act::Hang]);
    let kinds: &[Alarm] = &[Alarm::Clone];
    let house = House::new(&[("one", one.url(), &Alarm::ALL), ("two", two.url(), kinds)]);
    house.raise(1, 7, Alarm::Clone).await;
    house.raise(2, 7, Alarm::Held).await;
    house.work().await;
    assert_eq!(ids(&two), [id(1)]);
    assert_eq!((ids(&one), house.undelivered().await), (vec![id(1)], 2));
    house.later().await;
    assert_eq!(ids(&one), [id(1), id(1), id(2)]);
    assert_eq!((ids(&two), house.undelivered().await), (vec![id(1)], 0));
}

/// An alarm that is refused holds up the later ones of its device and no other's.
#[tokio::test]
async fn alarms_of_a_device_follow_each_other() {
    let receiver = Receiver::start().await;
    receiver.script([Act::Answer(400)]);
    let house = House::new(&[("on-call", receiver.url(), &Alarm::ALL)]);
    for (n, of) in [(1, 7), (2, 7), (3, 8)] {
        house.raise(n, of, Alarm::Clone).await;
    }
    house.work().await;
    assert_eq!(ids(&receiver), [id(1), id(3)]);
    house.later().await;
    assert_eq!(ids(&receiver), [id(1), id(3), id(1), id(2)]);
}

#[tokio::test]
async fn nobody_to_tell_leaves_nothing_behind() {
    let house = House::new(&[]);
    house.raise(1, 7, Alarm::Clone).await;
    house.work().await;
    assert_eq!((house.undelivered().await, house.dead().await.len()), (0, 0));
}

/// What cannot be read, and what is for a webhook that is no more, is kept for an operator.
#[tokio::test]
async fn what_cannot_be_delivered_is_kept() {
    let receiver = Receiver::start().await;
    let house = House::new(&[("old", receiver.url(), &Alarm::ALL)]);
    receiver.script([Act::Answer(500)]);
    house.raise(1, 7, Alarm::Clone).await;
    house.work().await;
    let other = House::new(&[("new", receiver.url(), &Alarm::ALL)]);
    let worker = Worker {
        queue: Arc::clone(&house.worker.queue),
        clock: Arc::clone(&house.worker.clock),
        ..other.worker
    };
    let garbage = NewMessage { body: "{}".to_owned(), ..sample::message(9) };
    house.database.send(QueueName::Alarms, vec![garbage]).await.unwrap();
    house.clock.advance(LONGEST);
    while worker.step().await.unwrap() > 0 {}
    let reasons: BTreeSet<DeadReason> = house.dead().await.iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [DeadReason::Undecodable, DeadReason::Exhausted].into());
    assert_eq!(receiver.heard().len(), 1);
}
