//! The contract of [`Turns`].

use std::time::Duration;

use futures_util::future::join_all;
use keyturn_domain::clock::Clock as _;
use keyturn_ports::turns::{Booked, Turns, Wanted};

use super::Subject;

const INTERVAL: Duration = Duration::from_millis(10);

fn wanted(most: u32) -> Wanted {
    Wanted { interval: INTERVAL, horizon: Duration::from_secs(1), most }
}

fn booked(turns: u32, wait_ms: u64) -> Booked {
    Booked { turns, wait: Duration::from_millis(wait_ms) }
}

/// One after the other, at the interval; what nobody booked in time is not saved up.
pub async fn turns_follow_each_other(subject: &impl Subject<Engine: Turns>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    assert_eq!(engine.book("a", wanted(3)).await.unwrap(), booked(3, 0));
    assert_eq!(engine.book("a", wanted(3)).await.unwrap(), booked(3, 30));
    clock.advance(Duration::from_millis(40));
    assert_eq!(engine.book("a", wanted(3)).await.unwrap(), booked(3, 20));
    clock.advance(Duration::from_mins(10));
    assert_eq!(engine.book("a", wanted(3)).await.unwrap(), booked(3, 0));
}

/// Buckets know nothing of each other.
pub async fn buckets_are_apart(subject: &impl Subject<Engine: Turns>) {
    let engine = subject.engine();
    assert_eq!(engine.book("a", wanted(50)).await.unwrap(), booked(50, 0));
    assert_eq!(engine.book("b", wanted(1)).await.unwrap(), booked(1, 0));
}

/// What lies beyond the horizon is not booked, and is there later.
pub async fn the_horizon_bounds_what_is_booked(subject: &impl Subject<Engine: Turns>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    assert_eq!(engine.book("a", wanted(1000)).await.unwrap(), booked(101, 0));
    assert_eq!(engine.book("a", wanted(1)).await.unwrap().turns, 0);
    clock.advance(Duration::from_millis(10));
    assert_eq!(engine.book("a", wanted(5)).await.unwrap(), booked(1, 1000));
}

/// Of many who book at once each gets turns of its own: together they are a row without gaps.
pub async fn no_turn_is_given_twice(subject: &impl Subject<Engine: Turns>) {
    let engine = subject.engine();
    let booked = join_all((0..20).map(|_| engine.book("a", wanted(3)))).await;
    let mut starts: Vec<Duration> = booked
        .into_iter()
        .map(|booked| {
            let booked = booked.unwrap();
            assert_eq!(booked.turns, 3);
            booked.wait
        })
        .collect();
    starts.sort();
    assert_eq!(starts, (0..20).map(|n| INTERVAL * 3 * n).collect::<Vec<_>>());
}

/// A clock that was set back far costs a pause, and no more.
pub async fn a_clock_set_back_ends_in_a_pause(subject: &impl Subject<Engine: Turns>) {
    let (engine, clock) = (subject.engine(), subject.clock());
    assert_eq!(engine.book("a", wanted(3)).await.unwrap().turns, 3);
    clock.set(clock.now().minus(Duration::from_hours(1)));
    assert_eq!(engine.book("a", wanted(3)).await.unwrap().turns, 0);
    clock.advance(keyturn_ports::turns::HORIZON);
    assert_eq!(engine.book("a", wanted(3)).await.unwrap(), booked(3, 0));
}
