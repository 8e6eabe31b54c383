//! Anchors of the audit: its head, signed, to be kept where whoever has the database cannot reach.
//!
//! The chain shows what was changed in its middle. That its end was cut off, or that all of it was written anew, shows
//! against an anchor alone. An anchor is a line of JSON; the signature is Ed25519 by the key that signs results, over
//! `keyturn audit anchor v1`, a newline, and the line's `anchor` as it stands. No result is such a text: what is signed
//! for those has no blank in it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, Row};
use keyturn_schemas::key_set;
use keyturn_schemas::signing::PublicKey;
use serde::{Deserialize, Serialize};

use super::Deployment;
use super::init::ROOT_PUBLIC_FILE;
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
    let Row { seq, hash, .. } = rows.first().context("the audit has no row")?;
    let anchor = Anchor {
        deployment: deployment.config.sections.deployment.name.clone(),
        seq: *seq,
        hash: hash.clone(),
        at_ms: deployment.engines.clock().now(),
    };
    let anchor = serde_json::to_string(&anchor)?;
    let signature = URL_SAFE_NO_PAD.encode(key.sign(format!("{CONTEXT}{anchor}").as_bytes()));
    output::json_line(&Signed { anchor, kid: key.kid().to_owned(), signature })
}

/// Checks every anchor of a file against the audit as it is. Returns how many there are.
pub(super) async fn check(deployment: &Deployment, file: &Path) -> Result<usize> {
    let text = fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let keys = trusted(deployment)?;
    let mut anchors = 0;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        one(deployment, &keys, line).await.with_context(|| format!("{}:{number}", file.display()))?;
        anchors += 1;
    }
    if anchors == 0 {
        bail!("{}: there is no anchor in it", file.display());
    }
    Ok(anchors)
}

/// The keys that the root vouches for. The root's public half is read from beside the key folder.
fn trusted(deployment: &Deployment) -> Result<Vec<PublicKey>> {
    let path = super::doctor::home(deployment).join(ROOT_PUBLIC_FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let root: PublicKey = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let name = deployment.config.sections.deployment.name.parse()?;
    let now = deployment.engines.clock().now();
    Ok(key_set::verify(&deployment.keys.key_set()?, &root, &name, now)?.keys)
}

async fn one(deployment: &Deployment, keys: &[PublicKey], line: &str) -> Result<()> {
    let signed: Signed = serde_json::from_str(line).context("not an anchor")?;
    let Some(key) = keys.iter().find(|key| key.kid == signed.kid) else {
        let kid = output::quoted(&signed.kid);
        bail!(
            "it is signed with {kid}, which is not in the key set; check it against the key set of its time"
        );
    };
    let signature = URL_SAFE_NO_PAD.decode(&signed.signature).context("its signature is not base64url")?;
    if !key.verifies(format!("{CONTEXT}{}", signed.anchor).as_bytes(), &signature) {
        bail!("its signature does not hold");
    }
    let anchor: Anchor = serde_json::from_str(&signed.anchor).context("not an anchor")?;
    if anchor.deployment != deployment.config.sections.deployment.name {
        bail!("it is of deployment {}", output::quoted(&anchor.deployment));
    }
    let rows = deployment.engines.audit().after(anchor.seq.saturating_sub(1), 1).await?;
    match rows.first() {
        Some(row) if row.seq == anchor.seq && row.hash == anchor.hash => Ok(()),
        Some(row) if row.seq == anchor.seq => {
            bail!(
                "row {} is another than at {}: the audit was written anew",
                anchor.seq,
                output::when(anchor.at_ms)
            )
        }
        _ => bail!(
            "row {} was there at {} and is gone: the audit was cut off",
            anchor.seq,
            output::when(anchor.at_ms)
        ),
    }
}
