//! Chores: what a deployment does once in a while, whichever of its processes gets to it, and what came of it last.

use async_trait::async_trait;
use keyturn_domain::time::UnixMillis;

use crate::Error;

/// A chore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chore {
    /// Comparing directory and ledger, device by device.
    FleetReport,
    /// Copying confirmed passwords to where plain vault tools find them.
    ConfirmedCopies,
}

impl Chore {
    /// Its name in a store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FleetReport => "fleet_report",
            Self::ConfirmedCopies => "confirmed_copies",
        }
    }
}

/// What came of a chore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// When it was begun.
    pub at: UnixMillis,
    /// What it found, in the words of whoever did it: JSON of at most 1 MiB.
    pub text: String,
}

/// The chores of a deployment.
///
/// A turn is taken by one caller, for as long as it says. One who dies in it leaves it to the next who asks after
/// that; one who is late and finishes all the same does no harm, since the report begun last stays.
#[async_trait]
pub trait Chores: Send + Sync {
    /// Takes the turn of a chore that is due at `now`, until `until`. Returns whether the caller has it. A chore that
    /// was never done is due.
    async fn take(&self, chore: Chore, now: UnixMillis, until: UnixMillis) -> Result<bool, Error>;

    /// Keeps a report, unless a later one is there, and says when the chore is due again.
    async fn finish(&self, chore: Chore, report: Report, due: UnixMillis) -> Result<(), Error>;

    /// The last report.
    async fn last(&self, chore: Chore) -> Result<Option<Report>, Error>;
}
