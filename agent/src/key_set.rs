//! The keys whose results the agent acts on: the key set with the highest serial it has seen, checked against
//! the root key it was installed with, each time it is read or offered.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use keyturn_domain::time::UnixMillis;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::signing::PublicKey;

use crate::{disk, events};

/// The key sets an agent was offered, reduced to the newest.
#[derive(Debug)]
pub struct KeySets {
    path: PathBuf,
    root: PublicKey,
    deployment: Deployment,
    newest: Mutex<Option<Newest>>,
}

#[derive(Debug)]
struct Newest {
    text: String,
    set: KeySet,
}

impl KeySets {
    /// Reads the key set in the file `path`. One that does not hold is as good as none: the server sends it
    /// with every answer.
    pub fn load(path: PathBuf, root: PublicKey, deployment: Deployment) -> Result<Self, disk::Error> {
        let kept = disk::read(&path)?;
        let sets = Self { path, root, deployment, newest: Mutex::new(None) };
        if let Some(text) = kept.map(|content| String::from_utf8_lossy(&content).trim().to_owned()) {
            // One that has ended still tells which serials are older.
            match key_set::verify(&text, &sets.root, &sets.deployment, UnixMillis(0)) {
                Ok(set) => *sets.lock() = Some(Newest { text, set }),
                Err(error) => events::key_set_ignored(&error),
            }
        }
        Ok(sets)
    }

    /// Takes the key set in an answer of the server, if it is genuine, has not ended and is newer.
    pub fn offer(&self, text: &str, now: UnixMillis) {
        let mut newest = self.lock();
        if newest.as_ref().is_some_and(|known| known.text == text) {
            return;
        }
        match key_set::verify(text, &self.root, &self.deployment, now) {
            Ok(set) if newest.as_ref().is_none_or(|known| set.serial > known.set.serial) => {
                events::key_set_taken(set.serial);
                // A set that could not be written is used all the same, and offered again after a restart.
                if let Err(error) = disk::replace(&self.path, text.as_bytes()) {
                    events::housekeeping(&error);
                }
                *newest = Some(Newest { text: text.to_owned(), set });
            }
            Ok(_) => {}
            Err(error) => events::key_set_ignored(&error),
        }
    }

    /// The keys that may sign results now.
    pub fn trusted(&self, now: UnixMillis) -> Vec<PublicKey> {
        let newest = self.lock();
        newest
            .as_ref()
            .filter(|known| now < known.set.not_after)
            .map(|known| known.set.keys.clone())
            .unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Newest>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use keyturn_schemas::claims::Version1;
    use keyturn_schemas::signing::SigningKey;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000);

    fn root() -> SigningKey {
        SigningKey::from_seed("root-1", &[1; 32]).unwrap()
    }

    fn set(serial: u64, key: u8, not_after: u64) -> KeySet {
        let key = SigningKey::from_seed(&format!("k{key}"), &[key; 32]).unwrap().public();
        let deployment = "contoso".parse().unwrap();
        KeySet { v: Version1, deployment, serial, keys: vec![key], not_after: UnixMillis(not_after) }
    }

    fn signed(serial: u64, key: u8) -> String {
        key_set::sign(&set(serial, key, 9_000), &root()).unwrap()
    }

    fn load(folder: &std::path::Path) -> KeySets {
        KeySets::load(folder.join("keys"), root().public(), "contoso".parse().unwrap()).unwrap()
    }

    fn trusted(sets: &KeySets, now: UnixMillis) -> Vec<String> {
        sets.trusted(now).into_iter().map(|key| key.kid).collect()
    }

    #[test]
    fn only_a_higher_serial_is_taken_and_it_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let sets = load(folder.path());
        assert!(trusted(&sets, NOW).is_empty(), "nothing is trusted on first use");
        sets.offer(&signed(5, 5), NOW);
        sets.offer(&signed(4, 4), NOW);
        sets.offer(&signed(5, 6), NOW);
        assert_eq!(trusted(&sets, NOW), ["k5"]);
        let again = load(folder.path());
        again.offer(&signed(4, 4), NOW);
        assert_eq!(trusted(&again, NOW), ["k5"]);
        again.offer(&signed(6, 6), NOW);
        assert_eq!(trusted(&again, NOW), ["k6"]);
    }

    #[test]
    fn a_set_that_is_not_the_roots_or_has_ended_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let sets = load(folder.path());
        let stranger = SigningKey::from_seed("root-1", &[2; 32]).unwrap();
        sets.offer(&key_set::sign(&set(9, 9, 9_000), &stranger).unwrap(), NOW);
        sets.offer(&key_set::sign(&set(9, 9, 1_000), &root()).unwrap(), NOW);
        let other = KeySet { deployment: "other".parse().unwrap(), ..set(9, 9, 9_000) };
        sets.offer(&key_set::sign(&other, &root()).unwrap(), NOW);
        sets.offer("garbage", NOW);
        assert!(trusted(&sets, NOW).is_empty());
    }

    #[test]
    fn an_ended_set_on_disk_trusts_nothing_and_still_bars_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path()).offer(&signed(5, 5), NOW);
        let sets = load(folder.path());
        let later = UnixMillis(9_000);
        assert!(trusted(&sets, later).is_empty());
        sets.offer(&key_set::sign(&set(4, 4, 20_000), &root()).unwrap(), later);
        assert!(trusted(&sets, later).is_empty());
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys"), "garbage").unwrap();
        let sets = load(folder.path());
        sets.offer(&signed(1, 1), NOW);
        assert_eq!(trusted(&sets, NOW), ["k1"]);
    }
}
