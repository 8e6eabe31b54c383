//! What keeps the agent from locking a token or a TPM. Those count wrong tries and close for good after a few, and a
//! service tries again for ever. So a PIN that was refused is never tried again, by any process that shares the state
//! folder, however often the agent is started; and what is tried is noted before it is tried, so that an agent that
//! dies within its tries does not use them up either.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Error, secret};
use crate::disk;

/// How many tries may end without an answer before a person has to look.
const UNANSWERED: u32 = 2;

/// Watches over the tries of one secret.
#[derive(Clone, Debug)]
pub struct Guard {
    folder: PathBuf,
    secret: Option<PathBuf>,
}

/// The only use of the store on this device at this time.
pub(crate) struct Turn<'a> {
    guard: &'a Guard,
    _lock: File,
}

/// What is known of tries, in the state folder. There is none after a good one.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Tries under way, or that the agent did not live to see the end of.
    #[serde(default)]
    unanswered: u32,
    /// A salted hash of what was refused. It is not the secret: that one is never noted, not even as a hash.
    refused: Option<Mark>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    salt: [u8; 16],
    hash: [u8; 32],
}

impl Guard {
    /// Watches over the secret in a file, if the store needs one, with its notes in the agent's state folder.
    pub fn new(state: PathBuf, secret: Option<PathBuf>) -> Self {
        Self { folder: state, secret }
    }

    /// The file with the secret.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.secret.as_ref()
    }

    /// Waits until nobody else uses the store.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, Error> {
        disk::create_folder(&self.folder).map_err(|error| own(&error))?;
        let path = self.folder.join("key.lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = open.and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(|error| Error::Own(format!("cannot lock {}: {error}", path.display())))?;
        Ok(Turn { guard: self, _lock: lock })
    }

    fn record(&self) -> PathBuf {
        self.folder.join("key-tries.json")
    }
}

impl Turn<'_> {
    /// The secret, for one try: the try is on disk when this returns, and [`Self::answered`] or [`Self::refused`] has
    /// to follow. None if there is no file with one.
    pub(crate) fn secret(&self) -> Result<Option<Zeroizing<String>>, Error> {
        let Some(path) = &self.guard.secret else { return Ok(None) };
        let text = secret::read(path)?;
        let known = self.known()?;
        if known.refused.is_some_and(|mark| mark.is_of(&text)) {
            return Err(Error::Spent { secret: path.clone(), record: self.guard.record() });
        }
        if known.unanswered >= UNANSWERED {
            return Err(Error::Unanswered { tries: known.unanswered, record: self.guard.record() });
        }
        self.note(&Record { unanswered: known.unanswered + 1, refused: None })?;
        Ok(Some(text))
    }

    /// The try used nothing up: the secret was right, or it was not what was wrong.
    pub(crate) fn answered(&self) -> Result<(), Error> {
        disk::remove(&self.guard.record()).map_err(|error| own(&error))
    }

    /// The secret was wrong.
    pub(crate) fn refused(&self, text: &str) -> Result<(), Error> {
        self.note(&Record { unanswered: 0, refused: Some(Mark::of(text)) })
    }

    /// A note that cannot be read is one of tries whose end is not known.
    fn known(&self) -> Result<Record, Error> {
        let Some(bytes) = disk::read(&self.guard.record()).map_err(|error| own(&error))? else {
            return Ok(Record::default());
        };
        Ok(serde_json::from_slice(&bytes).unwrap_or(Record { unanswered: UNANSWERED, refused: None }))
    }

    fn note(&self, record: &Record) -> Result<(), Error> {
        let bytes = serde_json::to_vec(record).map_err(|error| Error::Own(error.to_string()))?;
        disk::replace(&self.guard.record(), &bytes).map_err(|error| own(&error))
    }
}

impl Mark {
    fn of(text: &str) -> Self {
        let entropy: &dyn Entropy = &SystemEntropy;
        let salt = entropy.bytes();
        Self { salt, hash: Self::hash(salt, text) }
    }

    fn is_of(&self, text: &str) -> bool {
        Self::hash(self.salt, text) == self.hash
    }

    fn hash(salt: [u8; 16], text: &str) -> [u8; 32] {
        Sha256::new().chain_update(salt).chain_update(text).finalize().into()
    }
}

fn own(error: &disk::Error) -> Error {
    Error::Own(crate::agent::chain(error))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn pin(folder: &std::path::Path, text: &str) -> Guard {
        let path = folder.join("pin");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Guard::new(folder.join("state"), Some(path))
    }

    #[test]
    fn what_was_refused_is_never_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let guard = pin(folder.path(), "0000");
        let turn = guard.turn().unwrap();
        assert_eq!(*turn.secret().unwrap().unwrap(), "0000");
        turn.refused("0000").unwrap();
        drop(turn);
        // Not after a restart, and not when the same is written again.
        for _ in 0..3 {
            let guard = pin(folder.path(), "0000\n");
            let told = guard.turn().unwrap().secret().unwrap_err();
            assert!(matches!(told, Error::Spent { .. }), "{told}");
        }
        let note = fs::read_to_string(folder.path().join("state/key-tries.json")).unwrap();
        assert!(!note.contains("0000"), "{note}");
        let guard = pin(folder.path(), "1234");
        let turn = guard.turn().unwrap();
        assert_eq!(*turn.secret().unwrap().unwrap(), "1234", "another one is");
        turn.answered().unwrap();
        assert!(!folder.path().join("state/key-tries.json").exists());
    }

    #[test]
    fn tries_that_end_in_a_crash_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let guard = pin(folder.path(), "1234");
        for _ in 0..UNANSWERED {
            assert!(guard.turn().unwrap().secret().is_ok());
        }
        for text in ["1234", "5678"] {
            let told = pin(folder.path(), text).turn().unwrap().secret().unwrap_err();
            assert!(matches!(told, Error::Unanswered { tries: UNANSWERED, .. }), "{told}");
        }
        fs::write(folder.path().join("state/key-tries.json"), "{").unwrap();
        assert!(guard.turn().unwrap().secret().is_err(), "a damaged note is no permission");
        fs::remove_file(folder.path().join("state/key-tries.json")).unwrap();
        let turn = guard.turn().unwrap();
        turn.secret().unwrap();
        turn.answered().unwrap();
        turn.secret().unwrap();
    }

    #[test]
    fn no_try_without_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let guard = pin(folder.path(), "1234");
        // A folder in the place of the note cannot be replaced by it, not even by root.
        let turn = guard.turn().unwrap();
        fs::create_dir_all(folder.path().join("state/key-tries.json.new")).unwrap();
        assert!(matches!(turn.secret(), Err(Error::Own(_))));
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let guard = pin(folder.path(), "1234");
        let turn = guard.turn().unwrap();
        let other = File::options().write(true).open(folder.path().join("state/key.lock")).unwrap();
        assert!(other.try_lock().is_err());
        drop(turn);
        assert!(other.try_lock().is_ok());
    }
}
