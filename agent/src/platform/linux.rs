//! An account of a Linux system, as /etc/passwd and /etc/shadow keep it.
//!
//! This code reads the account database and never writes it: the system's own programs do, because they know the
//! system's hash, its PAM policy, its locks and its SELinux domain, and because what they write stays labelled as
//! it was. A password reaches them over standard input only; arguments and environment can be read by others.
//!
//! Only local accounts can be managed. One that comes from a directory has its password elsewhere.

pub mod database;
pub mod name;

mod password;
mod tool;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::label::Label;
use keyturn_domain::password::Password;

use self::database::{Account, Secret};
use self::name::UserName;
use self::password::Proof;
use self::tool::Tool;
use crate::accounts::{Accounts, Error, Found, Verdict};
use crate::{disk, events};

/// The default of [`Options::time_limit`].
pub const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Groups that make an administrator, the first that exists is taken.
const ADMINISTRATORS: [&str; 2] = ["sudo", "wheel"];

/// What does the work.
const PROGRAMS: [&str; 4] = ["chpasswd", "unix_chkpwd", "useradd", "usermod"];

/// How often the lock of an account is put back before the agent gives up and says so.
const LOCKINGS: u32 = 3;

/// How an account is managed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The groups of an account that is created; none for the first of `sudo` and `wheel` that exists.
    pub groups: Option<Vec<String>>,
    /// The shell of an account that is created; none for bash, or sh where there is no bash.
    pub shell: Option<PathBuf>,
    /// Whether a new password may end a lock. Without it, a locked account gets its password and stays locked.
    pub unlock: bool,
    /// Whether an account with the number 0 may be managed.
    pub danger_manage_root: bool,
    /// How long one of the system's programs may take.
    pub time_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { groups: None, shell: None, unlock: false, danger_manage_root: false, time_limit: TIME_LIMIT }
    }
}

/// One account of this system.
pub struct LinuxAccounts {
    name: UserName,
    options: Options,
    /// Names an account whose lock was opened and has to be put back, while it is so.
    note: PathBuf,
    clock: Arc<dyn Clock>,
    /// What was proved of a locked account before its lock was put back.
    proof: Mutex<Option<Proof>>,
}

impl LinuxAccounts {
    /// The account `name`, which need not exist. `state` is the agent's state folder.
    pub fn new(name: UserName, options: Options, state: &Path, clock: Arc<dyn Clock>) -> Self {
        Self { name, options, note: state.join("relock"), clock, proof: Mutex::default() }
    }

    fn account(&self) -> Result<Option<Account>, Error> {
        let Some(account) = database::account(&self.name)? else { return Ok(None) };
        if account.uid == 0 && !self.options.danger_manage_root {
            return Err(Error::Root(self.name.to_string()));
        }
        Ok(Some(account))
    }

    fn existing(&self) -> Result<Account, Error> {
        self.account()?.ok_or(Error::Missing)
    }

