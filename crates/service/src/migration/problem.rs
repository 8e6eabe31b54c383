//! Why a state is not moved, and what mends it.

use std::path::PathBuf;

use keyturn_ports::Error;

use crate::keys::KeyError;

/// Why a state is not moved. The deployment is as it was, or the same command goes on.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// What is to move is elsewhere.
    #[error(
        "--config names a deployment whose state is not in a file: name the one it moves from (state.engine)"
    )]
    NotEmbedded,
    /// There is nothing to move.
    #[error("{}: there is no database to move; mend data.file in --config", .0.display())]
    NoDatabase(PathBuf),
    /// It is to go elsewhere.
    #[error(
        "--to names a configuration whose state is not in PostgreSQL: set state.engine and state.postgres there"
    )]
    NotPostgres,
    /// The configurations are not of one deployment.
    #[error(
        "{setting} is not the same in both configurations: make --to a copy of --config, and change [state] alone"
    )]
    Setting {
        /// What differs.
        setting: &'static str,
    },
    /// What is sealed could not be opened.
    #[error(
        "{} lacks a master key of the vault that the deployment has: no password sealed under it could be read; copy \
         the key files first",
        folder.display()
    )]
    Keys {
        /// The folder of the keys.
        folder: PathBuf,
    },
    /// A key file.
    #[error(transparent)]
    KeyFile(#[from] KeyError),
    /// The file.
    #[error(transparent)]
    Origin(#[from] keyturn_embedded::OpenError),
    /// The database.
    #[error(transparent)]
    Destination(#[from] keyturn_postgres::OpenError),
    /// Either, while it is read or written.
    #[error("{0}; run the same command again when that is mended")]
    Store(#[from] Error),
    /// The database has something.
    #[error(
        "{place} is not empty ({by}): name an empty database, or empty this one with DROP SCHEMA keyturn CASCADE if \
         nobody needs what is in it"
    )]
    Occupied {
        /// The database.
        place: String,
        /// A table that has rows.
        by: &'static str,
    },
    /// Others use it.
    #[error(
        "{place} is in use by {connections} connections of Keyturn: stop those processes, then try again"
    )]
    InUse {
        /// The database.
        place: String,
        /// How many.
        connections: u64,
    },
    /// The state went, or is going, somewhere else.
    #[error(
        "{place} is not where the state moves: that is {to}, and another move is in this one; name the right --to"
    )]
    OtherState {
        /// The database.
        place: String,
        /// Where it moves.
        to: String,
    },
    /// An undo was cut off.
    #[error("{} was on its way back: run `keyturn migrate --undo` to its end", path.display())]
    HalfUndone {
        /// The file.
        path: PathBuf,
    },
    /// Both sides have not the same.
    #[error(
        "{table} is not the same on both sides, so nothing was switched over: give the move up with `keyturn migrate \
         --undo`, empty the database, and begin again"
    )]
    Differs {
        /// The table.
        table: &'static str,
    },
    /// There was work on the new side.
    #[error(
        "{place} has what the file lacks ({table}): going back would lose it. With --danger-leave-behind it is lost: \
         devices whose passwords changed since are then shown with older ones, and are heard anew"
    )]
    CameAfter {
        /// The database.
        place: String,
        /// A table that differs.
        table: &'static str,
    },
    /// The audit is broken.
    #[error(
        "the audit in {side} is broken at row {seq}: see docs/runbooks/audit-broken.md before anything moves"
    )]
    AuditBroken {
        /// Which.
        side: &'static str,
        /// Where.
        seq: u64,
    },
    /// The file has not been left.
    #[error("the state in {} has not moved: there is nothing to undo", path.display())]
    NothingToUndo {
        /// The file.
        path: PathBuf,
    },
}
