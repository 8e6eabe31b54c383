//! How a device stands, in a word: what `keyturn fleet`, its nightly report and `device show` say of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lane::{self, Lane};
use crate::policies::Policies;
use crate::time::UnixMillis;

/// How a device stands. The first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceStanding {
    /// The directory does not list it, and passwords are known of it.
    Orphaned,
    /// It gets no new password for now.
    OnHold,
    /// No password was ever made for it.
    NeverEscrowed,
    /// Passwords were made, and it has not said that it uses one.
    Unverified,
    /// It confirmed a password, and the next one is due.
    Overdue,
    /// It confirmed its password, and the next one is not due.
    Confirmed,
}

impl DeviceStanding {
    /// All of them, the best first.
    pub const ALL: [Self; 6] =
        [Self::Confirmed, Self::Overdue, Self::NeverEscrowed, Self::Unverified, Self::OnHold, Self::Orphaned];

    /// The words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Orphaned => "orphaned",
            Self::OnHold => "on hold",
            Self::NeverEscrowed => "never escrowed",
            Self::Unverified => "unverified",
            Self::Overdue => "overdue",
            Self::Confirmed => "confirmed",
        }
    }

    /// As it is serialised.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnHold => "on_hold",
            Self::NeverEscrowed => "never_escrowed",
            Self::Orphaned | Self::Unverified | Self::Overdue | Self::Confirmed => self.words(),
        }
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Orphaned => "the directory does not list it, its passwords are kept",
            Self::OnHold => "it gets no new password for now",
            Self::NeverEscrowed => "no password was ever made for it",
            Self::Unverified => "it has not said which of its passwords it uses",
            Self::Overdue => "it uses a known password, and should have come for the next",
            Self::Confirmed => "it uses a known password, and the next is not due",
        }
    }

    /// Whether nobody can rely on a fresh password of it, although the directory lists it and nobody holds it.
    pub const fn is_unwell(self) -> bool {
        matches!(self, Self::NeverEscrowed | Self::Unverified | Self::Overdue)
    }
}

/// How a device with these lanes stands, which the directory lists or not.
pub fn standing(listed: bool, lanes: &[Lane], policies: &Policies, now: UnixMillis) -> DeviceStanding {
    let open: Vec<&Lane> = lanes.iter().filter(|lane| lane.closed.is_none()).collect();
    let due = next_due(lanes, policies);
    if !listed {
        DeviceStanding::Orphaned
    } else if open.iter().any(|lane| lane.held(now).is_some()) {
        DeviceStanding::OnHold
    } else if !open.iter().any(|lane| lane.has_versions()) {
        DeviceStanding::NeverEscrowed
    } else {
        match due {
            None => DeviceStanding::Unverified,
            Some(due) if due <= now => DeviceStanding::Overdue,
            Some(_) => DeviceStanding::Confirmed,
        }
    }
}

/// When the next password is due: of the lane that was confirmed last, at once if a rotation was asked for.
pub fn next_due(lanes: &[Lane], policies: &Policies) -> Option<UnixMillis> {
    let confirmed = lanes.iter().filter(|lane| lane.closed.is_none());
    let confirmed = confirmed.filter_map(|lane| Some((lane.confirmed?.at, lane)));
    let (at, lane) = confirmed.max_by_key(|(at, _)| *at)?;
    let every = policies.choose(lane).rotation.update_frequency;
    Some(lane.forced.unwrap_or(at.plus(every)).min(at.plus(every)))
}

/// What a device may have at most of new passwords, when it has had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    /// As many as this.
    pub versions: usize,
    /// Within this long.
    pub window: Duration,
    /// When the next may be made. What is outstanding is sent before that as well.
    pub until: UnixMillis,
}

/// The cap that keeps a device from a new password at `now`, whatever is due or asked for, under the policy of the lane
/// that was heard last.
pub fn capped(lanes: &[Lane], policies: &Policies, now: UnixMillis) -> Option<Cap> {
    let heard = lanes.iter().max_by_key(|lane| lane.last.map(|last| last.received))?;
    let policy = &policies.choose(heard).rotation;
    let until = lane::capped(lanes, policy, now)?;
    Some(Cap { versions: policy.versions_per_window, window: policy.version_window, until })
}

#[cfg(test)]
mod tests {
    use super::DeviceStanding;

    #[test]
    fn the_word_is_the_serialised_one() {
        for one in DeviceStanding::ALL {
            assert_eq!(serde_json::to_value(one).unwrap(), one.as_str());
        }
    }
}
