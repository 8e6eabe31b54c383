//! What the agent knows of itself, for people: no secret, no network, no lock.

use std::fmt;
use std::path::Path;

use keyturn_domain::ids::{DeviceId, VersionId};
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::journal_file::JournalFile;
use crate::outcome::{self, When};
use crate::settings::Settings;
use crate::{disk, events};

/// What the agent knows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The device.
    pub device: DeviceId,
    /// The managed account's name.
    pub account: String,
    /// The server.
    pub server: String,
    /// The password version in use, proved by logging on.
    pub version: Option<VersionId>,
    /// Versions that may be in use.
    pub in_doubt: Vec<VersionId>,
    /// The last run.
    pub last_run: Option<LastRun>,
}

/// How the last run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When, by the device's clock.
    pub at: UnixMillis,
    /// The stable word for its end.
    pub code: String,
    /// Its end in one line.
    pub line: String,
    /// When the server expects the next request, if it said so.
    pub next: Option<UnixMillis>,
}

impl LastRun {
    /// Whether everything was as it should be.
    pub fn is_good(&self) -> bool {
        outcome::GOOD.contains(&self.code.as_str())
    }

    /// Remembers a run. Nothing depends on it, so a failure is only logged.
    pub(crate) fn save(&self, folder: &Path) {
        let content = serde_json::to_vec_pretty(self).unwrap_or_default();
        if let Err(error) = disk::replace(&folder.join("last-run.json"), &content) {
            events::housekeeping(&error);
        }
    }

    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, disk::Error> {
        Ok(disk::read(&folder.join("last-run.json"))?
            .and_then(|content| serde_json::from_slice(&content).ok()))
    }
}

impl Status {
    /// Reads it from the state folder.
    pub fn read(settings: &Settings, account: &str) -> Result<Self, disk::Error> {
        let journal = JournalFile::new(&settings.state).peek()?.unwrap_or_default();
        Ok(Self {
            device: settings.device,
            account: account.to_owned(),
            server: settings.server.to_string(),
            version: journal.cur,
            in_doubt: journal.in_doubt,
            last_run: LastRun::load(&settings.state)?,
        })
    }
}

impl Status {
    /// Whether the device knows its password, its last run ended well, and the next rotation is not due.
    pub fn is_at_rest(&self, now: UnixMillis) -> bool {
        let last = self.last_run.as_ref().filter(|last| last.is_good());
        self.version.is_some()
            && self.in_doubt.is_empty()
            && last.is_some_and(|last| last.next.is_none_or(|next| now < next))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self
            .version
            .map_or_else(|| "not known".to_owned(), |version| format!("version {version}, proved"));
        let doubts: Vec<String> = self.in_doubt.iter().map(VersionId::to_string).collect();
        let doubts = if doubts.is_empty() { "none".to_owned() } else { doubts.join(", ") };
        writeln!(f, "Device      {}", self.device)?;
        writeln!(f, "Account     {}", self.account)?;
        writeln!(f, "Password    {version}")?;
        writeln!(f, "In doubt    {doubts}")?;
        writeln!(f, "Server      {}", self.server)?;
        let Some(last) = &self.last_run else { return write!(f, "Last run    never") };
        write!(f, "Last run    {}  {}", When(last.at), last.line)?;
        match last.next {
            Some(next) => write!(f, "\nNext        {}", When(next)),
            None => Ok(()),
        }
    }
}
