//! How a device stands, in one word: for people who look at a fleet, and for whoever counts it.

use serde::Serialize;

use crate::ids::DeviceId;
use crate::lane::Lane;
use crate::policies::Policies;
use crate::time::UnixMillis;

/// How a device stands. The first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
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

impl Standing {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Confirmed, Self::Overdue, Self::NeverEscrowed, Self::Unverified, Self::OnHold, Self::Orphaned];

    /// In words.
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
            Self::Orphaned => "orphaned",
            Self::OnHold => "on_hold",
            Self::NeverEscrowed => "never_escrowed",
            Self::Unverified => "unverified",
            Self::Overdue => "overdue",
            Self::Confirmed => "confirmed",
        }
    }

    /// What that means.
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
}

/// How a device with these lanes stands.
pub fn standing(
    device: DeviceId,
    listed: bool,
    lanes: &[Lane],
    policies: &Policies,
    now: UnixMillis,
) -> Standing {
    let open: Vec<&Lane> = lanes.iter().filter(|lane| lane.closed.is_none()).collect();
    let due = next_due(device, lanes, policies);
    if !listed {
        Standing::Orphaned
    } else if open.iter().any(|lane| lane.held(now).is_some()) {
        Standing::OnHold
    } else if !open.iter().any(|lane| lane.has_versions()) {
        Standing::NeverEscrowed
    } else {
        match due {
            None => Standing::Unverified,
            Some(due) if due <= now => Standing::Overdue,
            Some(_) => Standing::Confirmed,
        }
    }
}

/// When the next password is due: of the lane that was confirmed last, at once if a rotation was asked for.
pub fn next_due(device: DeviceId, lanes: &[Lane], policies: &Policies) -> Option<UnixMillis> {
    let confirmed = lanes.iter().filter(|lane| lane.closed.is_none());
    let confirmed = confirmed.filter_map(|lane| Some((lane.confirmed?.at, lane)));
    let (at, lane) = confirmed.max_by_key(|(at, _)| *at)?;
    let every = policies.choose(device, &lane.about).rotation.update_frequency;
    Some(lane.forced.unwrap_or(at.plus(every)).min(at.plus(every)))
}

#[cfg(test)]
mod tests {
    use super::Standing;

    #[test]
    fn the_word_is_the_serialised_one() {
        for one in Standing::ALL {
            assert_eq!(serde_json::to_value(one).unwrap(), one.as_str());
        }
    }
}
