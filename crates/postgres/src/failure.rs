//! What PostgreSQL says, in the words of the ports.

use deadpool::managed::{PoolError, TimeoutType};
use keyturn_ports::{Error, Kind};
use keyturn_schemas::vault::SealError;
use tokio_postgres::error::SqlState;

use crate::tls;

/// Why a piece of work on the database failed. It becomes a port's error where the name of the call is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Failure {
    kind: Kind,
    detail: String,
    again: bool,
    untrusted: bool,
}

impl Failure {
    /// A failure of this kind.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), again: false, untrusted: false }
    }

    /// The database will not do it for us.
    pub(crate) fn denied(detail: impl Into<String>) -> Self {
        Self::new(Kind::Denied, detail)
    }

    /// Something stored cannot be read.
    pub(crate) fn corrupt(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::new(Kind::Corrupt, format!("{what} cannot be read: {why}"))
    }

    /// Somebody else was faster: the transaction had no effect, and is to be begun again.
    pub(crate) fn outrun() -> Self {
        Self { again: true, ..Self::new(Kind::Unavailable, "other processes were faster, several times") }
    }

    /// The error of the call named `action`.
    pub(crate) fn during(&self, action: &'static str) -> Error {
        Error::new(self.kind, action, self.detail.clone())
    }

    /// Whether nothing happened, and the same may well succeed at once.
    pub(crate) fn is_worth_another_try(&self) -> bool {
        self.again
    }

    /// Whether whoever answered is not known to be the server.
    pub(crate) fn is_untrusted(&self) -> bool {
        self.untrusted
    }

    /// What a caller can do about it.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(why) = tls::refused(&error) {
            return Self { untrusted: true, ..Self::denied(why) };
        }
        // The server's detail and hint are left out: they repeat rows.
        let detail = match error.as_db_error() {
            Some(said) => format!("PostgreSQL says: {} ({})", said.message(), said.code().code()),
            None => plain(&error),
        };
        let code = error.code();
        let again = code.is_some_and(|code| {
            [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
        });
        // Without a code the connection failed, unless a column did not hold what its reader expects.
        let kind = match code {
            Some(code) => kind_of(code.code()),
            None if detail.contains("deserializing column") => Kind::Corrupt,
            None => Kind::Unavailable,
        };
        Self { kind, detail, again, untrusted: false }
    }
}

/// What a caller can do about an error with this code (postgresql.org/docs/15/errcodes-appendix.html).
fn kind_of(code: &str) -> Kind {
    match (code, code.get(..2).unwrap_or_default()) {
        // disk_full.
        ("53100", _) => Kind::Full,
        // A privilege, a name or a password: nothing that time mends.
        ("42501", _) | (_, "28" | "3D") => Kind::Denied,
        // Constraints, values and tables that are not what this release made, and damage.
        (_, "22" | "23" | "42" | "3F" | "XX" | "P0") => Kind::Corrupt,
        // Shutting down, starting, a standby, too many connections, time-outs, locks, and what nobody thought of.
        _ => Kind::Unavailable,
    }
}

/// What a connection says that does not come about, or broke: what the system says of it, in words that name what to look
/// at; the library's own words where it is something else.
fn plain(error: &tokio_postgres::Error) -> String {
    use std::io::ErrorKind;
    let mut cause = std::error::Error::source(error);
    let mut system = None;
    while let Some(one) = cause {
        system = one.downcast_ref::<std::io::Error>().or(system);
        cause = one.source();
    }
    let text = chain(error)
        .replace("error connecting to server: ", "")
        .replace("error communicating with the server: ", "");
    let why = match system.map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => "nobody listens there",
        Some(ErrorKind::NotFound) => "there is no such socket",
        Some(ErrorKind::PermissionDenied) => "this user may not use its socket",
        Some(ErrorKind::TimedOut) => "it does not answer in time",
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => "no network leads there",
        Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe) => {
            "the connection broke"
        }
        _ if text.contains("lookup address") => "its name leads to no address",
        _ if text.contains("timed out") => "it does not answer in time",
        _ => return text,
    };
    format!("{why}: {text}")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl From<PoolError<Self>> for Failure {
    fn from(error: PoolError<Self>) -> Self {
        match error {
            PoolError::Backend(failure) => failure,
            PoolError::Timeout(TimeoutType::Wait) => Self::new(
                Kind::Unavailable,
                "every connection of this process is busy; if that lasts, raise the number of connections",
            ),
            other => Self::new(Kind::Unavailable, other.to_string()),
        }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        let kind = match error {
            SealError::Damaged => Kind::Corrupt,
            SealError::UnknownKey | SealError::Unusable => Kind::Denied,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_what_a_caller_can_do() {
        for (code, kind) in [
            ("53100", Kind::Full),
            ("53300", Kind::Unavailable),
            ("40001", Kind::Unavailable),
            ("40P01", Kind::Unavailable),
            ("57P01", Kind::Unavailable),
            ("57014", Kind::Unavailable),
            ("25006", Kind::Unavailable),
            ("08006", Kind::Unavailable),
            ("28P01", Kind::Denied),
            ("42501", Kind::Denied),
            ("23505", Kind::Corrupt),
            ("42P01", Kind::Corrupt),
            ("XX001", Kind::Corrupt),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
