//! Checking backups, and putting one in place of a database that nobody uses.

use std::path::Path;

pub use keyturn_embedded::{BackupError, Checked, Progress, Restored, check};

use crate::config::Data;

/// Puts the backup `from` in place of the deployment's database. Refuses while any process has it open. The next who
/// opens the deployment finds that it was restored. `stamp` is part of the name of the database that is kept.
pub fn restore(
    from: &Path,
    data: &Data,
    stamp: &str,
    progress: Progress<'_>,
) -> Result<Restored, BackupError> {
    keyturn_embedded::restore(from, &data.file, stamp, progress)
}
