//! Which engines of a process answer, since when, and what they said last: for `/readyz` and `keyturn_engine_up`.
//!
//! Engines are asked in the background, each by a task of its own and never because somebody asked this process, so that
//! an answer costs nothing and does not change from one request to the next. One that fails is away after
//! `health.away_after` failures in a row, and back after one success.
//!
//! A process is unready while an engine is away without which it can do none of its work. Everything else is told and
//! changes nothing: an ingress goes on taking messages while the vault or a queue behind it is away, because they are
//! stored in the state first and wait there; taken out of service, it would turn that wait into a failure for the device.

mod engines;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_schemas::envelope::rfc3339;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::engines::Part;
pub(crate) use self::engines::{Asked, asked, of_hop};

/// How engines are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    /// The pause between two questions.
    pub(crate) every: Duration,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// After how many failures in a row an engine is away.
    pub(crate) away_after: u32,
}

/// How the engines of a process stand.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<Vec<Standing>>>);

/// How one engine stands.
#[derive(Clone, Debug)]
struct Standing {
    name: &'static str,
    needed: bool,
    state: State,
    /// Failures since it answered last, and when they began.
    failing: Option<(u32, UnixMillis)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unasked,
    Up { since: UnixMillis },
    Away { since: UnixMillis, why: String },
}

/// What changed with an answer.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    Left,
    Back { after: Duration },
}

impl Standing {
    /// Notes what an engine said at `now`.
    fn note(&mut self, said: Result<(), String>, now: UnixMillis, away_after: u32) -> Change {
        let why = match said {
            Ok(()) => {
                self.failing = None;
                let after = match &self.state {
                    State::Up { .. } => return Change::None,
                    State::Unasked => None,
                    State::Away { since, .. } => Some(now.since(*since)),
                };
                self.state = State::Up { since: now };
                return after.map_or(Change::None, |after| Change::Back { after });
            }
            Err(why) => why,
        };
        let (failed, first) =
            self.failing.map_or((1, now), |(failed, first)| (failed.saturating_add(1), first));
        self.failing = Some((failed, first));
        let since = match &self.state {
            State::Away { since, .. } => *since,
            State::Unasked | State::Up { .. } if failed >= away_after => first,
            State::Unasked | State::Up { .. } => return Change::None,
        };
        let left = !matches!(self.state, State::Away { .. });
        self.state = State::Away { since, why };
        if left { Change::Left } else { Change::None }
    }

    fn line(&self) -> String {
        let Self { name, needed, state, .. } = self;
        let wait = if *needed { "" } else { " (can be waited for)" };
        let when = |at: &UnixMillis| rfc3339(UnixMillis(at.0 / 1000 * 1000)).replace(".000Z", "Z");
        let line = match state {
            State::Unasked => format!("{name}{wait}: not known yet"),
            State::Up { since } => format!("{name}{wait}: up since {}", when(since)),
            State::Away { since, why } => format!("{name}{wait}: away since {}: {why}", when(since)),
        };
        line.replace(char::is_control, " ") + "\n"
    }
}

impl Standings {
    /// Asks these engines until `stop`.
    pub(crate) fn watch(
        &self,
        asked: Vec<Asked>,
        rhythm: Rhythm,
        clock: &Arc<dyn Clock>,
        stop: &CancellationToken,
    ) {
        let standing = |one: &Asked| Standing {
            name: one.name,
            needed: one.needed,
            state: State::Unasked,
            failing: None,
        };
        *self.lock() = asked.iter().map(standing).collect();
        for one in asked {
            let (this, clock, stop) = (self.clone(), Arc::clone(clock), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = this.ask(one, rhythm, &*clock) => {}
                }
            });
        }
    }

    async fn ask(&self, one: Asked, rhythm: Rhythm, clock: &dyn Clock) {
        loop {
            let answer = tokio::time::timeout(rhythm.timeout, (one.ask)()).await;
            let said = match answer {
                Ok(answer) => answer.map_err(|error: Error| error.to_string()),
                Err(_) => Err(format!("no answer within {} ms", rhythm.timeout.as_millis())),
            };
            self.note(one.name, said, clock.now(), rhythm.away_after);
            tokio::time::sleep(rhythm.every).await;
        }
    }

    fn note(&self, name: &'static str, said: Result<(), String>, now: UnixMillis, away_after: u32) {
        let mut all = self.lock();
        let Some(standing) = all.iter_mut().find(|one| one.name == name) else { return };
        let why = said.as_ref().err().cloned().unwrap_or_default();
        match standing.note(said, now, away_after) {
            Change::None => {}
            Change::Left => warn!(engine = name, error = %why, "an engine is away; what needs it waits"),
            Change::Back { after } => {
                info!(engine = name, away_seconds = after.as_secs(), "an engine is back");
            }
        }
        match &standing.state {
            State::Unasked => {}
            State::Up { .. } => metrics::gauge!("keyturn_engine_up", "engine" => name).set(1.0),
            State::Away { .. } => metrics::gauge!("keyturn_engine_up", "engine" => name).set(0.0),
        }
    }

    /// Whether every engine that is needed answers, and a line for each engine.
    pub(crate) fn tell(&self) -> (bool, String) {
        let all = self.lock();
        let ready = all.iter().all(|one| !one.needed || matches!(one.state, State::Up { .. }));
        (ready, all.iter().map(Standing::line).collect())
    }

    /// Whether this engine is known to be away.
    pub(crate) fn is_away(&self, name: &str) -> bool {
        self.lock().iter().any(|one| one.name == name && matches!(one.state, State::Away { .. }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
