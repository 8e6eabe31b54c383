//! The journal on disk.

use std::path::{Path, PathBuf};

use keyturn_domain::journal::{Journal, VERSION};
use keyturn_domain::time::UnixMillis;

use crate::{disk, events};

/// Where the journal is kept.
#[derive(Clone, Debug)]
pub struct JournalFile {
    path: PathBuf,
}

impl JournalFile {
    /// The journal of a state folder.
    pub fn new(folder: &Path) -> Self {
        Self { path: folder.join("journal.json") }
    }

    /// Reads the journal without changing anything; none if there is none or it cannot be understood.
    pub fn peek(&self) -> Result<Option<Journal>, disk::Error> {
        Ok(disk::read(&self.path)?.and_then(|content| parse(&content)))
    }

    /// Whether there is a journal that cannot be understood.
    pub fn is_damaged(&self) -> Result<bool, disk::Error> {
        Ok(disk::read(&self.path)?.is_some_and(|content| parse(&content).is_none()))
    }

    /// Reads the journal. One that is missing is empty; one that cannot be understood is kept aside and counts as
    /// lost, because a guess could make the device claim a password that it does not have.
    pub fn load(&self, now: UnixMillis) -> Result<Journal, disk::Error> {
        let Some(content) = disk::read(&self.path)? else { return Ok(Journal::default()) };
        if let Some(journal) = parse(&content) {
            return Ok(journal);
        }
        let aside = disk::set_aside(&self.path, now)?;
        events::journal_corrupt(&aside);
        Ok(Journal::default())
    }

    /// Writes the journal. It is on disk when this returns.
    pub fn save(&self, journal: &Journal) -> Result<(), disk::Error> {
        let mut content = serde_json::to_vec_pretty(journal).unwrap_or_default();
        content.push(b'\n');
        disk::replace(&self.path, &content)
    }
}

fn parse(content: &[u8]) -> Option<Journal> {
    serde_json::from_slice(content).ok().filter(|journal: &Journal| journal.v == VERSION)
}
