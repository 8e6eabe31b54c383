//! `keyturn reveal`: the audit row first, then the passwords.

use anyhow::{Context as _, Result, bail};
use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::{Candidate, Lane, Standing};
use keyturn_domain::password::Password;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::vault::Vault;
use keyturn_service::engines::Engines;
use serde::Serialize;

use super::Deployment;
use crate::cli::{Output, Reveal};
use crate::failure::Failure;
use crate::output::say;
use crate::{operator, output, resolve};

/// A candidate with its password. It goes to the screen and nowhere else.
pub(crate) struct Revealed {
    pub(crate) account: String,
    pub(crate) candidate: Candidate,
    pub(crate) password: Password,
}

pub(super) async fn run(deployment: &Deployment, command: &Reveal) -> Result<()> {
    let device = resolve::device(&deployment.engines, &command.device).await?;
    let vault = deployment.engines.vault(deployment.keys.vault()?);
    let revealed =
        reveal(&deployment.engines, &*vault, device.id, &operator::name(), &command.reason).await?;
    match deployment.output {
        Output::Json => print_json(device.id, &revealed),
        Output::Text => {
            print_text(&device.title(), &revealed);
            Ok(())
        }
    }
}

/// The passwords a device may have now, most likely first. The audit row is committed before the vault is asked.
pub(crate) async fn reveal(
    engines: &Engines,
    vault: &dyn Vault,
    device: DeviceId,
    actor: &str,
    reason: &str,
) -> Result<Vec<Revealed>> {
    if reason.trim().is_empty() {
        bail!("--reason must say why: the audit keeps it");
    }
    let lanes = engines.ledger_reader().lanes(device).await?;
    let open = lanes.iter().filter(|lane| lane.closed.is_none());
    let candidates: Vec<(&Lane, Candidate)> =
        open.flat_map(|lane| lane.candidates().into_iter().map(move |candidate| (lane, candidate))).collect();
    if candidates.is_empty() {
        return Err(Failure::NotFound(format!("{device}: no password was ever made for this device")).into());
    }
    let versions: Vec<String> =
        candidates.iter().map(|(_, candidate)| candidate.version.to_string()).collect();
    let row = NewRow {
        at: engines.clock().now(),
        actor: actor.to_owned(),
        action: Action::SecretGet,
        device: Some(device),
        reason: reason.to_owned(),
        detail: format!("versions {}", versions.join(" ")),
    };
    engines.audit().append(row).await.context("the access could not be recorded, so nothing is shown")?;
    let mut revealed = Vec::with_capacity(candidates.len());
    for (lane, candidate) in candidates {
        revealed.push(open_candidate(engines, vault, lane, candidate).await?);
    }
    Ok(revealed)
}

async fn open_candidate(
    engines: &Engines,
    vault: &dyn Vault,
    lane: &Lane,
    candidate: Candidate,
) -> Result<Revealed> {
    let missing =
        || format!("the vault does not have version {}; restore it from a backup", candidate.version);
    let vault_ref = engines.ledger_reader().vault_ref(candidate.version).await?.with_context(missing)?;
    let password = vault.read(lane.key.id(), candidate.version, &vault_ref).await?.with_context(missing)?;
    Ok(Revealed { account: lane.about.account_name.to_string(), candidate, password })
}

fn print_text(title: &str, revealed: &[Revealed]) {
    eprintln!("{title}. Your name, the time and the reason are recorded.");
    if revealed.len() > 1 {
        eprintln!("Try the first; if it fails, the next: the device has not confirmed which one it has.");
    }
    for one in revealed {
        let standing = match one.candidate.standing {
            Standing::Confirmed { at } => format!("confirmed {}", output::when(at)),
            Standing::Pending { at } => format!("pending since {}", output::when(at)),
            Standing::InDoubt => "in doubt".to_owned(),
        };
        say!("{}\t{}\t{standing}", one.account, one.password.expose());
    }
}

#[derive(Serialize)]
struct Row<'a> {
    device_id: DeviceId,
    account: &'a str,
    #[serde(flatten)]
    candidate: Candidate,
    password: &'a str,
}

fn print_json(device_id: DeviceId, revealed: &[Revealed]) -> Result<()> {
    let row = |one: &Revealed| {
        let Revealed { account, candidate, password } = one;
        serde_json::to_value(Row { device_id, account, candidate: *candidate, password: password.expose() })
    };
    output::json(&revealed.iter().map(row).collect::<Result<Vec<_>, _>>()?)
}
