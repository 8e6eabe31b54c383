//! Rotations asked for of many devices: a list that is stored before it is begun, and worked off one by one.

use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use serde::Serialize;

use crate::Error;
use crate::audit::NewRow;

/// A job's number, ascending in the order in which they were begun. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// A job to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// When, by whom and why: the audit row that is appended with the job. Its detail says what was selected.
    pub row: NewRow,
    /// What was selected, in one line: the same text for the same selection.
    pub selection: String,
    /// How many devices may be asked per minute; none for as fast as it goes.
    pub per_minute: Option<NonZeroU32>,
    /// The devices, each once, in the order in which they are asked.
    pub devices: Vec<DeviceId>,
}

/// A job as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// When it was begun.
    pub at: UnixMillis,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What was selected.
    pub selection: String,
    /// How many devices may be asked per minute.
    pub per_minute: Option<NonZeroU32>,
    /// How many devices it has.
    pub devices: u64,
    /// How many of them have been asked.
    pub asked: u64,
    /// When the last one was asked.
    pub last: Option<UnixMillis>,
}

impl Job {
    /// Whether every device has been asked.
    pub fn is_finished(&self) -> bool {
        self.asked >= self.devices
    }

    /// The next device may not be asked before this instant.
    pub fn not_before(&self) -> Option<UnixMillis> {
        Some(self.last?.plus(self.pause()))
    }

    /// How long after one device the next one may be asked.
    pub fn pause(&self) -> Duration {
        let millis = self.per_minute.map_or(0, |per_minute| 60_000_u32.div_ceil(per_minute.get()));
        Duration::from_millis(millis.into())
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This device was asked; it has so many open lanes.
    Asked {
        /// The device.
        device: DeviceId,
        /// Its open lanes.
        lanes: usize,
    },
    /// Nothing was done: the next device may not be asked before this instant.
    NotBefore(UnixMillis),
    /// There is no device left, or no such job.
    Finished,
}

/// Jobs of forced rotations.
///
/// `begin` is durable when it returns. `step` is one transaction: the audit row of the device, its lanes and the
/// mark that it was asked come to be together or not at all, so a job that is cut off at any moment and stepped on,
/// by whoever and by several at once, asks every device exactly once, and keeps to its pace.
#[async_trait]
pub trait Rotations: Send + Sync {
    /// The devices for which a version was minted at `since` or later, in order.
    async fn minted_since(&self, since: UnixMillis) -> Result<Vec<DeviceId>, Error>;

    /// Stores a job and its audit row, whose detail gets the job's number in front.
    async fn begin(&self, job: NewJob) -> Result<JobId, Error>;

    /// The job of this number.
    async fn job(&self, id: JobId) -> Result<Option<Job>, Error>;

    /// At most `limit` jobs, newest first.
    async fn jobs(&self, limit: usize) -> Result<Vec<Job>, Error>;

    /// The devices of a job, in their order, and when each of them was asked.
    async fn devices_of(&self, id: JobId) -> Result<Vec<(DeviceId, Option<UnixMillis>)>, Error>;

    /// Asks the next device of a job for a rotation, at `at`, in the name of `actor`.
    async fn step(&self, id: JobId, at: UnixMillis, actor: &str) -> Result<Step, Error>;
}
