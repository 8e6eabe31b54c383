//! For those who want to watch: a display, or a test that pulls the plug.

use keyturn_domain::ids::{RequestId, VersionId};
use keyturn_schemas::result::Code;

/// How far a run has come. Each is told right after it happened and before the next thing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The server took the request.
    Requested(RequestId),
    /// A genuine answer came.
    Answered(Code),
    /// The version is in the journal, on disk, as one that may be in use.
    Journaled(VersionId),
    /// The operating system was asked to set the version, whatever it said.
    Set(VersionId),
    /// A logon proved the version, and the journal says so.
    Proved(VersionId),
    /// The account did not take the version, and the journal says so.
    Refused(VersionId),
    /// The server took the report.
    Reported(RequestId),
    /// The server confirmed that it recorded the report.
    Recorded(RequestId),
}

/// Somebody who watches. Called on the agent's own threads: it must not block.
pub trait Observer: Send + Sync + 'static {
    /// A run came this far.
    fn reached(&self, stage: Stage);
}

/// Nobody watches.
impl Observer for () {
    fn reached(&self, _: Stage) {}
}
