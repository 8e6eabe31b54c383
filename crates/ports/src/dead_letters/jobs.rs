//! What is done to many dead letters: a list that is stored before it is begun, and worked off one by one, like
//! [`crate::rotations`].

use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::{DeadLetter, DeadLetterId};
use crate::Error;
use crate::audit::NewRow;
use crate::queue::QueueName;

/// A job's number, ascending in the order in which they were begun. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// What is done to each letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// It goes back on its way.
    Replay,
    /// It is gone for good.
    Discard,
}

impl Act {
    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }
}

/// A job to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// When, by whom and why: the audit row that is appended with the job.
    pub row: NewRow,
    /// What is done.
    pub act: Act,
    /// What was selected, in one line: the same text for the same selection.
    pub selection: String,
    /// How many letters may be moved per minute; none for as fast as it goes.
    pub per_minute: Option<NonZeroU32>,
    /// The letters, each once.
    pub letters: Vec<DeadLetterId>,
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
    /// What is done.
    pub act: Act,
    /// Why.
    pub reason: String,
    /// What was selected.
    pub selection: String,
    /// How many letters may be moved per minute.
    pub per_minute: Option<NonZeroU32>,
    /// How many letters it has.
    pub letters: u64,
    /// How many of them it is done with.
    pub done: u64,
    /// How many of these it moved or took away; the others were gone before, or could not be moved.
    pub moved: u64,
    /// When it was last done with one.
    pub last: Option<UnixMillis>,
}

impl Job {
    /// Whether it is done with every letter.
    pub fn is_finished(&self) -> bool {
        self.done >= self.letters
    }

    /// The next letter may not be touched before this instant.
    pub fn not_before(&self) -> Option<UnixMillis> {
        let millis = self.per_minute.map(|per_minute| 60_000_u32.div_ceil(per_minute.get()))?;
        Some(self.last?.plus(Duration::from_millis(millis.into())))
    }
}

/// What is to become of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// It moves to this queue with this body. In a job of [`Act::Replay`] only.
    To(QueueName, String),
    /// It is taken away. In a job of [`Act::Discard`] only.
    Away,
    /// It stays, and the job is done with it.
    Stay,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many letters more are done with.
    Done(u64),
    /// Nothing was done: the next letter may not be touched before this instant.
    NotBefore(UnixMillis),
    /// There is no letter left, or no such job.
    Finished,
}

/// Jobs on dead letters.
///
/// `begin` is durable when it returns. `step` is one transaction: the audit row of a letter, its move and the mark
/// that it was done come to be together or not at all. So a job that is cut off at any moment and stepped on, by
/// whoever and by several at once, moves every letter once and keeps to its pace.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// At most `limit` dead letters that died before the one with this number, or the newest, newest first.
    async fn before(&self, id: Option<DeadLetterId>, limit: usize) -> Result<Vec<DeadLetter>, Error>;

    /// Stores a job and its audit row, whose detail gets the job's number in front.
    async fn begin(&self, job: NewJob) -> Result<JobId, Error>;

    /// The job of this number.
    async fn job(&self, id: JobId) -> Result<Option<Job>, Error>;

    /// At most `limit` jobs, newest first.
    async fn jobs(&self, limit: usize) -> Result<Vec<Job>, Error>;

    /// At most `limit` letters of a job that it is not done with, in the order of their numbers.
    async fn pending(&self, id: JobId, limit: usize) -> Result<Vec<DeadLetterId>, Error>;

    /// Deals with these letters of a job, at `at`, in the name of `actor`: with all of them, or, if the job has a
    /// pace, with one. Those the job is done with, or never had, are left alone; those that are gone are done with.
    async fn step(
        &self,
        id: JobId,
        at: UnixMillis,
        actor: &str,
        moves: Vec<(DeadLetterId, Move)>,
    ) -> Result<Step, Error>;
}
