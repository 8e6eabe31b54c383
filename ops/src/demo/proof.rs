//! The check at the end of a round: what a reveal shows as confirmed is what the account accepts, there is
//! nothing else it could be, and no version was made twice.

use anyhow::{Result, bail, ensure};
use keyturn_agent::Outcome;
use keyturn_agent::accounts::{Accounts as _, Verdict};
use keyturn_domain::lane::Standing;

use super::fleet::{Fleet, Settled};
use super::plant::Plant;
use crate::operator;
use crate::reveal::Look;

/// Checks every device; `round` passwords were made for each so far. Returns how many accounts were proved.
pub(super) async fn check(plant: &Plant, fleet: &Fleet, settled: &[Settled], round: usize) -> Result<usize> {
    let actor = operator::name();
    let look =
        Look { engines: &plant.host.engines, vault: &*plant.vault, actor: &actor, reason: "proof (demo)" };
    let mut proved = 0;
    for one in settled {
        let device = &one.device;
        let name = &device.name;
        if device.id == fleet.refused().id {
            ensure!(matches!(one.outcome, Ok(Outcome::Refused)), "{name} is disabled and was not refused");
            continue;
        }
        let version = match &one.outcome {
            Ok(Outcome::Rotated { version, recorded: true }) => *version,
            Ok(outcome) => bail!("{name}: {outcome}"),
            Err(error) => bail!("{name}: {error}"),
        };
        let made = plant.vault.history(device.id).await?.len();
        ensure!(made == round, "{name}: {made} versions were made instead of {round}");
        let shown = look.candidates(device.id, &plant.host.config.rotation).await?;
        let [only] = shown.as_slice() else {
            bail!("{name}: {} candidates are shown instead of one", shown.len())
        };
        let confirmed = matches!(only.standing, Some(Standing::Confirmed { .. }));
        ensure!(confirmed && only.version == version, "{name}: the shown version is not the confirmed one");
        let verdict = device.accounts.verify(&only.password)?;
        ensure!(
            matches!(verdict, Verdict::Accepted),
            "{name}: the account does not accept the shown password"
        );
        proved += 1;
    }
    Ok(proved)
}
