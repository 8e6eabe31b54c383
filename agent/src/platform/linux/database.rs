//! /etc/passwd, /etc/shadow and /etc/group, read only.

use std::fs::{File, OpenOptions};
use std::path::Path;

use keyturn_domain::ids::AccountId;
use rustix::fs::{FlockOperation, fcntl_lock};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::name::UserName;
use crate::accounts::{Error, Found};
use crate::disk;

const FOLDER: &str = "/etc";
const PASSWD: &str = "/etc/passwd";
const SHADOW: &str = "/etc/shadow";
const GROUP: &str = "/etc/group";

/// The lock that the system's programs take to write (lckpwdf(3)).
const LOCK: &str = "/etc/.pwd.lock";

const DAY_S: u64 = 86_400;

/// A local account.
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) secret: Secret,
    /// The day of the last setting, in seconds since the epoch.
    set_at: Option<u64>,
}

/// The second field of /etc/shadow (shadow(5)).
pub(super) enum Secret {
    /// No password opens the account: empty, `!`, `*` and the like. That is an account that never had one.
    None,
    /// A password does.
    Hash(Hash),
    /// One would, once the lock is taken away: `!` and a hash.
    Locked(Hash),
}

/// A hash as crypt(3) makes it. Of no use to anybody but for its mark.
pub(super) struct Hash(Zeroizing<String>);

impl Hash {
    /// A number that changes with every setting of a password, because every setting draws a new salt, and that
    /// says nothing of the password without that salt: the beginning of a SHA-256 of the hash. /etc/shadow itself
    /// knows only the day. A lock in front of the hash does not count.
    pub(super) fn mark(&self) -> u64 {
        let digest: [u8; 32] = Sha256::digest(self.0.as_bytes()).into();
        digest.first_chunk().copied().map_or(0, u64::from_be_bytes)
    }
}

impl Account {
    pub(super) fn found(&self) -> Result<Found, Error> {
        let id: AccountId = self.uid.to_string().parse().map_err(|_| Error::Missing)?;
        let mark = match &self.secret {
            Secret::None => None,
            Secret::Hash(hash) | Secret::Locked(hash) => Some(hash.mark()),
        };
        Ok(Found { id, mark, set_at: self.set_at })
    }
}

/// The account of this name, if this system has one.
pub(super) fn account(name: &UserName) -> Result<Option<Account>, Error> {
    let Some(line) = line(PASSWD, name.as_str())? else { return Ok(None) };
    let uid = field(&line, 2).parse().map_err(|_| damaged(PASSWD, name.as_str()))?;
    let shadow = line_of_shadow(name)?;
    let set_at = field(&shadow, 2).parse::<u64>().ok().map(|days| days.saturating_mul(DAY_S));
    Ok(Some(Account { uid, secret: secret(field(&shadow, 1)), set_at: set_at.filter(|at| *at > 0) }))
}

/// Whether there is an account of this name.
pub(super) fn exists(name: &str) -> Result<bool, Error> {
    Ok(line(PASSWD, name)?.is_some())
}

/// Whether there is a local group of this name.
pub(super) fn group_exists(name: &str) -> Result<bool, Error> {
    Ok(line(GROUP, name)?.is_some())
}

/// Returns once what the system's programs wrote is on disk. They rename a new file into place and do not all
/// sync it.
pub(super) fn flush() -> Result<(), Error> {
    for path in [SHADOW, PASSWD, FOLDER] {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|error| disk::Error::new("flush", Path::new(path), error))?;
    }
    Ok(())
}

/// Whether somebody else is writing the database. The agent does not hold this lock around chpasswd: chpasswd
/// takes it itself, locks of this kind belong to one process, and it would wait for its own parent.
pub(super) fn is_locked() -> bool {
    let file = OpenOptions::new().write(true).open(LOCK);
    file.is_ok_and(|file| fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}

fn line_of_shadow(name: &UserName) -> Result<Zeroizing<String>, Error> {
    line(SHADOW, name.as_str())?
        .ok_or_else(|| Error::Database(format!("{name} has no line in {SHADOW}; run pwconv to make one")))
}

/// The one line of a file whose first field is `name`.
fn line(path: &'static str, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
    let content = Zeroizing::new(disk::read(Path::new(path))?.unwrap_or_default());
    let text = std::str::from_utf8(&content).map_err(|_| damaged(path, name))?;
    let mut lines = text.lines().filter(|line| field(line, 0) == name);
    let found = lines.next().map(|line| Zeroizing::new(line.to_owned()));
    if lines.next().is_some() {
        return Err(Error::Database(format!("{path} has several lines for {name}; run pwck")));
    }
    Ok(found)
}

fn field(line: &str, number: usize) -> &str {
    line.split(':').nth(number).unwrap_or_default()
}

fn secret(field: &str) -> Secret {
    let hash = field.trim_start_matches('!');
    let kept = || Hash(Zeroizing::new(hash.to_owned()));
    match hash {
        "" | "x" => Secret::None,
        _ if hash.starts_with('*') => Secret::None,
        _ if hash.len() < field.len() => Secret::Locked(kept()),
        _ => Secret::Hash(kept()),
    }
}

fn damaged(path: &str, name: &str) -> Error {
    Error::Database(format!("the line of {name} in {path} cannot be understood; run pwck"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_of_shadow_is_understood() {
        for none in ["", "!", "!!", "*", "!*", "*LK*", "x"] {
            assert!(matches!(secret(none), Secret::None), "{none}");
        }
        let (Secret::Hash(open), Secret::Locked(locked)) = (secret("$y$a"), secret("!$y$a")) else {
            panic!()
        };
        assert_eq!(open.mark(), locked.mark(), "a lock is no new password");
        let Secret::Hash(other) = secret("$y$b") else { panic!() };
        assert_ne!(open.mark(), other.mark());
    }
}
