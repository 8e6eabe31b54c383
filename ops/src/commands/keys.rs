//! `keyturn keys`: changing keys while everything runs.

mod ring;
pub(super) mod signing;
mod under_way;

use std::time::Duration;

use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::audit::Action;
use keyturn_schemas::finding::FindingKeys;
use keyturn_schemas::mac::{FiledKey, KeyId};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::stamp::StampKeys;
use keyturn_schemas::ticket::TicketKeys;
use keyturn_service::keys::{SIGNING, VAULT, replace};
use serde::Serialize;
use zeroize::Zeroizing;

use self::ring::{SETTLED, Standing};
use super::Deployment;
use crate::cli::{Keys, Kind};
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result};
use crate::output;

/// What seals, besides signing.
const RINGS: [Kind; 5] = [Kind::Nonce, Kind::Stamp, Kind::Ticket, Kind::Finding, Kind::Vault];

impl Kind {
    /// The word in files.
    fn word(self) -> &'static str {
        match self {
            Self::Nonce => NonceKeys::KIND,
            Self::Stamp => StampKeys::KIND,
            Self::Ticket => TicketKeys::KIND,
            Self::Finding => FindingKeys::KIND,
            Self::Vault => VAULT,
            Self::Signing => SIGNING,
        }
    }
}

/// A key as it is listed. No secret.
#[derive(Serialize)]
pub(super) struct Listed {
    pub(super) kind: &'static str,
    pub(super) id: String,
    pub(super) standing: &'static str,
    pub(super) note: String,
}

pub(super) async fn run(deployment: &Deployment, command: &Keys) -> Result<()> {
    // Two commands at once would each undo the other's work.
    let folder = deployment.keys.folder();
    let lock = std::fs::File::open(folder).read_of(folder)?;
    lock.lock().or_fail(Code::System, format_args!("{}: cannot be locked", folder.display()))?;
    let needs_vault = match command {
        Keys::List => true,
        Keys::Rotate { kind, .. } | Keys::Retire { kind, .. } => *kind == Kind::Vault,
    };
    if needs_vault {
        deployment.keys.unlock().await?;
    }
    match command {
        Keys::List => list(deployment),
        Keys::Rotate { kind: Kind::Signing, activate: false } => signing::add(deployment).await,
        Keys::Rotate { kind: Kind::Signing, activate: true } => signing::activate(deployment).await,
        Keys::Retire { kind: Kind::Signing, id, danger_now } => {
            signing::retire(deployment, id, *danger_now).await
        }
        Keys::Rotate { kind, activate: false } => add(deployment, *kind).await,
        Keys::Rotate { kind, activate: true } => activate(deployment, *kind).await,
        Keys::Retire { kind, id, danger_now } => {
            retire(deployment, *kind, under_way::number(id)?, *danger_now).await
        }
    }
}

fn list(deployment: &Deployment) -> Result<()> {
    let mut rows = Vec::new();
    for kind in RINGS {
        let keys = deployment.keys.filed(kind.word())?;
        rows.extend(keys.iter().enumerate().map(|(place, key)| {
            let (standing, note) = match ring::standing(place, key) {
                Standing::InUse => ("in use", String::new()),
                Standing::ToCome => ("to come", "accepted; put to use with --activate".to_owned()),
                Standing::Replaced(at) => ("replaced", format!("accepted; replaced {}", output::when(at))),
            };
            Listed { kind: kind.word(), id: key.id.0.to_string(), standing, note }
        }));
    }
    rows.extend(signing::list(deployment)?);
    let cells = rows
        .iter()
        .map(|row| [row.kind.to_owned(), row.id.clone(), row.standing.to_owned(), row.note.clone()]);
    output::table(deployment.output, ["KIND", "ID", "STANDING", "NOTE"], cells, &rows)
}

async fn add(deployment: &Deployment, kind: Kind) -> Result<()> {
    let now = deployment.engines.clock().now();
    let keys = ring::added(&deployment.keys.filed(kind.word())?, secret(), now)?;
    let id = keys.last().map_or(0, |key| key.id.0);
    write(deployment, kind, &keys, &format!("made {} key {id}", kind.word())).await?;
    let (word, wait) = (kind.word(), SETTLED.as_secs());
    eprintln!("Key {id} is accepted as soon as each process has read it, which takes {wait} s at most.");
    eprintln!("Then put it to use: keyturn keys rotate {word} --activate");
    Ok(())
}

