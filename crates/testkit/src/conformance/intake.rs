//! The contract of [`Intake`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::intake::{Accepted, Intake, Submission};
use keyturn_ports::queue::{Queue, QueueName};

use super::{Subject, sample};

fn submission(n: u8, nonce: UnixMillis) -> Submission {
    Submission { nonce, message: sample::message(n) }
}

async fn queued(engine: &impl Queue) -> usize {
    engine.lease(QueueName::Requests, 32, Duration::from_mins(1)).await.unwrap().len()
}

/// What was accepted is on the queue and remembered.
pub async fn accepted_messages_are_on_the_queue(subject: &impl Subject<Engine: Intake + Queue>) {
    let (engine, nonce) = (subject.engine(), subject.clock().now());
    let answers = engine.accept(vec![submission(1, nonce), submission(2, nonce)]).await.unwrap();
    assert_eq!(answers, [Accepted::New, Accepted::New]);
    assert!(engine.knows(nonce, sample::request(1)).await.unwrap());
    assert!(!engine.knows(nonce, sample::request(3)).await.unwrap());
    let leased = engine.lease(QueueName::Requests, 32, Duration::from_mins(1)).await.unwrap();
    let mut messages: Vec<_> = leased.into_iter().map(|leased| leased.message).collect();
    messages.sort_unstable_by_key(|message| message.request);
    assert_eq!(messages, [sample::message(1), sample::message(2)]);
}

/// The same bytes again are known, and nothing is enqueued, even when the first is long done.
pub async fn a_message_is_accepted_once(subject: &impl Subject<Engine: Intake + Queue>) {
    let (engine, nonce) = (subject.engine(), subject.clock().now());
    engine.accept(vec![submission(1, nonce)]).await.unwrap();
    assert_eq!(queued(engine).await, 1);
    subject.clock().advance(Duration::from_mins(5));
    let answers = engine.accept(vec![submission(2, nonce), submission(1, nonce)]).await.unwrap();
    assert_eq!(answers, [Accepted::New, Accepted::Known]);
    assert_eq!(engine.depth(QueueName::Requests).await.unwrap().total, 2);
}

/// Two of the same in one batch are one message.
pub async fn a_message_twice_in_one_batch_is_accepted_once(subject: &impl Subject<Engine: Intake + Queue>) {
    let (engine, nonce) = (subject.engine(), subject.clock().now());
    let answers = engine.accept(vec![submission(1, nonce), submission(1, nonce)]).await.unwrap();
    assert_eq!(answers, [Accepted::New, Accepted::Known]);
    assert_eq!(queued(engine).await, 1);
}
