//! The contract of [`Queue`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_ports::queue::{Depth, Leased, Queue, QueueName, Receipt, Settlement};

use super::{NEVER, Subject, sample, woken_by};

const QUEUE: QueueName = QueueName::Requests;
const LEASE: Duration = Duration::from_mins(1);

async fn send(queue: &impl Queue, messages: impl IntoIterator<Item = u8>) {
    queue.send(QUEUE, messages.into_iter().map(sample::message).collect()).await.unwrap();
}

async fn lease(queue: &impl Queue) -> Vec<Leased> {
    queue.lease(QUEUE, 32, LEASE).await.unwrap()
}

async fn lease_one(queue: &impl Queue) -> Leased {
    let mut leased = lease(queue).await;
    assert_eq!(leased.len(), 1, "exactly one message is visible");
    leased.remove(0)
}

async fn settle(queue: &impl Queue, receipt: &Receipt, settlement: Settlement) -> Vec<Receipt> {
    queue.settle(QUEUE, vec![(receipt.clone(), settlement)], Vec::new()).await.unwrap()
}

/// What is leased is what was sent, and says how often and since when.
pub async fn a_message_is_leased_as_sent(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let sent = subject.clock().now();
    subject.clock().advance(Duration::from_secs(3));
    let leased = lease_one(subject.engine()).await;
    assert_eq!(leased.message, sample::message(1));
    assert_eq!((leased.deliveries, leased.enqueued), (1, sent));
}

/// A message is on its own queue only.
pub async fn queues_are_apart(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    for other in QueueName::ALL.into_iter().filter(|other| *other != QUEUE) {
        assert!(subject.engine().lease(other, 32, LEASE).await.unwrap().is_empty());
    }
    let leased = lease_one(subject.engine()).await;
    let settled = vec![(leased.receipt.clone(), Settlement::Complete)];
    let void = subject.engine().settle(QueueName::Findings, settled, Vec::new()).await.unwrap();
    assert_eq!(void, [leased.receipt], "a receipt is good on its own queue only");
}

/// No more are leased than asked for, and all in the end.
pub async fn at_most_max_are_leased(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), 1..=5).await;
    let mut seen = Vec::new();
    for expected in [2, 2, 1, 0] {
        let leased = subject.engine().lease(QUEUE, 2, LEASE).await.unwrap();
        assert_eq!(leased.len(), expected);
        seen.extend(leased.into_iter().map(|leased| leased.message.request));
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=5).map(sample::request).collect::<Vec<_>>());
}

/// While it is leased nobody else gets it.
pub async fn a_leased_message_is_hidden(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    lease_one(subject.engine()).await;
    subject.clock().advance(LEASE.saturating_sub(Duration::from_millis(1)));
    assert!(lease(subject.engine()).await.is_empty());
}

/// The next one to ask gets it, and the first one's receipt is void from then on.
pub async fn a_lease_that_ran_out_is_given_to_the_next(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let first = lease_one(subject.engine()).await;
    subject.clock().advance(LEASE);
    let second = lease_one(subject.engine()).await;
    assert_eq!((second.message, second.deliveries), (sample::message(1), 2));
    let void = settle(subject.engine(), &first.receipt, Settlement::Complete).await;
    assert_eq!(void, std::slice::from_ref(&first.receipt));
    let void = subject.engine().renew(QUEUE, vec![first.receipt.clone()], LEASE).await.unwrap();
    assert_eq!(void, [first.receipt]);
    assert!(
        settle(subject.engine(), &second.receipt, Settlement::Complete).await.is_empty(),
        "it was still there"
    );
}

/// A lease that ran out is as good as any until somebody else has taken the message.
pub async fn a_lease_that_ran_out_holds_until_taken(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let leased = lease_one(subject.engine()).await;
    subject.clock().advance(LEASE.saturating_mul(2));
    assert!(settle(subject.engine(), &leased.receipt, Settlement::Complete).await.is_empty());
    assert!(lease(subject.engine()).await.is_empty());
}

/// Renewing counts from when it is done.
pub async fn a_renewed_lease_lasts(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let leased = lease_one(subject.engine()).await;
    subject.clock().advance(LEASE / 2);
    let void = subject.engine().renew(QUEUE, vec![leased.receipt.clone()], LEASE).await.unwrap();
    assert!(void.is_empty());
    subject.clock().advance(LEASE.saturating_sub(Duration::from_millis(1)));
    assert!(lease(subject.engine()).await.is_empty());
    subject.clock().advance(Duration::from_millis(1));
    assert_eq!(lease_one(subject.engine()).await.deliveries, 2);
}

