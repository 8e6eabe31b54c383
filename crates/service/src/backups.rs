//! Checking backups, and putting one in place of a database that nobody uses. Those of PostgreSQL are its own.

use std::path::Path;

pub use keyturn_embedded::{Checked, Progress, Restored, check, sum_file};

use crate::config::Config;

/// Why a backup is not made or not put back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file.
    #[error(transparent)]
    Embedded(#[from] keyturn_embedded::BackupError),
    /// There is no file.
    #[error(
        "the state is in PostgreSQL (state.engine), whose own tools back it up and put it back; see docs/POSTGRESQL.md"
    )]
    Elsewhere,
}

/// Puts the backup `from` in place of the deployment's database. Refuses while any process has it open. The next who
/// opens the deployment finds that it was restored. `stamp` is part of the name of the database that is kept.
pub fn restore(
    from: &Path,
    config: &Config,
    stamp: &str,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    if config.postgres.is_some() {
        return Err(BackupError::Elsewhere);
    }
    Ok(keyturn_embedded::restore(from, &config.sections.data.file, stamp, progress)?)
}
