//! Setting a password: the one part of a run that must not be torn. It is a plain function over the journal and
//! the account; the agent runs it on a thread of its own, so that nothing but the end of the process stops it
//! halfway, and even that does no harm.

use keyturn_domain::ids::VersionId;
use keyturn_domain::journal::Journal;

use crate::accounts::{Accounts, Verdict};
use crate::answer::Offer;
use crate::journal_file::JournalFile;
use crate::observer::{Observer, Stage};
use crate::{disk, events};

/// What became of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The account has it.
    Proved,
    /// The account does not have it.
    Refused,
    /// It could not be told. The version stays in doubt, and the server will send it again.
    Unproved,
}

/// Where it is done.
pub(crate) struct Bench<'a> {
    pub(crate) file: &'a JournalFile,
    pub(crate) accounts: &'a dyn Accounts,
    pub(crate) observer: &'a dyn Observer,
}

/// Sets a version: journal first, then the account, then the proof, then the journal again.
///
/// Whether the system says yes or no to the password decides nothing: some say no and set it all the same. The
/// logon decides. Without one that could be tried, nothing is claimed.
pub(crate) fn apply(journal: &mut Journal, offer: &Offer, bench: &Bench<'_>) -> Result<Applied, disk::Error> {
    let version = offer.version;
    journal.setting(version);
    bench.file.save(journal)?;
    bench.observer.reached(Stage::Journaled(version));
    let set = bench.accounts.set(&offer.password);
    bench.observer.reached(Stage::Set(version));
    let verdict = bench.accounts.verify(&offer.password);
    // An unknown mark will differ from the true one at the next start, which then doubts: the safe way to be wrong.
    let mark = bench.accounts.find().ok().flatten().and_then(|found| found.mark);
    match (verdict, set) {
        (Ok(Verdict::Accepted), _) => {
            journal.proved(version, mark);
            events::version_proved(version);
            close(journal, bench, Stage::Proved(version))?;
            Ok(Applied::Proved)
        }
        (Ok(Verdict::Rejected), set) => {
            journal.refused(version, mark);
            explain_refusal(version, set.err());
            close(journal, bench, Stage::Refused(version))?;
            Ok(Applied::Refused)
        }
        (Err(error), _) => {
            events::unproved(version, &error);
            Ok(Applied::Unproved)
        }
    }
}

fn close(journal: &Journal, bench: &Bench<'_>, stage: Stage) -> Result<(), disk::Error> {
    bench.file.save(journal)?;
    bench.observer.reached(stage);
    Ok(())
}

fn explain_refusal(version: VersionId, error: Option<crate::accounts::Error>) {
    match error {
        Some(error) => events::account_refused(version, &error),
        None => events::account_refused(version, &"it was set, but a logon with it fails"),
    }
}
