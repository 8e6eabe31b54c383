//! What SQLite says, in the words of the ports.

use keyturn_ports::{Error, Kind};
use keyturn_schemas::vault::SealError;
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// Why a piece of work on the file failed. It becomes a port's error where the name of the call is known; it can
/// be told to several callers, because one failed commit fails everything that was in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    kind: Kind,
    detail: String,
    lost_sync: bool,
}

impl Failure {
    /// A failure of this kind.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), lost_sync: false }
    }

    /// Something stored cannot be read.
    pub(crate) fn corrupt(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::new(Kind::Corrupt, format!("{what} cannot be read: {why}"))
    }

    /// What happened, in words.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// The error of the call named `action`.
    pub(crate) fn during(&self, action: &'static str) -> Error {
        Error::new(self.kind, action, self.detail.clone())
    }

    /// Whether the disk failed to say that it has what it was given, so that nobody knows what it has.
    pub(crate) fn lost_sync(&self) -> bool {
        self.lost_sync
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let extended = error.sqlite_error().map_or(0, |cause| cause.extended_code);
        Self {
            kind: kind_of(&error, extended),
            detail: error.to_string(),
            lost_sync: matches!(extended, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC),
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

fn kind_of(error: &rusqlite::Error, extended: i32) -> Kind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Kind::Full,
        // The shared-memory index beside the log could not grow: the same disk, the same cause.
        Some(ErrorCode::SystemIoFailure) if extended == ffi::SQLITE_IOERR_SHMSIZE => Kind::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => {
            Kind::Corrupt
        }
        Some(
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied,
        ) => Kind::Denied,
        Some(_) => Kind::Unavailable,
        // Not from SQLite: a column did not hold what its reader expects.
        None => Kind::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: i32) -> Kind {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        Failure::from(error).during("testing").kind()
    }

    #[test]
    fn codes_become_what_a_caller_can_do() {
        assert_eq!(failed(ffi::SQLITE_BUSY), Kind::Unavailable);
        assert_eq!(failed(ffi::SQLITE_FULL), Kind::Full);
        assert_eq!(failed(ffi::SQLITE_IOERR_SHMSIZE), Kind::Full);
        assert_eq!(failed(ffi::SQLITE_IOERR_WRITE), Kind::Unavailable);
        assert_eq!(failed(ffi::SQLITE_CORRUPT), Kind::Corrupt);
        assert_eq!(failed(ffi::SQLITE_NOTADB), Kind::Corrupt);
        assert_eq!(failed(ffi::SQLITE_READONLY), Kind::Denied);
    }
}
