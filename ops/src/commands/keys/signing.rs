//! The keys that sign results: one in use, one to come, one that was replaced. Agents take a result only under a
//! key that the root's key set lists, so the key set goes ahead of every change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::Action;
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::signing::{FiledSigningKey, KeyReference, SigningKey};
use keyturn_service::keys::{KEY_SET_FILE, SIGNING, replace};

use super::ring::SETTLED;
use super::{Listed, secret};
use crate::commands::Deployment;
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result};
use crate::output;

const IN_USE: &str = "signing.key";
const TO_COME: &str = "signing.next.key";
const REPLACED: &str = "signing.prev.key";

/// The signing keys there are, the one in use first, each with the file it is in.
pub(in crate::commands) fn present(deployment: &Deployment) -> Result<Vec<(&'static str, FiledSigningKey)>> {
    let mut keys = Vec::new();
    for name in [IN_USE, TO_COME, REPLACED] {
        if let Some(key) = deployment.keys.signing_in(name)? {
            // After a command that was cut short, one key may be in two files.
            if keys.iter().all(|(_, known): &(_, FiledSigningKey)| known.kid() != key.kid()) {
                keys.push((name, key));
            }
        }
    }
    Ok(keys)
}

/// The key set in service.
pub(in crate::commands) fn key_set(deployment: &Deployment) -> Result<KeySet> {
    let path = path(deployment, KEY_SET_FILE);
    key_set::read(&deployment.keys.key_set()?).or_fail(Code::KeyDamaged, path.display())
}

pub(super) fn list(deployment: &Deployment) -> Result<Vec<Listed>> {
    let set = key_set(deployment)?;
    let listed = |kid: &str| set.keys.iter().any(|key| key.kid == kid);
    let row = |(name, key): &(&str, FiledSigningKey)| {
        let standing = match *name {
            IN_USE => "in use",
            TO_COME => "to come",
            _ => "replaced",
        };
        let note = if listed(key.kid()) {
            format!("in key set {}, until {}", set.serial, output::when(set.not_after))
        } else {
            format!("not in key set {}; `root sign-keys` signs one that has it", set.serial)
        };
        let note = match key {
            FiledSigningKey::Here(_) => note,
            FiledSigningKey::Elsewhere(reference) => {
                format!("{note}; {}", output::printable(reference.key().to_owned()))
            }
        };
        Listed { kind: SIGNING, id: key.kid().to_owned(), standing, note }
    };
    Ok(present(deployment)?.iter().map(row).collect())
}

pub(super) async fn add(deployment: &Deployment) -> Result<()> {
    let present = present(deployment)?;
    if let Some((_, other)) = present.get(1) {
        let problem = format!("there are two keys already: activate or retire {}", other.kid());
        return Err(Failure::new(Code::KeyNotYet, problem));
    }
    let number = |key: &str| key.rsplit_once('-').and_then(|(_, number)| number.parse::<u32>().ok());
    let known = present.iter().map(|(_, key)| key.kid().to_owned());
    let listed = key_set(deployment)?.keys.into_iter().map(|key| key.kid);
    let highest = known.chain(listed).filter_map(|kid| number(&kid)).max().unwrap_or(0);
    let kid = format!("signing-{}", highest.saturating_add(1));
    if deployment.config.signing.next_in_key_vault {
        take(deployment, &present, &kid).await?;
    } else {
        deployment.record(Action::KeysChanged, None, "", &format!("made {kid}")).await?;
        write(&path(deployment, TO_COME), &SigningKey::format(SIGNING, &kid, &secret()))?;
        eprint!("{kid} is made. ");
    }
    eprintln!("Tell the agents of it: keyturn root sign-keys --root offline/root.key");
    eprintln!("A minute after that, put it to use: keyturn keys rotate signing --activate");
    Ok(())
}

