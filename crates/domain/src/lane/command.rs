//! What an operator does to the lanes of a device, and which of them it changes.
//!
//! Passwords are asked for and withheld where something may still happen: a lane that is closed is left as it is. A hold
//! ends wherever there is one, of either kind.

use super::Lane;
use crate::ids::LaneId;
use crate::time::UnixMillis;

/// A command of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask for a new password at the next check-in, however far off that is.
    Force {
        /// When it was asked for.
        at: UnixMillis,
    },
    /// Show the candidates of this lane no more.
    Close {
        /// Which.
        lane: LaneId,
        /// When.
        at: UnixMillis,
    },
    /// Make no new password.
    Hold {
        /// Until then.
        until: UnixMillis,
    },
    /// End a hold.
    Release,
}

impl Command {
    /// Does it to a lane. Returns whether it is a lane that the command is for, so that it has to be stored.
    pub fn apply(&self, lane: &mut Lane) -> bool {
        match *self {
            Self::Force { at } if lane.closed.is_none() => lane.force(at),
            Self::Close { lane: named, at } if lane.key.id() == named => lane.close(at),
            Self::Hold { until } if lane.closed.is_none() => lane.hold(until),
            Self::Release if lane.held_until.is_some() || lane.on_hold.is_some() => lane.release(),
            _ => return false,
        }
        true
    }
}
