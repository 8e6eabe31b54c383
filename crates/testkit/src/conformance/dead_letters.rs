//! The contract of [`DeadLetters`], and of how messages get there.

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId, DeadLetters};
use keyturn_ports::queue::{DeadReason, Leased, NewMessage, Queue, QueueName, Settlement};

use super::{Subject, sample};

const QUEUE: QueueName = QueueName::Findings;
const LEASE: Duration = Duration::from_mins(1);

async fn lease(engine: &impl Queue, queue: QueueName) -> Vec<Leased> {
    engine.lease(queue, 32, LEASE).await.unwrap()
}

async fn settle(engine: &impl Queue, leased: &Leased, settlement: Settlement) -> usize {
    engine.settle(QUEUE, vec![(leased.receipt.clone(), settlement)], Vec::new()).await.unwrap().len()
}

fn dead(error: &str) -> Settlement {
    Settlement::DeadLetter { reason: DeadReason::Exhausted, error: error.to_owned() }
}

/// Sends messages and buries each.
pub(super) async fn bury(engine: &impl Queue, messages: impl IntoIterator<Item = u8>) {
    for n in messages {
        engine.send(QUEUE, vec![sample::message(n)]).await.unwrap();
        for leased in lease(engine, QUEUE).await {
            settle(engine, &leased, dead("no use")).await;
        }
    }
}

async fn all(engine: &impl DeadLetters) -> Vec<DeadLetter> {
    engine.list(None, 100).await.unwrap()
}

/// One letter dies, byte for byte as it was; its neighbours live.
pub async fn a_dead_letter_moves_alone_and_unchanged(subject: &impl Subject<Engine: Queue + DeadLetters>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    let sent = clock.now();
    engine.send(QUEUE, vec![sample::message(1), sample::message(2)]).await.unwrap();
    let leased = lease(engine, QUEUE).await;
    clock.advance(Duration::from_secs(1));
    let doomed = leased.iter().find(|leased| leased.message == sample::message(1)).unwrap();
    let reason = DeadReason::Undecodable;
    assert_eq!(
        settle(engine, doomed, Settlement::DeadLetter { reason, error: "not JSON".to_owned() }).await,
        0
    );
    let letters = all(engine).await;
    assert_eq!(letters.len(), 1);
    let letter = letters.first().unwrap();
    assert_eq!((&letter.message, letter.queue, letter.reason), (&sample::message(1), QUEUE, reason));
    assert_eq!((letter.deliveries, letter.enqueued, letter.died), (1, sent, clock.now()));
    assert_eq!(letter.attempts.len(), 1);
    assert_eq!(
        letter.attempts.last().map(|last| (last.at, last.error.as_str())),
        Some((clock.now(), "not JSON"))
    );
    assert_eq!(engine.find(letter.id).await.unwrap().as_ref(), Some(letter));
    let depth = engine.depth(QUEUE).await.unwrap();
    assert_eq!((depth.total, depth.leased, depth.dead), (1, 1, 1));
    clock.advance(LEASE);
    let left = lease(engine, QUEUE).await;
    assert_eq!(left.into_iter().map(|leased| leased.message).collect::<Vec<_>>(), [sample::message(2)]);
}

/// Ten failures leave the last eight, oldest first, the deadly one last.
pub async fn the_last_eight_attempts_are_kept(subject: &impl Subject<Engine: Queue + DeadLetters>) {
    let engine = subject.engine();
    engine.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    for attempt in 1..=9 {
        let leased = lease(engine, QUEUE).await;
        let retry = Settlement::Retry { after: Duration::ZERO, error: format!("failure {attempt}") };
        assert_eq!(settle(engine, leased.first().unwrap(), retry).await, 0);
        subject.clock().advance(Duration::from_secs(1));
    }
    let leased = lease(engine, QUEUE).await;
    assert_eq!(settle(engine, leased.first().unwrap(), dead("failure 10")).await, 0);
    let letter = all(engine).await.remove(0);
    let errors: Vec<_> = letter.attempts.iter().map(|attempt| attempt.error.clone()).collect();
    assert_eq!(errors, (3..=10).map(|attempt| format!("failure {attempt}")).collect::<Vec<_>>());
    assert!(letter.attempts.is_sorted_by_key(|attempt| attempt.at));
    assert_eq!(letter.deliveries, 10);
}

/// Lists are newest first, by queue or of all, and no longer than asked.
pub async fn letters_are_listed_newest_first(subject: &impl Subject<Engine: Queue + DeadLetters>) {
    let engine = subject.engine();
    bury(engine, 1..=3).await;
    let requests: Vec<_> = all(engine).await.into_iter().map(|letter| letter.message.request).collect();
    assert_eq!(requests, [3, 2, 1].map(sample::request));
    assert_eq!(engine.list(Some(QUEUE), 2).await.unwrap().len(), 2);
    assert!(engine.list(Some(QueueName::Outcomes), 2).await.unwrap().is_empty());
    assert_eq!(engine.find(DeadLetterId(u64::MAX)).await.unwrap(), None);
}

/// A lost lease cannot bury what somebody else works on.
pub async fn a_void_receipt_buries_nothing(subject: &impl Subject<Engine: Queue + DeadLetters>) {
    let engine = subject.engine();
    engine.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    let lost = lease(engine, QUEUE).await;
    subject.clock().advance(LEASE);
    let held = lease(engine, QUEUE).await;
    assert_eq!(settle(engine, lost.first().unwrap(), dead("too late")).await, 1);
    assert!(all(engine).await.is_empty());
    assert_eq!(settle(engine, held.first().unwrap(), Settlement::Complete).await, 0);
}

/// It leaves the dead letters and is on the queue named, with the body given and its deliveries forgotten.
pub async fn a_replay_moves_a_letter_once(subject: &impl Subject<Engine: Queue + DeadLetters>) {
    let engine = subject.engine();
    bury(engine, 1..=2).await;
    let letters = all(engine).await;
    let doomed = letters.iter().find(|letter| letter.message == sample::message(1)).unwrap();
    let onto = QueueName::Requests;
    let moved = engine.replay(vec![(doomed.id, onto, "stripped".to_owned())]).await.unwrap();
    assert_eq!(moved, [doomed.id]);
    assert_eq!(engine.find(doomed.id).await.unwrap(), None);
    assert_eq!(all(engine).await.len(), 1);
    let leased = lease(engine, onto).await;
    let expected = NewMessage { body: "stripped".to_owned(), ..sample::message(1) };
    assert_eq!(leased.first().map(|leased| (&leased.message, leased.deliveries)), Some((&expected, 1)));
    assert_eq!(leased.len(), 1);
    let (from, to) = (engine.depth(QUEUE).await.unwrap(), engine.depth(onto).await.unwrap());
    assert_eq!((from.dead, to.total, to.dead), (1, 1, 0));
}

/// The same replay again, after an unknown outcome, moves nothing; nor does a letter named twice move twice.
pub async fn a_replay_repeated_moves_nothing(subject: &impl Subject<Engine: Queue + DeadLetters>) {
    let engine = subject.engine();
    bury(engine, [1]).await;
    let letter = all(engine).await.remove(0);
    let replay = || (letter.id, QUEUE, letter.message.body.clone());
    assert_eq!(engine.replay(vec![replay(), replay()]).await.unwrap(), [letter.id]);
    assert!(engine.replay(vec![replay()]).await.unwrap().is_empty());
    assert_eq!(lease(engine, QUEUE).await.len(), 1);
    bury(engine, [2]).await;
    let newer = all(engine).await.remove(0);
    assert!(newer.id > letter.id, "a name is not given twice");
}