/// Takes the newest version of the key in Key Vault for the key to come.
async fn take(deployment: &Deployment, present: &[(&'static str, FiledSigningKey)], kid: &str) -> Result<()> {
    let newest = deployment.keys.newest_signing().await?;
    let (half, make) = newest.or_fail(Code::OtherKindOfDeployment, "signing.key is not set")?;
    let reference = KeyReference::new(kid, half.address, &half.point);
    let known = |key: &FiledSigningKey| key.public().x == reference.public().x;
    if let Some((_, known)) = present.iter().find(|(_, key)| known(key)) {
        let problem = format!(
            "the newest version in Key Vault is {} already, {}; make another one: {make}",
            known.kid(),
            reference.key()
        );
        return Err(Failure::new(Code::KeyNotYet, problem));
    }
    let what = format!("took {} for {kid}", reference.key());
    deployment.record(Action::KeysChanged, None, "", &what).await?;
    write(&path(deployment, TO_COME), &reference.format())?;
    eprint!("{kid} is {}. ", reference.key());
    Ok(())
}

pub(super) async fn activate(deployment: &Deployment) -> Result<()> {
    let (Some(old), Some(new)) = (deployment.keys.signing_in(IN_USE)?, deployment.keys.signing_in(TO_COME)?)
    else {
        let problem = "there is no key to come; make one with `keys rotate signing` first";
        return Err(Failure::new(Code::KeyNotYet, problem));
    };
    let set = key_set(deployment)?;
    if set.keys.iter().all(|key| *key != new.public()) {
        let (kid, serial) = (new.kid(), set.serial);
        let problem = format!("{kid} is not in key set {serial}; sign one that has it with `root sign-keys`");
        return Err(Failure::new(Code::KeyNotYet, problem));
    }
    // A key in Key Vault that does not sign would stop every answer.
    deployment.keys.try_signing(TO_COME).await?;
    settled(deployment, KEY_SET_FILE, SETTLED, "before every ingress hands out the key set")?;
    let what = format!("put {} to use in place of {}", new.kid(), old.kid());
    deployment.record(Action::KeysChanged, None, "", &what).await?;
    // At each moment there is a key in use, and a repeat of what was cut short comes to the same end.
    let (in_use, to_come) = (path(deployment, IN_USE), path(deployment, TO_COME));
    if old.kid() != new.kid() {
        let kept = fs::read_to_string(&in_use).map(zeroize::Zeroizing::new);
        write(&path(deployment, REPLACED), &kept.read_of(&in_use)?)?;
        let kept = fs::read_to_string(&to_come).map(zeroize::Zeroizing::new);
        write(&in_use, &kept.read_of(&to_come)?)?;
    }
    remove(&to_come)?;
    eprintln!("{} signs as soon as each rotator has read it, within 10 s.", new.kid());
    eprintln!("When no result of {0} waits any more: keyturn keys retire signing {0}", old.kid());
    Ok(())
}

pub(super) async fn retire(deployment: &Deployment, kid: &str, danger_now: bool) -> Result<()> {
    let present = present(deployment)?;
    let Some((name, key)) = present.iter().find(|(_, key)| key.kid() == kid) else {
        return Err(Failure::new(Code::NothingByThatName, format!("there is no signing key {kid}")));
    };
    if *name == IN_USE {
        let problem = format!("{kid} is in use; put another one in its place first");
        return Err(Failure::new(Code::KeyNotYet, problem));
    }
    if *name == REPLACED && !danger_now {
        let wait = SETTLED + deployment.config.sections.rotation.result_ttl.0;
        settled(deployment, REPLACED, wait, "while results it signed wait for their devices")?;
    }
    deployment.record(Action::KeysChanged, None, "", &format!("retired {kid}")).await?;
    remove(&path(deployment, name))?;
    if let FiledSigningKey::Elsewhere(reference) = key {
        eprintln!("After that, disable it in Key Vault: {}", output::printable(reference.key().to_owned()));
    }
    eprintln!("{kid} is retired. Tell the agents: keyturn root sign-keys --root offline/root.key");
    Ok(())
}

/// Refuses until the file `name` has been as it is for `wait`.
fn settled(deployment: &Deployment, name: &str, wait: Duration, why: &str) -> Result<()> {
    let path = path(deployment, name);
    let changed = fs::metadata(&path).and_then(|file| file.modified());
    let changed = changed.read_of(&path)?;
    let since = changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let ready = UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).plus(wait);
    if deployment.engines.clock().now() < ready {
        let problem = format!("not {why}; try again at {}", output::when(ready));
        return Err(Failure::new(Code::KeyNotYet, problem));
    }
    Ok(())
}

fn path(deployment: &Deployment, name: &str) -> PathBuf {
    deployment.keys.folder().join(name)
}

fn write(path: &Path, text: &str) -> Result<()> {
    replace(path, text).written_to(path)
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).or_fail(Code::FileUnwritten, format_args!("{}: cannot be removed", path.display()))
}
