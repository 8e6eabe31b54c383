//! Changing a ring of keys without a gap, as pure steps.
//!
//! A process accepts only what it has keys for, and processes read their files at different moments. So a new key
//! comes second, where it is accepted and not used; it goes first when every process has had time to read the
//! file; and the old one, now second, goes when nothing it sealed can still be under way.

use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_schemas::mac::{FiledKey, KeyId};
use keyturn_service::keys::LOOK;
use zeroize::Zeroizing;

use crate::failure::{Code, Failure, Result};

/// After this long every process has read a changed file, or has warned that it cannot.
pub(super) const SETTLED: Duration = Duration::from_secs(LOOK.as_secs() * 6);

/// What a key is to its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It seals.
    InUse,
    /// It is accepted, and has not sealed yet.
    ToCome,
    /// It is accepted, and seals no more since then.
    Replaced(UnixMillis),
}

/// What the key at `place` is to its ring.
pub(super) fn standing(place: usize, key: &FiledKey) -> Standing {
    match (place, key.sealed_until) {
        (0, _) => Standing::InUse,
        (_, None) => Standing::ToCome,
        (_, Some(until)) => Standing::Replaced(until),
    }
}

/// The ring with a second key.
pub(super) fn added(
    keys: &[FiledKey],
    secret: Zeroizing<[u8; 32]>,
    now: UnixMillis,
) -> Result<Vec<FiledKey>> {
    let [only] = keys else {
        let second = keys.get(1).map_or(0, |key| key.id.0);
        return refuse(format!(
            "there are two keys already: put key {second} to use with --activate, or retire the one not in use"
        ));
    };
    let id = KeyId(only.id.0.checked_add(1).unwrap_or(1));
    Ok(vec![only.clone(), FiledKey { id, secret, added: Some(now), sealed_until: None }])
}

/// The ring with its second key in use.
pub(super) fn activated(keys: &[FiledKey], now: UnixMillis) -> Result<Vec<FiledKey>> {
    let [old, new] = keys else {
        return refuse("there is no key to come; make one with `keys rotate` first");
    };
    if let Some(until) = new.sealed_until {
        let (id, front, until) = (new.id.0, old.id.0, crate::output::when(until));
        return refuse(format!(
            "key {id} was replaced by key {front} at {until}; retire it, then make a new one"
        ));
    }
    wait_for(new.id, new.added, SETTLED, now, "before every process has read it")?;
    let old = FiledKey { sealed_until: Some(now), ..old.clone() };
    Ok(vec![new.clone(), old])
}

/// The ring without the key `id`, which must not be in use, nor have been for `wait`.
pub(super) fn retired(
    keys: &[FiledKey],
    id: KeyId,
    wait: Duration,
    now: UnixMillis,
) -> Result<Vec<FiledKey>> {
    match keys.iter().enumerate().find(|(_, key)| key.id == id) {
        None => Err(Failure::new(Code::NothingByThatName, format!("there is no key {}", id.0))),
        Some((0, _)) => refuse(format!("key {} is in use; put another one in its place first", id.0)),
        Some((_, key)) => {
            wait_for(key.id, key.sealed_until, wait, now, "while what it sealed may be under way")?;
            Ok(keys.iter().filter(|key| key.id != id).cloned().collect())
        }
    }
}

fn wait_for(id: KeyId, since: Option<UnixMillis>, wait: Duration, now: UnixMillis, why: &str) -> Result<()> {
    match since.map(|since| since.plus(wait)).filter(|ready| now < *ready) {
        None => Ok(()),
        Some(ready) => {
            refuse(format!("key {}: not {why}; try again at {}", id.0, crate::output::when(ready)))
        }
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Failure::new(Code::KeyNotYet, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);

    fn fresh() -> Zeroizing<[u8; 32]> {
        Zeroizing::new([9; 32])
    }

    fn first() -> Vec<FiledKey> {
        vec![FiledKey { id: KeyId(255), secret: fresh(), added: None, sealed_until: None }]
    }

    fn ids(keys: &[FiledKey]) -> Vec<u8> {
        keys.iter().map(|key| key.id.0).collect()
    }

    #[test]
    fn a_key_comes_goes_first_and_the_old_one_goes() {
        let two = added(&first(), fresh(), NOW).unwrap();
        assert_eq!(ids(&two), [255, 1]);
        assert!(added(&two, fresh(), NOW).is_err() && activated(&first(), NOW).is_err());
        assert!(activated(&two, NOW).is_err(), "not every process has read it");
        let then = NOW.plus(SETTLED);
        let turned = activated(&two, then).unwrap();
        assert_eq!((ids(&turned), standing(1, &turned[1])), (vec![1, 255], Standing::Replaced(then)));
        assert!(activated(&turned, then.plus(SETTLED)).is_err(), "there is no way back");
        let wait = Duration::from_mins(10);
        for (id, now) in [(1, then.plus(wait)), (255, then), (7, then.plus(wait))] {
            assert!(retired(&turned, KeyId(id), wait, now).is_err(), "{id}");
        }
        assert_eq!(ids(&retired(&turned, KeyId(255), wait, then.plus(wait)).unwrap()), [1]);
    }

    #[test]
    fn a_key_that_never_sealed_goes_at_once() {
        let two = added(&first(), fresh(), NOW).unwrap();
        assert_eq!(ids(&retired(&two, KeyId(1), Duration::from_hours(24), NOW).unwrap()), [255]);
    }
}
