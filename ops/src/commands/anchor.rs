//! Anchors of the audit: its head, signed, to be kept where whoever has the database cannot reach.
//!
//! The chain shows what was changed in its middle. That its end was cut off, or that all of it was written anew, shows
//! against an anchor alone. An anchor is a line of JSON; the signature is by the key that signs results, as it signs those, over
//! `keyturn audit anchor v1`, a newline, and the line's `anchor` as it stands. No result is such a text: what is signed
//! for those has no blank in it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, Row};
use keyturn_schemas::key_set;
use keyturn_schemas::signing::PublicKey;
use serde::{Deserialize, Serialize};

use super::Deployment;
use super::init::ROOT_PUBLIC_FILE;
use super::root::RETIRED_SETS;
use crate::failure::{Code, Context as _, Failure, OfFile as _, OrFail as _, Result};
use crate::output;

const CONTEXT: &str = "keyturn audit anchor v1\n";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Anchor {
    deployment: String,
    seq: u64,
    hash: String,
    at_ms: UnixMillis,
}

/// A line of a file of anchors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    /// An [`Anchor`] as JSON, byte for byte as it was signed.
    anchor: String,
    kid: String,
    signature: String,
}

/// Prints the head of the audit, signed. The row that records this is in it.
pub(super) async fn make(deployment: &Deployment) -> Result<()> {
    let key = deployment.keys.signing()?;
    deployment.record(Action::AuditAnchored, None, "", &format!("signed with {}", key.kid())).await?;
    let rows = deployment.engines.audit().recent(1).await?;
    let Row { seq, hash, .. } = rows.first().or_defect()?;
    let anchor = Anchor {
        deployment: deployment.config.sections.deployment.name.clone(),
        seq: *seq,
        hash: hash.clone(),
        at_ms: deployment.engines.clock().now(),
    };
    let anchor = serde_json::to_string(&anchor).or_defect()?;
    let signature = URL_SAFE_NO_PAD.encode(key.sign(&format!("{CONTEXT}{anchor}")).await?);
    output::json_line(&Signed { anchor, kid: key.kid().to_owned(), signature })
}

/// What became of the anchors of a file.
#[derive(Default)]
pub(super) struct Checked {
    /// All of them.
    pub(super) anchors: usize,
    /// The retired keys that some of them are signed with, and how many.
    pub(super) retired: BTreeMap<String, usize>,
}

/// Checks every anchor of a file against the audit as it is.
pub(super) async fn check(deployment: &Deployment, file: &Path) -> Result<Checked> {
    let text = fs::read_to_string(file).read_of(file)?;
    let keys = trusted(deployment)?;
    let mut checked = Checked::default();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let signer = one(deployment, &keys, line);
        let signer = signer.await.context(format_args!("{}:{number}", file.display()))?;
        checked.anchors += 1;
        if signer.retired {
            *checked.retired.entry(signer.key.kid.clone()).or_default() += 1;
        }
    }
    if checked.anchors == 0 {
        return Err(Failure::new(
            Code::FileNotMeant,
            format!("{}: there is no anchor in it", file.display()),
        ));
    }
    Ok(checked)
}

/// A key that the root vouches for, or once did.
struct Signer {
    key: PublicKey,
    retired: bool,
}

/// The keys of the key set, and those of the sets that it replaced, each signed by the root. The root's public half is
/// read from beside the key folder. That an old set has ended is no matter: so has what was signed under it.
fn trusted(deployment: &Deployment) -> Result<Vec<Signer>> {
    let path = super::doctor::home(deployment).join(ROOT_PUBLIC_FILE);
    let text = fs::read_to_string(&path).read_of(&path)?;
    let root: PublicKey = serde_json::from_str(&text).or_fail(
        Code::FileNotMeant,
        format_args!("{}: it is not the public half of a root key", path.display()),
    )?;
    let name = deployment.config.sections.deployment.name.parse().or_defect()?;
    let whenever = UnixMillis(0);
    let set = key_set::verify(&deployment.keys.key_set()?, &root, &name, whenever)
        .or_fail(Code::KeyMismatch, format_args!("{}: not the root of the key set", path.display()))?;
    let mut signers: Vec<Signer> = set.keys.into_iter().map(|key| Signer { key, retired: false }).collect();
    let folder = deployment.keys.folder();
    for entry in fs::read_dir(folder).read_of(folder)? {
        let path = entry.read_of(folder)?.path();
        let named =
            path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(RETIRED_SETS));
        if !named {
            continue;
        }
        let text = fs::read_to_string(&path).read_of(&path)?;
        match key_set::verify(text.trim(), &root, &name, whenever) {
            Ok(set) => {
                for key in set.keys {
                    if signers.iter().all(|signer| signer.key != key) {
                        signers.push(Signer { key, retired: true });
                    }
                }
            }
            Err(error) => eprintln!("keyturn: {}: {error}; it is left out", path.display()),
        }
    }
    Ok(signers)
}

async fn one<'a>(deployment: &Deployment, signers: &'a [Signer], line: &str) -> Result<&'a Signer> {
    let signed: Signed = serde_json::from_str(line).or_fail(Code::AnchorBroken, "not an anchor")?;
    let named: Vec<&Signer> = signers.iter().filter(|signer| signer.key.kid == signed.kid).collect();
    if named.is_empty() {
        let kid = output::quoted(&signed.kid);
        return broken(format!(
            "it is signed with {kid}, which is in no key set of this deployment: neither the present one nor those in \
             {}/{RETIRED_SETS}*.jws; put the set of its time there",
            deployment.keys.folder().display()
        ));
    }
    let signature = URL_SAFE_NO_PAD
        .decode(&signed.signature)
        .or_fail(Code::AnchorBroken, "its signature is not base64url")?;
    let text = format!("{CONTEXT}{}", signed.anchor);
    let Some(signer) = named.into_iter().find(|one| one.key.verifies(text.as_bytes(), &signature)) else {
        return broken("its signature does not hold");
    };
    let anchor: Anchor = serde_json::from_str(&signed.anchor).or_fail(Code::AnchorBroken, "not an anchor")?;
    if anchor.deployment != deployment.config.sections.deployment.name {
        return broken(format!("it is of deployment {}", output::quoted(&anchor.deployment)));
    }
    let rows = deployment.engines.audit().after(anchor.seq.saturating_sub(1), 1).await?;
    match rows.first() {
        Some(row) if row.seq == anchor.seq && row.hash == anchor.hash => Ok(signer),
        Some(row) if row.seq == anchor.seq => {
            let at = output::when(anchor.at_ms);
            broken(format!("row {} is another than at {at}: the audit was written anew", anchor.seq))
        }
        _ => {
            let at = output::when(anchor.at_ms);
            broken(format!("row {} was there at {at} and is gone: the audit was cut off", anchor.seq))
        }
    }
}

fn broken<T>(why: impl Into<String>) -> Result<T> {
    Err(Failure::new(Code::AnchorBroken, why))
}