/// A receipt settles once.
pub async fn completing_twice_is_void(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1, 2]).await;
    let leased = lease(subject.engine()).await;
    let receipts: Vec<Receipt> = leased.into_iter().map(|leased| leased.receipt).collect();
    let complete = || receipts.iter().cloned().map(|receipt| (receipt, Settlement::Complete)).collect();
    assert!(subject.engine().settle(QUEUE, complete(), Vec::new()).await.unwrap().is_empty());
    assert_eq!(subject.engine().settle(QUEUE, complete(), Vec::new()).await.unwrap(), receipts);
    subject.clock().advance(LEASE);
    assert!(lease(subject.engine()).await.is_empty());
}

/// A receipt from elsewhere is void and harms nothing.
pub async fn strange_receipts_are_void(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let good = lease_one(subject.engine()).await.receipt;
    let strange = [
        Receipt { message: "no such message".to_owned(), lease: good.lease.clone() },
        Receipt { message: good.message.clone(), lease: String::new() },
    ];
    for receipt in &strange {
        assert_eq!(
            settle(subject.engine(), receipt, Settlement::Complete).await,
            std::slice::from_ref(receipt)
        );
    }
    let void = subject.engine().renew(QUEUE, strange.to_vec(), LEASE).await.unwrap();
    assert_eq!(void, strange);
    assert!(settle(subject.engine(), &good, Settlement::Complete).await.is_empty());
}

/// It comes back when its delay is over, and the delivery counts.
pub async fn a_retry_comes_back_after_its_delay(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let leased = lease_one(subject.engine()).await;
    let after = Duration::from_secs(5);
    let retry = Settlement::Retry { after, error: "the vault is away".to_owned() };
    assert!(settle(subject.engine(), &leased.receipt, retry).await.is_empty());
    subject.clock().advance(after.saturating_sub(Duration::from_millis(1)));
    assert!(lease(subject.engine()).await.is_empty());
    subject.clock().advance(Duration::from_millis(1));
    let again = lease_one(subject.engine()).await;
    assert_eq!((again.message, again.deliveries), (sample::message(1), 2));
}

/// It comes back at once, as if it had not been leased.
pub async fn a_release_does_not_count(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let leased = lease_one(subject.engine()).await;
    assert!(settle(subject.engine(), &leased.receipt, Settlement::Release).await.is_empty());
    let again = lease_one(subject.engine()).await;
    assert_eq!((again.message, again.deliveries), (sample::message(1), 1));
    let void = settle(subject.engine(), &leased.receipt, Settlement::Complete).await;
    assert_eq!(void, [leased.receipt], "the released lease is over");
}

/// What is forwarded is there when the completed message is gone.
pub async fn forwards_come_with_the_completion(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let leased = lease_one(subject.engine()).await;
    let forward = vec![
        (QueueName::Findings, sample::message(2)),
        (QueueName::Outcomes, sample::message(3)),
        (QueueName::Alarms, sample::message(4)),
    ];
    let settled = vec![(leased.receipt, Settlement::Complete)];
    assert!(subject.engine().settle(QUEUE, settled, forward).await.unwrap().is_empty());
    for (queue, n) in [(QueueName::Findings, 2), (QueueName::Outcomes, 3), (QueueName::Alarms, 4)] {
        let forwarded = subject.engine().lease(queue, 32, LEASE).await.unwrap();
        assert_eq!(
            forwarded.into_iter().map(|leased| leased.message).collect::<Vec<_>>(),
            [sample::message(n)]
        );
    }
    subject.clock().advance(LEASE);
    assert!(lease(subject.engine()).await.is_empty());
}

/// Work done under a lost lease is sent on all the same.
pub async fn forwards_of_void_receipts_are_sent(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let lost = lease_one(subject.engine()).await;
    subject.clock().advance(LEASE);
    lease_one(subject.engine()).await;
    let forward = vec![(QueueName::Findings, sample::message(2))];
    let settled = vec![(lost.receipt.clone(), Settlement::Complete)];
    let void = subject.engine().settle(QUEUE, settled, forward).await.unwrap();
    assert_eq!(void, [lost.receipt]);
    assert_eq!(subject.engine().lease(QueueName::Findings, 32, LEASE).await.unwrap().len(), 1);
}

