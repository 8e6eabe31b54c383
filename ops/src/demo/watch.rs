//! Watching a round: when each device reached which stage, and the table of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyturn_agent::Outcome;
use keyturn_agent::observer::{Observer, Stage};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;

use super::fleet::Settled;
use crate::output;
use crate::output::say;

/// The times at which one run reached its stages.
pub(super) struct Stages {
    started: Duration,
    reached: Mutex<Vec<(Stage, Duration)>>,
}

impl Stages {
    /// A run that starts now.
    pub(super) fn start() -> Self {
        Self { started: SystemClock.monotonic(), reached: Mutex::default() }
    }

    /// How long after the start the first stage that `wanted` picks was reached.
    fn first(&self, wanted: impl Fn(&Stage) -> bool) -> String {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let at = reached.iter().find(|(stage, _)| wanted(stage)).map(|(_, at)| *at);
        at.map_or_else(|| "–".to_owned(), |at| format!("{} ms", at.saturating_sub(self.started).as_millis()))
    }
}

impl Observer for Stages {
    fn reached(&self, stage: Stage) {
        let now = SystemClock.monotonic();
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).push((stage, now));
    }
}

/// Prints how every device came out of a round.
pub(super) fn table(settled: &[Settled]) {
    let mut table = output::plain();
    table.set_header(["DEVICE", "OUTCOME", "ACCEPTED", "ANSWERED", "SET", "CONFIRMED", "VERSION"]);
    for one in settled {
        let stage = |wanted: fn(&Stage) -> bool| one.stages.first(wanted);
        let (outcome, version) = match &one.outcome {
            Ok(outcome @ Outcome::Rotated { version, .. }) => {
                (outcome.code().to_owned(), version.to_string())
            }
            Ok(outcome) => (outcome.code().to_owned(), String::new()),
            Err(error) => (format!("failed: {error}"), String::new()),
        };
        table.add_row([
            one.device.name.clone(),
            outcome,
            stage(|stage| matches!(stage, Stage::Requested(_))),
            stage(|stage| matches!(stage, Stage::Answered(_))),
            stage(|stage| matches!(stage, Stage::Set(_))),
            stage(|stage| matches!(stage, Stage::Recorded(_))),
            version,
        ]);
    }
    say!("{}", table.trim_fmt());
}