    fn tool(&self, name: &'static str) -> Result<Tool<'_>, Error> {
        Tool::locate(name, self.options.time_limit, &*self.clock)
    }

    /// Sets the password of a locked account and puts the lock back. The programs of the system end a lock with
    /// every new password, so for a moment there is none; a note on disk makes up for a crash in that moment.
    fn set_behind_lock(&self, password: &Password) -> Result<(), Error> {
        // A lock that could not be put back is not opened.
        self.equipped()?;
        disk::replace(&self.note, self.name.as_str().as_bytes())?;
        let set = password::set(&self.tool("chpasswd")?, &self.name, password);
        let proof = self.try_unlocked(password);
        let locked = self.lock_again();
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = proof;
        locked.and(set)
    }

    /// Tries the password while the account has no lock; a lock that is there all the same is left alone.
    fn try_unlocked(&self, password: &Password) -> Option<Proof> {
        let account = self.existing().ok()?;
        let Secret::Hash(hash) = &account.secret else { return None };
        let verdict = password::verify(&self.tool("unix_chkpwd").ok()?, &self.name, password).ok()?;
        Some(Proof::new(password, hash.mark(), verdict))
    }

    fn lock_again(&self) -> Result<(), Error> {
        let mut tried = self.lock();
        for _ in 1..LOCKINGS {
            tried = tried.or_else(|_| self.lock());
        }
        if let Err(error) = tried {
            events::left_unlocked(self.name.as_str(), &error);
            return Err(error);
        }
        disk::remove(&self.note)?;
        Ok(())
    }

    fn lock(&self) -> Result<(), Error> {
        if matches!(self.existing()?.secret, Secret::Hash(_)) {
            self.tool("usermod")?.run(&["--lock", self.name.as_str()], &[])?.success()?;
        }
        match self.existing()?.secret {
            Secret::Hash(_) => {
                let name = &self.name;
                Err(Error::Database(format!("{name} is not locked any more; run usermod --lock {name}")))
            }
            Secret::Locked(_) | Secret::None => database::flush(),
        }
    }

    fn groups(&self) -> Result<Vec<String>, Error> {
        if let Some(groups) = &self.options.groups {
            for group in groups {
                if !database::group_exists(group)? {
                    let text =
                        format!("there is no group {group}; run groupadd {group}, or mend account.groups");
                    return Err(Error::Database(text));
                }
            }
            return Ok(groups.clone());
        }
        for group in ADMINISTRATORS {
            if database::group_exists(group)? {
                return Ok(vec![group.to_owned()]);
            }
        }
        Err(Error::Database("there is neither a group sudo nor wheel; name one in account.groups".to_owned()))
    }

    fn shell(&self) -> PathBuf {
        let bash = || Some(PathBuf::from("/bin/bash")).filter(|bash| bash.exists());
        self.options.shell.clone().or_else(bash).unwrap_or_else(|| "/bin/sh".into())
    }
}

impl Accounts for LinuxAccounts {
    fn name(&self) -> Label {
        self.name.label()
    }

    fn restore(&self) -> Result<(), Error> {
        match disk::read(&self.note)? {
            Some(name) if name == self.name.as_str().as_bytes() && self.account()?.is_some() => {
                self.lock_again()
            }
            Some(_) => Ok(disk::remove(&self.note)?),
            None => Ok(()),
        }
    }

    fn equipped(&self) -> Result<(), Error> {
        PROGRAMS.into_iter().try_for_each(|name| self.tool(name).map(drop))
    }

    fn find(&self) -> Result<Option<Found>, Error> {
        self.account()?.map(|account| account.found()).transpose()
    }

    fn create(&self) -> Result<Found, Error> {
        if let Some(found) = self.find()? {
            return Ok(found);
        }
        let (groups, shell) = (self.groups()?.join(","), self.shell());
        let shell = shell.display().to_string();
        let mut arguments = vec!["--create-home", "--comment", "Managed by Keyturn", "--shell", &shell];
        if !groups.is_empty() {
            arguments.extend(["--groups", &groups]);
        }
        arguments.push(self.name.as_str());
        let created = self.tool("useradd")?.run(&arguments, &[])?.success();
        match (self.find()?, created) {
            (Some(found), created) => {
                if let Err(error) = created {
                    events::account_incomplete(self.name.as_str(), &error);
                }
                database::flush()?;
                Ok(found)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(Error::Missing),
        }
    }

    fn set(&self, password: &Password) -> Result<(), Error> {
        let set = match self.existing()?.secret {
            Secret::Locked(_) if !self.options.unlock => self.set_behind_lock(password),
            _ => password::set(&self.tool("chpasswd")?, &self.name, password),
        };
        // Also after an error: what was written nevertheless has to outlast the journal that is written next.
        database::flush().and(set)
    }

    fn verify(&self, password: &Password) -> Result<Verdict, Error> {
        match self.existing()?.secret {
            Secret::None => Ok(Verdict::Rejected),
            Secret::Hash(_) => password::verify(&self.tool("unix_chkpwd")?, &self.name, password),
            Secret::Locked(hash) => {
                let proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
                let verdict = proof.as_ref().and_then(|proof| proof.recall(password, hash.mark()));
                verdict.ok_or_else(|| {
                    Error::Database("the account is locked, and a locked one tries no password".to_owned())
                })
            }
        }
    }
}
