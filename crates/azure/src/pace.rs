//! Turns in front of a service that turns callers away above a number of calls in a window of time.
//!
//! The service counts the calls of all processes together, so they book their turns from one store
//! ([`keyturn_ports::turns`]), several at once. Turns follow each other evenly. A turn may be taken from its time on and
//! for half of `slack` after it; the other half is for the way to the service. So in any window the service sees at most
//! the turns of a window and `slack`, and the interval is chosen so that these are `calls`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use keyturn_ports::turns::{Booked, Turns, Wanted};
use keyturn_ports::{Error, Kind};
use tokio::time::Instant;

/// The longest that a call waits for others to book with.
const GATHER: Duration = Duration::from_millis(500);

const WAITING: &str = "waiting for a turn";

/// Who says when a call may be made.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Waits until a call to `target` may be made. An error of kind `Unavailable` if that takes too long.
    async fn turn(&self, target: &str) -> Result<(), Error>;
}

/// How many calls a target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Calls of everybody in any window of time, at least two.
    pub calls: u32,
    /// That window.
    pub window: Duration,
    /// By how much a call may be late in all. What is later than half of it when its turn is had books another one.
    pub slack: Duration,
    /// Turns that are booked at once, at most.
    pub lease: u32,
    /// The longest wait for a turn.
    pub patience: Duration,
}

impl Limit {
    /// The pause between two turns. Within a window and `slack` lie one more turn than intervals.
    pub fn interval(&self) -> Duration {
        (self.window + self.slack) / self.calls.saturating_sub(1).max(1)
    }
}

/// A pace that all processes share which book from one store.
pub struct Shared {
    turns: Arc<dyn Turns>,
    limit: Limit,
    targets: Mutex<HashMap<String, Arc<Target>>>,
}

#[derive(Default)]
struct Target {
    /// Calls that have no turn yet.
    waiting: AtomicU32,
    /// Turns that were booked and not taken, the next one first. One call books for all that wait.
    booked: tokio::sync::Mutex<Row>,
}

#[derive(Default)]
struct Row {
    left: VecDeque<Turn>,
    /// When the last turn is that was booked.
    last: Option<Instant>,
}

/// A turn: from when on, and until when.
#[derive(Clone, Copy)]
struct Turn {
    from: Instant,
    until: Instant,
}

/// A call that waits, also if it is given up.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn of(target: &'a Target) -> Self {
        target.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&target.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// Turns from this store.
    pub fn new(turns: Arc<dyn Turns>, limit: Limit) -> Self {
        Self { turns, limit, targets: Mutex::default() }
    }

    fn target(&self, name: &str) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(targets.entry(name.to_owned()).or_default())
    }

    /// The next turn, booked now if none is left.
    async fn next(&self, name: &str, target: &Target, deadline: Instant) -> Result<Turn, Error> {
        let _waiting = Waiting::of(target);
        let mut booked = target.booked.lock().await;
        let mut has_gathered = false;
        loop {
            // What lapsed while nobody wanted it is lost, so that it cannot come on top of later ones.
            let now = Instant::now();
            if let Some(turn) = booked.left.pop_front() {
                if turn.until > now {
                    return Ok(turn);
                }
                continue;
            }
            if now >= deadline {
                return Err(too_many(name));
            }
            // While turns lie ahead anyway, nothing is lost by waiting a part of that for others to book with: as long as
            // everybody books before the row has run out, no turn stays empty.
            let ahead = booked.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(now)) / 2;
            let gather = ahead.min(GATHER).min((deadline - now) / 2);
            if !has_gathered && !gather.is_zero() {
                has_gathered = true;
                tokio::time::sleep(gather).await;
                continue;
            }
            let most = target.waiting.load(Ordering::Relaxed).clamp(1, self.limit.lease.max(1));
            let turns = self.book(name, most, deadline - now).await?;
            booked.last = turns.last().map(|turn| turn.from);
            booked.left.extend(turns);
        }
    }

    /// Books turns. The store decided at some time between the question and its answer: a turn is taken from when it has
    /// begun for certain, and until when it has not lapsed for certain.
    async fn book(&self, name: &str, most: u32, horizon: Duration) -> Result<Vec<Turn>, Error> {
        let (interval, life) = (self.limit.interval(), self.limit.slack / 2);
        let asked = Instant::now();
        let wanted = Wanted { interval, horizon, most };
        let Booked { turns, wait } = self.turns.book(&format!("key-vault {name}"), wanted).await?;
        let answered = Instant::now();
        if turns == 0 {
            return Err(too_many(name));
        }
        let turn = |n| {
            let after = wait + interval * n;
            Turn { from: answered + after, until: asked + after + life }
        };
        Ok((0..turns).map(turn).collect())
    }
}

fn too_many(name: &str) -> Error {
    Error::new(Kind::Unavailable, WAITING, format!("too many wait to write to {name}"))
}

#[async_trait]
impl Pace for Shared {
    async fn turn(&self, target: &str) -> Result<(), Error> {
        let (deadline, known) = (Instant::now() + self.limit.patience, self.target(target));
        loop {
            let turn = self.next(target, &known, deadline).await?;
            tokio::time::sleep_until(turn.from).await;
            // A process that was held up here must not call on an old turn.
            if Instant::now() <= turn.until {
                return Ok(());
            }
        }
    }
}
