use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::span::Span;
use keyturn_ports::Kind;
use keyturn_ports::audit::{AuditSink, NewRow, Row, Verified, Wanted};
use keyturn_ports::shipping::{Holder, Position};
use keyturn_ports::upkeep::Forgotten;

use super::*;

/// A fake store with so many old effects, that notes what it is asked, and fails the first mark.
#[derive(Default)]
struct Notes {
    effects: Mutex<u64>,
    asked: Mutex<Vec<(Before, usize)>>,
    marks: Mutex<u64>,
}

#[async_trait]
impl Upkeep for Notes {
    async fn forget(&self, before: Before, limit: usize) -> Result<Forgotten, Error> {
        self.asked.lock().unwrap().push((before, limit));
        let mut left = self.effects.lock().unwrap();
        let effects = (*left).min(u64::try_from(limit).unwrap());
        *left -= effects;
        Ok(Forgotten { effects, ..Forgotten::default() })
    }

    async fn dead_since(&self, before: UnixMillis) -> Result<u64, Error> {
        assert_eq!(before, UnixMillis(NOW - 30 * DAY));
        Ok(3)
    }

    async fn mark(&self) -> Result<(), Error> {
        let mut marks = self.marks.lock().unwrap();
        *marks += 1;
        if *marks == 1 { Err(Error::new(Kind::Unavailable, "marking", "a fault")) } else { Ok(()) }
    }
}

/// A fake engine beside whose queues so many messages lie dead.
struct Heap {
    lies: Mutex<u64>,
}

#[async_trait]
impl Strays for Heap {
    async fn unindexed(&self, _: QueueName) -> Result<u64, Error> {
        Ok(*self.lies.lock().unwrap())
    }

    async fn adopt(&self, queue: QueueName, limit: usize) -> Result<u64, Error> {
        assert_eq!(queue, QueueName::Findings);
        let mut lies = self.lies.lock().unwrap();
        let adopted = (*lies).min(u64::try_from(limit).unwrap());
        *lies -= adopted;
        Ok(adopted)
    }
}

/// An audit without rows; the real one is watched in the tests beside [`audit::Watch`].
struct NoAudit;

#[async_trait]
impl AuditSink for NoAudit {
    async fn append(&self, _: NewRow) -> Result<u64, Error> {
        unreachable!("upkeep appends nothing")
    }

    async fn probe(&self, _: NewRow) -> Result<(), Error> {
        Ok(())
    }

    async fn select(&self, _: Wanted, _: usize) -> Result<Vec<Row>, Error> {
        Ok(Vec::new())
    }

    async fn after(&self, _: u64, _: usize) -> Result<Vec<Row>, Error> {
        Ok(Vec::new())
    }

    async fn verify(&self) -> Result<Verified, Error> {
        unreachable!("upkeep follows the chain itself")
    }
}

const DAY: u64 = 24 * 3600 * 1000;
const NOW: u64 = 1000 * DAY;

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> UnixMillis {
        UnixMillis(NOW)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

fn retention() -> Retention {
    let days = |days: u64| Span(Duration::from_millis(days * DAY));
    Retention {
        accepted: days(1),
        effects: days(30),
        events: days(400),
        dead_letters_warn: days(30),
        every: Span(Duration::from_mins(1)),
        batch: 100,
        pause: Span(Duration::from_millis(50)),
    }
}

#[tokio::test(start_paused = true)]
async fn much_is_forgotten_in_steps_and_a_failure_is_tried_again() {
    let notes = Arc::new(Notes { effects: Mutex::new(250), ..Notes::default() });
    let heap = Arc::new(Heap { lies: Mutex::new(2150) });
    let tender = Tender {
        upkeep: Arc::clone(&notes) as _,
        strays: [(QueueName::Findings, Arc::clone(&heap) as _)].into(),
        clock: Arc::new(Fixed),
        retention: retention(),
        clerk: None,
        shipped: None,
        old_letters: 0,
        audit: audit::Watch::new(Arc::new(NoAudit)),
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(tender.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(notes.asked.lock().unwrap().is_empty(), "the first round failed");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = notes.asked.lock().unwrap().clone();
    let days = |days: u64| UnixMillis(NOW - days * DAY);
    let before = Before {
        accepted: days(1),
        effects: days(30),
        events: days(400),
        events_through: None,
        results: days(0),
    };
    assert_eq!(asked, [(before, 100); 3]);
    assert_eq!(*notes.effects.lock().unwrap(), 0);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(*notes.marks.lock().unwrap(), 2);
    assert_eq!(*heap.lies.lock().unwrap(), 150, "so many pages and no more in a round that gets that far");
}

/// Cursors that were moved to a place.
struct At(u64);

#[async_trait]
impl Shipping for At {
    async fn position(&self, stream: Stream) -> Result<Position, Error> {
        assert_eq!(stream, Stream::Events);
        Ok(Position { place: self.0, newest: 99, waiting_since: None, held_by: None })
    }

    async fn hold(&self, _: Stream, _: Holder, _: u64, _: Duration) -> Result<bool, Error> {
        unreachable!("upkeep ships nothing")
    }

    async fn advance(&self, _: Stream, _: Holder, _: u64, _: u64, _: Duration) -> Result<bool, Error> {
        unreachable!("upkeep ships nothing")
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_shipped_is_forgotten_much_later() {
    let notes = Arc::new(Notes { marks: Mutex::new(1), ..Notes::default() });
    let shipped = Shipped { shipping: Arc::new(At(7)), keep: Duration::from_millis(90 * DAY) };
    let mut tender = Tender {
        upkeep: Arc::clone(&notes) as _,
        strays: BTreeMap::new(),
        clerk: None,
        clock: Arc::new(Fixed),
        retention: retention(),
        shipped: Some(shipped),
        old_letters: 0,
        audit: audit::Watch::new(Arc::new(NoAudit)),
    };
    tender.round(&CancellationToken::new()).await.unwrap();
    let asked = notes.asked.lock().unwrap().clone();
    let told: Vec<_> = asked.iter().map(|(before, _)| (before.events, before.events_through)).collect();
    assert_eq!(told, [(UnixMillis(NOW - 400 * DAY), Some(7)), (UnixMillis(NOW - 490 * DAY), None)]);
    assert_eq!(
        (asked[1].0.accepted, asked[1].0.effects),
        (UnixMillis(0), UnixMillis(0)),
        "nothing but events"
    );
}