/// Depth counts waiting, leased and delayed messages and knows the oldest.
pub async fn depth_tells_what_is_there(subject: &impl Subject<Engine: Queue>) {
    let depth = async || subject.engine().depth(QUEUE).await.unwrap();
    let mut sent = depth().await.sent;
    assert_eq!(depth().await, Depth { sent, ..Depth::default() });
    let oldest = Some(subject.clock().now());
    send(subject.engine(), 1..=3).await;
    subject.clock().advance(Duration::from_secs(1));
    send(subject.engine(), 4..=5).await;
    let leased = subject.engine().lease(QUEUE, 3, LEASE).await.unwrap();
    let before = std::mem::replace(&mut sent, depth().await.sent);
    assert!(sent.is_none() || sent == before.map(|before| before + 5), "{sent:?}");
    assert_eq!(depth().await, Depth { total: 5, leased: 3, oldest, dead: 0, sent });
    for leased in leased {
        settle(subject.engine(), &leased.receipt, Settlement::Complete).await;
    }
    let oldest = Some(subject.clock().now());
    assert_eq!(depth().await, Depth { total: 2, leased: 0, oldest, dead: 0, sent });
    lease(subject.engine()).await;
    subject.clock().advance(LEASE);
    assert_eq!(depth().await.leased, 0, "a lease that ran out is none");
}

/// A clock that was days ahead for a while and is right again does not keep what was sent meanwhile.
pub async fn a_clock_set_back_hides_nothing_for_good(subject: &impl Subject<Engine: Queue>) {
    let right = subject.clock().now();
    subject.clock().set(right.plus(Duration::from_hours(72)));
    send(subject.engine(), [1]).await;
    subject.clock().set(right);
    assert_eq!(lease_one(subject.engine()).await.message, sample::message(1));
}

/// Whoever waits is woken by a send.
pub async fn arrival_resolves_when_a_message_is_sent(subject: &impl Subject<Engine: Queue>) {
    let sending = async { send(subject.engine(), [1]).await };
    assert!(woken_by(subject.engine().arrival(QUEUE), sending).await);
    lease_one(subject.engine()).await;
}

/// Asks for the next messages until there are some; there is to be one.
async fn next_one(queue: &impl Queue) -> Leased {
    let looking = async {
        loop {
            let mut leased = queue.next(QUEUE, 32, LEASE).await.unwrap();
            assert!(leased.len() <= 1, "exactly one message is there");
            if let Some(one) = leased.pop() {
                return one;
            }
        }
    };
    tokio::time::timeout(NEVER, looking).await.unwrap()
}

/// What is there is not waited for.
pub async fn next_leases_what_is_there(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let leased = next_one(subject.engine()).await;
    assert_eq!((&leased.message, leased.deliveries), (&sample::message(1), 1));
    assert!(settle(subject.engine(), &leased.receipt, Settlement::Complete).await.is_empty());
}

/// What is sent to somebody who waits is leased to them alone.
pub async fn next_ends_with_what_is_sent_while_it_waits(subject: &impl Subject<Engine: Queue>) {
    let (leased, ()) = tokio::join!(next_one(subject.engine()), send(subject.engine(), [1]));
    assert_eq!(leased.message, sample::message(1));
    assert!(lease(subject.engine()).await.is_empty(), "it is leased");
    assert!(settle(subject.engine(), &leased.receipt, Settlement::Complete).await.is_empty());
}

/// What comes back while somebody waits is found, whoever let it go.
pub async fn next_finds_what_becomes_visible(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    let first = lease_one(subject.engine()).await;
    let releasing = settle(subject.engine(), &first.receipt, Settlement::Release);
    let (second, void) = tokio::join!(next_one(subject.engine()), releasing);
    assert!(void.is_empty());
    let passing = async { subject.clock().advance(LEASE) };
    let (third, ()) = tokio::join!(next_one(subject.engine()), passing);
    assert_ne!(third.receipt, second.receipt);
}

/// Whoever stops waiting does not take a message along.
pub async fn next_that_was_dropped_keeps_nothing(subject: &impl Subject<Engine: Queue>) {
    let waited =
        tokio::time::timeout(Duration::from_millis(50), subject.engine().next(QUEUE, 32, LEASE)).await;
    assert!(waited.is_err() || waited.unwrap().unwrap().is_empty());
    send(subject.engine(), [1]).await;
    assert_eq!(lease_one(subject.engine()).await.deliveries, 1);
}

/// Whoever looks whenever told finds a message whose lease ran out.
pub async fn arrival_resolves_when_a_lease_runs_out(subject: &impl Subject<Engine: Queue>) {
    send(subject.engine(), [1]).await;
    lease_one(subject.engine()).await;
    let passing = async { subject.clock().advance(LEASE) };
    assert!(woken_by(subject.engine().arrival(QUEUE), passing).await);
    let looking = async {
        while lease(subject.engine()).await.is_empty() {
            subject.engine().arrival(QUEUE).await;
        }
    };
    assert!(tokio::time::timeout(NEVER, looking).await.is_ok());
}
