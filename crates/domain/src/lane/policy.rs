//! The numbers that govern a lane. Each is a setting; the defaults are the protocol's.

use std::time::Duration;

/// When to rotate and when to refrain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// A confirmed version is due for replacement after this long (CloudLAPS `UpdateFrequencyDays`).
    pub update_frequency: Duration,
    /// A request is answered "expired" when it is older than this, however long its sender would wait.
    pub request_max_age: Duration,
    /// At most this many lanes for a device.
    pub lanes_per_device: usize,
    /// At most this many new versions for a device in `version_window`.
    pub versions_per_window: usize,
    /// See `versions_per_window`.
    pub version_window: Duration,
    /// This many refusals within `hold_window` hold the lane for `hold_window`.
    pub refusals_to_hold: usize,
    /// See `refusals_to_hold`.
    pub hold_window: Duration,
    /// A lane that another one has outlived is shown for this long; see [`super::Lane::is_open`].
    pub former_after: Duration,
    /// How far a lane's newest message may lie in the future before it is reset.
    pub future_skew: Duration,
}

const DAY: Duration = Duration::from_hours(24);

impl Default for RotationPolicy {
    fn default() -> Self {
        Self {
            update_frequency: DAY.saturating_mul(3),
            request_max_age: Duration::from_hours(1),
            lanes_per_device: 4,
            versions_per_window: 4,
            version_window: DAY,
            refusals_to_hold: 3,
            hold_window: DAY,
            former_after: DAY.saturating_mul(30),
            future_skew: Duration::from_mins(1),
        }
    }
}
