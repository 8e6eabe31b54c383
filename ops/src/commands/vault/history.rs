//! `keyturn vault history`: what Key Vault has of a device, without values.

use keyturn_domain::lane::{Lane, Standing};
use keyturn_ports::vault::{BACKED_UP, HeldSecret, HeldVersion};

use super::Deployment;
use crate::cli::Output;
use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::resolve;

/// Versions of one secret from which on something should be done.
const MANY: usize = BACKED_UP * 9 / 10;

pub(super) async fn run(deployment: &Deployment, device: &str) -> Result<()> {
    let Some(vault) = deployment.engines.inventory() else {
        let why = "this deployment's versions are in its database: `keyturn device history` lists them";
        return Err(Failure::new(Code::OtherKindOfDeployment, why));
    };
    let named = resolve::device(&deployment.engines, device).await?;
    let lanes = deployment.engines.ledger_reader().lanes(named.id).await?;
    let secrets = vault.inventory(named.id).await?;
    let rows = secrets.iter().flat_map(|secret| secret.versions.iter().map(move |version| (secret, version)));
    let cells = rows.map(|(secret, version)| {
        let id = version.version.map_or_else(|| "not Keyturn's".to_owned(), |version| version.to_string());
        let request = version.request.map_or_else(String::new, |request| request.to_string());
        let made = output::when(version.made);
        [secret.name.clone(), id, made, version.account.clone(), state(version, &lanes), request]
    });
    let headings = ["SECRET", "VERSION", "MADE", "ACCOUNT", "STATE", "FOR MESSAGE"];
    output::table(deployment.output, headings, cells, &secrets)?;
    if deployment.output == Output::Text {
        secrets.iter().for_each(advise);
        if secrets.is_empty() {
            eprintln!("No vault has anything of this device.");
        }
    }
    Ok(())
}

/// What the ledger says of it, and what is odd about it in the vault.
fn state(held: &HeldVersion, lanes: &[Lane]) -> String {
    let known = lanes.iter().flat_map(Lane::candidates).find(|one| Some(one.version) == held.version);
    let mut words = match known.map(|candidate| candidate.standing) {
        Some(Standing::Confirmed { .. }) => "confirmed",
        Some(Standing::Pending { .. }) => "pending",
        Some(Standing::InDoubt) => "in doubt",
        None => "older",
    }
    .to_owned();
    if !held.enabled {
        words.push_str(", disabled");
    }
    if let Some(ends) = held.ends {
        words.push_str(", ends ");
        words.push_str(&output::when(ends));
    }
    words
}

fn advise(secret: &HeldSecret) {
    let HeldSecret { vault, name, is_home, deleted, versions } = secret;
    let place = format!("{name} in {vault}");
    match deleted {
        Some(true) => eprintln!(
            "{place} was deleted, and its device cannot rotate. `az keyvault secret recover --name {name}` brings it back."
        ),
        None => eprintln!("{place} is not there; whether it was deleted this identity may not ask."),
        Some(false) => {
            let here = if *is_home { "" } else { "; new versions go to another vault" };
            eprintln!("{place}: {} of {BACKED_UP} versions{here}.", versions.len());
        }
    }
    let unreadable = versions.iter().filter(|version| !version.enabled || version.ends.is_some()).count();
    if unreadable > 0 {
        eprintln!(
            "  {unreadable} of them are disabled or have an end, which nothing of Keyturn does: enable them, and take \
             the end away."
        );
    }
    if versions.len() >= MANY {
        eprintln!(
            "  Key Vault backs up no secret with more than {BACKED_UP} versions, and deletes no single one. Let this \
             device rotate less often (rotation.update_every), or have its next versions in another vault: move this \
             vault's address to vault.read_urls. `keyturn vault export` is a backup meanwhile."
        );
    }
}
