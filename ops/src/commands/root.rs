//! `keyturn root`: what the offline root key is for, and nothing else.

use std::fs;
use std::path::Path;

use keyturn_ports::audit::Action;
use keyturn_schemas::claims::Version1;
use keyturn_schemas::key_set::{self, KeySet};
use keyturn_schemas::signing::SigningKey;
use keyturn_service::keys::{KEY_SET_FILE, ROOT, replace};
use zeroize::Zeroizing;

use super::Deployment;
use super::init::KEY_SET_LIFE;
use super::keys::signing;
use crate::cli::Root;
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result};

/// What files of key sets that were replaced are called, before their serial.
pub(super) const RETIRED_SETS: &str = "key-set.retired-";

pub(super) async fn run(deployment: &Deployment, command: &Root) -> Result<()> {
    let Root::SignKeys { root } = command;
    sign(deployment, &read(root)?).await
}

fn read(path: &Path) -> Result<SigningKey> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.read_of(path)?;
    SigningKey::parse(ROOT, &text).or_fail(Code::FileNotMeant, path.display())
}

/// Signs the next key set: the keys of the folder, for the agents to take with any answer.
async fn sign(deployment: &Deployment, root: &SigningKey) -> Result<()> {
    let (old, name) = (signing::key_set(deployment)?, &deployment.config.deployment);
    // Agents take nothing of another root, so a set under one would cut off every result.
    let (now, ours) = (deployment.engines.clock().now(), deployment.keys.key_set()?);
    match key_set::verify(&ours, &root.public(), name, now) {
        Ok(_) | Err(key_set::KeySetError::Ended) => {}
        Err(error) => {
            let problem =
                format!("{}: {error}; this is not the root that signed the key set in service", root.kid());
            return Err(Failure::new(Code::OtherOfflineKey, problem));
        }
    }
    let keys: Vec<_> = signing::present(deployment)?.iter().map(|(_, key)| key.public()).collect();
    let kids: Vec<String> = keys.iter().map(|key| key.kid.clone()).collect();
    let set = KeySet {
        v: Version1,
        deployment: name.clone(),
        serial: old.serial + 1,
        keys,
        not_after: now.plus(KEY_SET_LIFE),
    };
    let (text, what) =
        (key_set::sign(&set, root).or_defect()?, format!("key set {}: {}", set.serial, kids.join(", ")));
    key_set::read(&text).or_defect()?;
    deployment.record(Action::KeysChanged, None, "", &what).await?;
    // What retired keys signed stays checkable: `audit verify --anchor`.
    let kept = deployment.keys.folder().join(format!("{RETIRED_SETS}{}.jws", old.serial));
    replace(&kept, &ours).written_to(&kept)?;
    let path = deployment.keys.folder().join(KEY_SET_FILE);
    replace(&path, &text).written_to(&path)?;
    eprintln!("Signed {what}. Agents take it with their next answer. Take the root key off this machine.");
    Ok(())
}