async fn activate(deployment: &Deployment, kind: Kind) -> Result<()> {
    let now = deployment.engines.clock().now();
    let keys = ring::activated(&deployment.keys.filed(kind.word())?, now)?;
    let [new, old] = keys.as_slice() else { return Ok(()) };
    let (word, new, old) = (kind.word(), new.id.0, old.id.0);
    write(deployment, kind, &keys, &format!("put {word} key {new} to use in place of {old}")).await?;
    eprintln!("Key {new} is in use. Key {old} is still accepted.");
    if kind == Kind::Vault {
        eprintln!("Seal what is under key {old} anew: keyturn vault rekey");
    }
    eprintln!("When nothing needs it any more: keyturn keys retire {word} {old}");
    Ok(())
}

async fn retire(deployment: &Deployment, kind: Kind, id: KeyId, danger_now: bool) -> Result<()> {
    let (now, keys) = (deployment.engines.clock().now(), deployment.keys.filed(kind.word())?);
    let wait = if danger_now && kind != Kind::Vault { Duration::ZERO } else { wait(deployment, kind) };
    let left = ring::retired(&keys, id, wait, now)?;
    let Some(key) = keys.iter().find(|key| key.id == id) else { return Ok(()) };
    match kind {
        Kind::Vault => {
            refuse_while_it_seals(deployment, &keys, id).await?;
            keep(deployment, key).await?;
        }
        _ if danger_now => {}
        _ => under_way::refuse_while_needed(deployment, kind, key, wait).await?,
    }
    write(deployment, kind, &left, &format!("retired {} key {}", kind.word(), id.0)).await?;
    eprintln!("Key {} is retired.", id.0);
    Ok(())
}

/// How long after it was replaced a key may still be needed by what it sealed and nobody can see.
fn wait(deployment: &Deployment, kind: Kind) -> Duration {
    let (trust, rotation) = (&deployment.config.sections.trust, &deployment.config.sections.rotation);
    match kind {
        // Twice the life of a nonce, which agents hold meanwhile: ten minutes by default.
        Kind::Nonce => SETTLED.max(trust.nonce_ttl.0.saturating_mul(2)),
        // A ticket is good for as long as the result it leads to, which may come as late as its request may wait.
        Kind::Ticket => SETTLED + rotation.result_ttl.0 + rotation.request_max_age.0,
        Kind::Stamp | Kind::Finding | Kind::Vault | Kind::Signing => SETTLED,
    }
}

/// A master key goes only when no version is under it: without it they could not be opened.
async fn refuse_while_it_seals(deployment: &Deployment, keys: &[FiledKey], id: KeyId) -> Result<()> {
    let keeper = deployment.engines.vault_keeper(deployment.keys.vault()?);
    let census = keeper.census().await?;
    let under = keys.iter().zip(&census.under).find(|(key, _)| key.id == id).map_or(0, |(_, count)| *count);
    if under == 0 {
        return Ok(());
    }
    let mend = "seal them anew with `keyturn vault rekey`";
    let text = format!("{} sealed under key {}; {mend}", output::are(under, "version"), id.0);
    Err(Failure::new(Code::KeyNeeded, text))
}

/// A retired master key still opens the backups of its time, so it is put aside and not destroyed.
async fn keep(deployment: &Deployment, key: &FiledKey) -> Result<()> {
    let at = deployment.engines.clock().now();
    let path = deployment.keys.folder().join(format!("vault.retired-{}-{}.key", key.id.0, at.0));
    let text = deployment.keys.ring_text(VAULT, std::slice::from_ref(key)).await?;
    replace(&path, &text).written_to(&path)?;
    eprintln!("It opens backups made until now. Keep it with them, off this machine: {}", path.display());
    Ok(())
}

async fn write(deployment: &Deployment, kind: Kind, keys: &[FiledKey], what: &str) -> Result<()> {
    let text = deployment.keys.ring_text(kind.word(), keys).await?;
    deployment.record(Action::KeysChanged, None, "", what).await?;
    let path = deployment.keys.folder().join(format!("{}.key", kind.word()));
    replace(&path, &text).written_to(&path)
}

/// Fresh secret bytes.
pub(super) fn secret() -> Zeroizing<[u8; 32]> {
    let entropy: &dyn Entropy = &SystemEntropy;
    Zeroizing::new(entropy.bytes())
}
