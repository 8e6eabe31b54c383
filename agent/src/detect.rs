//! Whether this device has something to do, judged by what is on it: no network, no lock, no change. For management
//! tools that ask first and act after.

use std::fmt;
use std::time::Duration;

use keyturn_domain::journal::Journal;
use keyturn_domain::time::UnixMillis;

use crate::accounts::Found;
use crate::outcome::When;
use crate::status::LastRun;

/// A device that has not spoken with its server for this long, or for two check-ins where those are longer, should.
const SILENCE: Duration = Duration::from_hours(24);

/// How far a device's clock may have gone back before what it wrote about the past is doubted.
const SLACK: Duration = Duration::from_mins(5);

/// What is known of the device.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The journal; an empty one where there is none.
    pub journal: &'a Journal,
    /// The account, if it exists.
    pub found: Option<&'a Found>,
    /// The last run, if there was one.
    pub last: Option<&'a LastRun>,
    /// How often the agent checks in.
    pub check_in: Duration,
}

/// What there is to do, the most pressing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing, until this instant by the server's clock.
    Fine(Option<UnixMillis>),
    /// The account does not exist.
    Missing,
    /// The agent has not run yet.
    NeverRun,
    /// The password is not the one that the agent set.
    Changed,
    /// The agent does not know which of its versions the account has.
    InDoubt,
    /// The last run did not end as it should.
    Failed {
        /// Its word.
        code: String,
        /// Its line.
        line: String,
    },
    /// A rotation is due since this instant, by the server's clock.
    Due(UnixMillis),
    /// The device has not spoken with its server since this instant.
    Silent(UnixMillis),
}

/// What there is to do. What the device knows of itself comes first, then what the server said last. The server may
/// want a rotation that the device does not know of, so silence is a finding as well.
pub fn look(known: Known<'_>, now: UnixMillis) -> Finding {
    let Known { journal, found, last, check_in } = known;
    let Some(found) = found else { return Finding::Missing };
    let Some(last) = last else { return Finding::NeverRun };
    if journal.cur.is_some() && journal.password_set != found.mark {
        return Finding::Changed;
    }
    if !last.is_good() {
        return Finding::Failed { code: last.code.clone(), line: last.line.clone() };
    }
    if journal.cur.is_none() || !journal.in_doubt.is_empty() {
        return Finding::InDoubt;
    }
    match last.next {
        Some(next) if next <= now => Finding::Due(next),
        _ if is_silent(last.at, check_in, now) => Finding::Silent(last.at),
        next => Finding::Fine(next),
    }
}

fn is_silent(last: UnixMillis, check_in: Duration, now: UnixMillis) -> bool {
    let most = SILENCE.max(check_in.saturating_mul(2));
    now > last.plus(most) || last > now.plus(SLACK)
}

impl Finding {
    /// Whether there is nothing to do.
    pub fn is_fine(&self) -> bool {
        matches!(self, Self::Fine(_))
    }

    /// The stable word for it.
    pub fn code(&self) -> &str {
        match self {
            Self::Fine(_) => "not_due",
            Self::Missing => "account",
            Self::NeverRun => "never_run",
            Self::Changed => "changed",
            Self::InDoubt => "in_doubt",
            Self::Failed { code, .. } => code,
            Self::Due(_) => "due",
            Self::Silent(_) => "silent",
        }
    }
}

/// One line, without a secret.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fine(Some(at)) => write!(f, "Fine: not due until {}.", When(*at)),
            Self::Fine(None) => write!(f, "Fine: nothing is due."),
            Self::Missing => write!(f, "The managed account does not exist."),
            Self::NeverRun => write!(f, "The agent has not run yet."),
            Self::Changed => write!(f, "The password was changed by other means than the agent."),
            Self::InDoubt => write!(f, "Which version the account has is not known."),
            // The line of the run has the word already.
            Self::Failed { line, .. } => return write!(f, "The last run: {line}"),
            Self::Due(at) => write!(f, "A rotation is due since {}.", When(*at)),
            Self::Silent(at) => write!(f, "The server has not been spoken with since {}.", When(*at)),
        }?;
        write!(f, " code={}", self.code())
    }
}

#[cfg(test)]
mod tests {
    use keyturn_domain::ids::VersionId;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    fn journal() -> Journal {
        Journal { cur: Some(VersionId([1; 16])), password_set: Some(7), ..Journal::default() }
    }

    fn found(mark: u64) -> Found {
        Found { id: "1001".parse().unwrap(), mark: Some(mark), set_at: None }
    }

    fn run(code: &str, next: Option<UnixMillis>) -> LastRun {
        LastRun { at: NOW, code: code.to_owned(), line: format!("A line. code={code}"), next }
    }

    fn at(journal: &Journal, mark: u64, last: &LastRun, now: UnixMillis) -> Finding {
        look(Known { journal, found: Some(&found(mark)), last: Some(last), check_in: HOUR }, now)
    }

    #[test]
    fn a_device_that_is_fine_is_told_from_one_that_is_not() {
        let later = NOW.plus(HOUR);
        let not_due = run("not_due", Some(later));
        assert_eq!(at(&journal(), 7, &not_due, NOW), Finding::Fine(Some(later)));
        assert_eq!(at(&journal(), 7, &run("rotated", None), NOW), Finding::Fine(None));
        assert_eq!(at(&journal(), 7, &not_due, later), Finding::Due(later));
        assert_eq!(at(&journal(), 8, &not_due, NOW), Finding::Changed);
        assert_eq!(at(&Journal::default(), 7, &not_due, NOW), Finding::InDoubt);
        let doubtful = Journal { in_doubt: vec![VersionId([2; 16])], ..journal() };
        assert_eq!(at(&doubtful, 7, &not_due, NOW), Finding::InDoubt);
        let failed = at(&journal(), 7, &run("unreachable", None), NOW);
        assert_eq!((failed.code(), failed.is_fine()), ("unreachable", false));
        assert_eq!(failed.to_string(), "The last run: A line. code=unreachable");
        let journal = journal();
        let known = Known { journal: &journal, found: None, last: None, check_in: HOUR };
        assert_eq!(look(known, NOW), Finding::Missing);
        assert_eq!(look(Known { found: Some(&found(7)), ..known }, NOW), Finding::NeverRun);
    }

    #[test]
    fn silence_and_a_clock_that_went_back_are_findings() {
        let rotated = run("rotated", None);
        let days = |days: u64| Duration::from_hours(24 * days);
        assert_eq!(at(&journal(), 7, &rotated, NOW.plus(days(1))), Finding::Fine(None));
        assert_eq!(at(&journal(), 7, &rotated, NOW.plus(days(2))), Finding::Silent(NOW));
        assert_eq!(at(&journal(), 7, &rotated, UnixMillis(NOW.0 - 3_600_000)), Finding::Silent(NOW));
    }
}
