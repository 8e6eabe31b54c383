//! Which code a typed error has. Each `match` names every case, so that a new one does not compile without a code.

use std::io;

use keyturn_azure::SetupError;
use keyturn_embedded::OpenError as FileError;
use keyturn_pipeline::replay::NotReplayable;
use keyturn_ports::{Error, Kind};
use keyturn_postgres::OpenError as ServerError;

use super::{Code, Coded};
use crate::backups::BackupError;
use crate::config::ConfigError;
use crate::engines::OpenError;
use crate::http::TlsError;
use crate::keys::KeyError;
use crate::levels::LevelError;
use crate::migration::Problem;
use crate::shell::StartError;

impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Unavailable => Self::EngineAway,
            Kind::Full => Self::DiskFull,
            Kind::Corrupt => Self::DataDamaged,
            Kind::Denied => Self::EngineDenied,
        }
    }
}

impl Coded for Error {
    fn code(&self) -> Code {
        self.kind().into()
    }
}

impl Coded for ConfigError {
    fn code(&self) -> Code {
        match self {
            Self::Missing(_) => Code::ConfigMissing,
            Self::Unreadable { .. } => Code::ConfigUnreadable,
            Self::Syntax(_) | Self::Values { .. } => Code::ConfigInvalid,
        }
    }
}

impl Coded for KeyError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } | Self::NoKeySet { .. } | Self::NoWebhookSecret { .. } => Code::KeyMissing,
            Self::Unreadable { .. } | Self::Exposed { .. } => Code::KeyPermissions,
            Self::Ring { .. }
            | Self::KeySet { .. }
            | Self::Webhook { .. }
            | Self::Exchanged { .. }
            | Self::Signing { .. } => Code::KeyDamaged,
            Self::OtherDeployment { .. }
            | Self::Plain { .. }
            | Self::Wrapped { .. }
            | Self::SignsElsewhere { .. }
            | Self::Unlisted { .. }
            | Self::OtherKey { .. } => Code::KeyMismatch,
            Self::Locked { .. } => Code::EngineAway,
            Self::Wrapping { error, .. } | Self::Signer { error, .. } => error.code(),
        }
    }
}

impl Coded for FileError {
    fn code(&self) -> Code {
        match self {
            Self::Unwritable { .. } | Self::Epoch { .. } => Code::DatabaseUnwritable,
            Self::Foreign { .. } => Code::DatabaseForeign,
            Self::Newer { .. } | Self::NewerToMove { .. } => Code::DatabaseNewer,
            Self::Corrupt { .. } | Self::Restored { .. } | Self::Sqlite { .. } => Code::DataDamaged,
            Self::Locked { .. } | Self::InUse { .. } | Self::Replaced { .. } => Code::DatabaseBusy,
            Self::Leaving { .. } | Self::Gone { .. } => Code::StateLeft,
            Self::Missing { .. } => Code::DatabaseMissing,
            Self::Full { .. } => Code::DiskFull,
            Self::Threads { .. } => Code::System,
        }
    }
}

impl Coded for ServerError {
    fn code(&self) -> Code {
        match self {
            Self::Tls(_) => Code::ServiceSetup,
            Self::Unreachable { .. } => Code::EngineAway,
            Self::Untrusted { .. } => Code::EngineUntrusted,
            Self::Denied { .. } => Code::EngineDenied,
            Self::OldServer { .. } | Self::Encoding { .. } => Code::DatabaseForeign,
            Self::Newer { .. } | Self::NewerToMove { .. } => Code::DatabaseNewer,
            Self::NoTables { .. } => Code::DatabaseEmpty,
            Self::NotThere { .. } => Code::StateNotThere,
            Self::Other { .. } => Code::DataDamaged,
        }
    }
}

impl Coded for SetupError {
    fn code(&self) -> Code {
        match self {
            Self::Credential(_) | Self::File { .. } | Self::Client(_) | Self::Service { .. } => {
                Code::ServiceSetup
            }
        }
    }
}

impl Coded for OpenError {
    fn code(&self) -> Code {
        match self {
            Self::Embedded(error) => error.code(),
            Self::NoDatabase(_) => Code::DatabaseMissing,
            Self::Lost { .. } => Code::DatabaseLost,
            Self::Postgres(error) => error.code(),
            Self::Secret(error) => error.code(),
            Self::Queues(error) => error.code(),
            Self::Azure(error) => error.code(),
        }
    }
}

impl Coded for TlsError {
    fn code(&self) -> Code {
        Code::ServerCertificate
    }
}

impl Coded for StartError {
    fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Open(error) => error.code(),
            Self::Tls(error) => error.code(),
            Self::Logs(_) => Code::ConfigInvalid,
            Self::Bind { .. } => Code::AddressTaken,
            Self::Service(_) => Code::ServiceSetup,
            Self::LogFile { .. } => Code::FileUnwritten,
            Self::System(_) => Code::System,
        }
    }
}

impl Coded for LevelError {
    fn code(&self) -> Code {
        match self {
            // Of an argument the command says so itself.
            Self::Filter { .. } => Code::FileNotMeant,
            Self::File { .. } => Code::FileUnwritten,
        }
    }
}

impl Coded for keyturn_embedded::BackupError {
    fn code(&self) -> Code {
        match self {
            Self::Exists(_) => Code::FileExists,
            Self::File { source, .. } => Code::of_writing(source),
            Self::Unread { .. } => Code::FileUnread,
            Self::Sqlite { .. } => Code::DataDamaged,
            Self::Bad { .. } => Code::BackupUnsound,
            Self::InUse(_) => Code::DatabaseBusy,
        }
    }
}

impl Coded for BackupError {
    fn code(&self) -> Code {
        match self {
            Self::Embedded(error) => error.code(),
            Self::Elsewhere => Code::OtherKindOfDeployment,
        }
    }
}

impl Coded for Problem {
    fn code(&self) -> Code {
        match self {
            Self::NotEmbedded | Self::NotPostgres | Self::Setting { .. } => Code::OtherKindOfDeployment,
            Self::NoDatabase(_) => Code::DatabaseMissing,
            Self::Keys { .. } => Code::KeyMismatch,
            Self::KeyFile(error) => error.code(),
            Self::Origin(error) => error.code(),
            Self::Destination(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::Occupied { .. } | Self::OtherState { .. } => Code::MoveTargetTaken,
            Self::InUse { .. } => Code::DatabaseBusy,
            Self::HalfUndone { .. }
            | Self::Differs { .. }
            | Self::CameAfter { .. }
            | Self::NothingToUndo { .. } => Code::MoveRefused,
            Self::AuditBroken { .. } => Code::AuditBroken,
        }
    }
}

impl Coded for NotReplayable {
    fn code(&self) -> Code {
        Code::NotReplayable
    }
}

impl Code {
    /// The code of what the system says to writing a file.
    pub fn of_writing(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::AlreadyExists => Self::FileExists,
            _ => Self::FileUnwritten,
        }
    }
}
