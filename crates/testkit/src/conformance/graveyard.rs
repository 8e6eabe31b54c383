//! The contract of [`Graveyard`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_ports::dead_letters::{Attempt, DeadLetters, Died, Graveyard};
use keyturn_ports::queue::{DeadReason, Queue, QueueName};

use super::{Subject, sample};

const QUEUE: QueueName = QueueName::Findings;

fn died(subject: &impl Subject, n: u8) -> Died {
    let now = subject.clock().now();
    Died {
        origin: format!("elsewhere/{n}"),
        queue: QUEUE,
        message: sample::message(n),
        reason: DeadReason::Exhausted,
        attempts: vec![Attempt { at: now, error: "no use".to_owned() }],
        deliveries: 3,
        enqueued: now.minus(Duration::from_secs(9)),
        died: now,
    }
}

/// It is a dead letter like any other, and comes back on the queue it is sent to.
pub async fn what_died_elsewhere_is_listed_and_replayed(
    subject: &impl Subject<Engine: Queue + DeadLetters + Graveyard>,
) {
    let (engine, told) = (subject.engine(), died(subject, 1));
    engine.bury(vec![told.clone()]).await.unwrap();
    assert_eq!(engine.depth(QUEUE).await.unwrap().dead, 1);
    let letters = engine.list(Some(QUEUE), 10).await.unwrap();
    let letter = letters.first().unwrap();
    assert_eq!((&letter.message, letter.queue, letter.reason), (&told.message, QUEUE, told.reason));
    assert_eq!((&letter.attempts, letter.deliveries), (&told.attempts, 3));
    assert_eq!((letter.enqueued, letter.died), (told.enqueued, told.died));
    let replayed = vec![(letter.id, QueueName::Requests, "body".to_owned())];
    assert_eq!(engine.replay(replayed).await.unwrap(), [letter.id]);
    assert_eq!(engine.depth(QUEUE).await.unwrap().dead, 0);
    let leased = engine.lease(QueueName::Requests, 9, Duration::from_secs(9)).await.unwrap();
    assert_eq!(leased.first().unwrap().message.body, "body");
}

/// A worker that died after it buried a message buries it again.
pub async fn what_is_buried_twice_is_there_once(
    subject: &impl Subject<Engine: Queue + DeadLetters + Graveyard>,
) {
    let engine = subject.engine();
    engine.bury(vec![died(subject, 1), died(subject, 1), died(subject, 2)]).await.unwrap();
    engine.bury(vec![died(subject, 1)]).await.unwrap();
    assert_eq!(engine.list(None, 10).await.unwrap().len(), 2);
    assert_eq!(engine.depth(QUEUE).await.unwrap().dead, 2);
}
