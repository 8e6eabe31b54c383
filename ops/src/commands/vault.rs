//! `keyturn vault`: the master keys and what they seal.

mod export;
mod history;
pub(super) mod open_export;
mod rebalance;

use std::fs::File;

use indicatif::{ProgressBar, ProgressStyle};
use keyturn_domain::ids::VersionId;
use keyturn_ports::audit::Action;
use keyturn_ports::vault::{Census, VaultKeeper};
use keyturn_service::keys::{Rewrapped, VAULT, replace};
use serde::Serialize;

use super::{Deployment, recover};
use crate::cli::Vault;
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result};
use crate::output;

/// Versions are worked off in pages of this many: a page is one commit, and others write in between.
const PAGE: usize = 128;

pub(super) async fn run(deployment: &Deployment, command: &Vault) -> Result<()> {
    if matches!(command, Vault::Rekey | Vault::Verify) {
        if !deployment.engines.seals_its_vault() {
            let why = "this deployment's vault is Azure Key Vault, which looks after its own keys";
            return Err(Failure::new(Code::OtherKindOfDeployment, why));
        }
        deployment.keys.unlock().await?;
    }
    match command {
        Vault::Rekey => rekey(deployment).await,
        Vault::Verify => verify(deployment).await,
        Vault::Wrap => wrap(deployment).await,
        Vault::Rebalance(command) => rebalance::run(deployment, command).await,
        Vault::History(which) => history::run(deployment, &which.device).await,
        Vault::RecoveryKey { out } => recover::make_key(out),
        Vault::Recover { key, log } => recover::recover(deployment, key, log).await,
        Vault::Export(export) => export::run(deployment, export).await,
        Vault::OpenExport(open) => open_export::run(open, deployment.output),
    }
}

async fn rekey(deployment: &Deployment) -> Result<()> {
    let keeper = deployment.engines.vault_keeper(deployment.keys.vault()?);
    let front = deployment.keys.filed(VAULT)?.first().map_or(0, |key| key.id.0);
    deployment.record(Action::KeysChanged, None, "", &format!("sealing the vault under key {front}")).await?;
    let progress = progress(&keeper.census().await?);
    let (mut after, mut resealed, mut damaged) = (0, 0, Vec::new());
    loop {
        let page = keeper.reseal(after, PAGE).await?;
        resealed += page.resealed;
        damaged.extend(page.damaged);
        let Some(last) = page.last else { break };
        progress.inc(u64::try_from(PAGE).unwrap_or(0));
        after = last;
    }
    progress.finish_and_clear();
    eprintln!("{} sealed anew under key {front}.", output::are(resealed, "version"));
    tell(&damaged)
}

/// Wraps the master keys by the newest version of the wrapping key. What they sealed stays as it is.
async fn wrap(deployment: &Deployment) -> Result<()> {
    let folder = deployment.keys.folder();
    // `keyturn keys` writes the same file.
    let held = File::open(folder).read_of(folder)?;
    held.lock().or_fail(Code::System, format_args!("{}: cannot be locked", folder.display()))?;
    let Some(Rewrapped { text, wrapped, were_plain, by }) = deployment.keys.wrap_anew().await? else {
        let why =
            "this deployment wraps no keys; set vault.engine = \"envelope\" and vault.wrapping_key first";
        return Err(Failure::new(Code::OtherKindOfDeployment, why));
    };
    if wrapped == 0 {
        eprintln!("The keys are wrapped by {by} already.");
        return Ok(());
    }
    deployment.record(Action::KeysChanged, None, "", &format!("wrapped the vault's keys by {by}")).await?;
    let path = folder.join(format!("{VAULT}.key"));
    replace(&path, &text).written_to(&path)?;
    eprintln!(
        "{} of the vault wrapped by {by}. Keep that version: without it nothing opens.",
        output::count(wrapped, "key")
    );
    if were_plain {
        eprintln!("They lay on this disk as they are, and may be in its backups. New ones never did:");
        eprintln!("keyturn keys rotate {VAULT}, then as it says, and `keyturn vault rekey`");
    }
    Ok(())
}

#[derive(Serialize)]
struct Count {
    key: String,
    versions: u64,
}

async fn verify(deployment: &Deployment) -> Result<()> {
    let keeper = deployment.engines.vault_keeper(deployment.keys.vault()?);
    let census = keeper.census().await?;
    let damaged = open_all(&*keeper, &progress(&census)).await?;
    let keys = deployment.keys.filed(VAULT)?;
    let mut counts: Vec<Count> = keys
        .iter()
        .zip(&census.under)
        .map(|(key, versions)| Count { key: key.id.0.to_string(), versions: *versions })
        .collect();
    if census.unknown > 0 {
        counts.push(Count { key: "unknown".to_owned(), versions: census.unknown });
    }
    let cells = counts.iter().map(|count| [count.key.clone(), count.versions.to_string()]);
    output::table(deployment.output, ["KEY", "VERSIONS"], cells, &counts)?;
    tell(&damaged)
}

async fn open_all(keeper: &dyn VaultKeeper, progress: &ProgressBar) -> Result<Vec<VersionId>> {
    let (mut after, mut damaged) = (0, Vec::new());
    loop {
        let page = keeper.check(after, PAGE).await?;
        progress.inc(page.opened);
        damaged.extend(page.damaged);
        let Some(last) = page.last else { break };
        after = last;
    }
    progress.finish_and_clear();
    Ok(damaged)
}

fn tell(damaged: &[VersionId]) -> Result<()> {
    for version in damaged {
        eprintln!("keyturn: version {version} cannot be opened with the master keys there are");
    }
    match damaged.len() {
        0 => Ok(()),
        some => Err(Failure::new(Code::Partial, format!("{some} versions cannot be opened"))),
    }
}

/// On stderr, and only on a terminal.
fn progress(census: &Census) -> ProgressBar {
    let style = ProgressStyle::with_template("{pos}/{len} versions {bar:30} {eta}");
    let bar = ProgressBar::new(census.under.iter().sum::<u64>() + census.unknown);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
