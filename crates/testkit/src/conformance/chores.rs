//! The contract of [`Chores`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_ports::chores::{Chore, Chores, Report};

use super::Subject;

const CHORE: Chore = Chore::FleetReport;
const TURN: Duration = Duration::from_mins(10);

/// Of many who ask at once one has it, and after a death the next.
pub async fn a_turn_is_taken_by_one(subject: &impl Subject<Engine: Chores>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    let take = async || engine.take(CHORE, clock.now(), clock.now().plus(TURN)).await.unwrap();
    let (one, two, three) = tokio::join!(take(), take(), take());
    assert_eq!([one, two, three].into_iter().filter(|taken| *taken).count(), 1);
    assert!(!take().await);
    clock.advance(TURN.checked_sub(Duration::from_millis(1)).unwrap());
    assert!(!take().await);
    clock.advance(Duration::from_millis(1));
    assert!(take().await, "whoever had it has died");
    assert_eq!(engine.last(CHORE).await.unwrap(), None);
}

/// The report begun last stays, and the chore is due when it says.
pub async fn the_last_report_is_kept(subject: &impl Subject<Engine: Chores>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    let begun = clock.now();
    let late = Report { at: begun, text: "{\"slow\":true}".to_owned() };
    assert!(engine.take(CHORE, begun, begun.plus(TURN)).await.unwrap());
    clock.advance(TURN);
    let now = clock.now();
    assert!(engine.take(CHORE, now, now.plus(TURN)).await.unwrap());
    let report = Report { at: now, text: "{\"word\":\"überfällig\"}".to_owned() };
    let due = now.plus(Duration::from_hours(24));
    engine.finish(CHORE, report.clone(), due).await.unwrap();
    engine.finish(CHORE, report.clone(), due).await.unwrap();
    engine.finish(CHORE, late, now).await.unwrap();
    assert_eq!(engine.last(CHORE).await.unwrap(), Some(report));
    clock.advance(TURN * 2);
    assert!(!engine.take(CHORE, clock.now(), due).await.unwrap(), "the late one changes nothing");
    assert!(engine.take(CHORE, due, due.plus(TURN)).await.unwrap());
}
