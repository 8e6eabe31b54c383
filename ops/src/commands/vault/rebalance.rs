//! `keyturn vault rebalance`: every version to the vault that new versions of its device go to.
//!
//! What is left to do is what the vaults and the ledger say now, so a run that is killed anywhere is gone on with by the
//! same words. One version at a time: copied, read back, and only then does the ledger say that it is there.

use std::num::NonZeroU32;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use keyturn_domain::ids::DeviceId;
use keyturn_ports::Kind;
use keyturn_ports::audit::Action;
use keyturn_ports::ledger::{LedgerOperator, LedgerReader};
use keyturn_ports::vault::{Astray, Resettling};
use serde::Serialize;

use super::Deployment;
use crate::cli::{Output, VaultRebalance};
use crate::commands::device::need_reason;
use crate::failure::{Code, Failure, Result};
use crate::output::{self, count, say};

/// Devices read at once.
const PAGE: usize = 500;

/// What came of it.
#[derive(Default, Serialize)]
struct Counts {
    devices: u64,
    /// Versions that are, or were, elsewhere than they should be.
    astray: u64,
    moved: u64,
    disabled: u64,
    /// Versions that stay where they are, because they are not what they should be.
    damaged: u64,
}

struct Rebalance<'a> {
    deployment: &'a Deployment,
    command: &'a VaultRebalance,
    vault: &'a dyn Resettling,
    reader: &'a dyn LedgerReader,
    ledger: &'a dyn LedgerOperator,
    pause: Duration,
    counts: Counts,
}

pub(super) async fn run(deployment: &Deployment, command: &VaultRebalance) -> Result<()> {
    let engines = &deployment.engines;
    let Some(vault) = engines.resettling() else {
        let why =
            "this deployment's versions are in its database, and in no vaults that they could be spread over";
        return Err(Failure::new(Code::OtherKindOfDeployment, why));
    };
    if !command.dry_run {
        need_reason(command.reason.as_deref().unwrap_or_default())?;
    }
    let (reader, ledger) = (engines.ledger_reader(), engines.ledger_operator());
    let pause =
        command.max_rate.map_or(Duration::ZERO, |rate: NonZeroU32| Duration::from_mins(1) / rate.get());
    let counts = Counts::default();
    let (vault, reader, ledger) = (&*vault, &*reader, &*ledger);
    let mut work = Rebalance { deployment, command, vault, reader, ledger, pause, counts };
    let progress = progress();
    let mut after = None;
    loop {
        let page = reader.devices(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(*last);
        for device in page {
            work.device(device).await?;
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    tell(deployment, command, &work.counts)
}

impl Rebalance<'_> {
    async fn device(&mut self, device: DeviceId) -> Result<()> {
        let mut pending = Vec::new();
        for astray in self.vault.astray(device).await? {
            let told = self.reader.vault_ref(astray.entry.version).await?;
            // The ledger knows it elsewhere, or knows nothing of it and it has to be found where it should be.
            let is_pending = astray.home.is_none() || told.as_ref() == Some(&astray.entry.vault_ref);
            if is_pending || self.command.disable_old {
                pending.push((astray, is_pending));
            }
        }
        self.counts.devices += u64::from(!pending.is_empty());
        self.counts.astray += u64::try_from(pending.len()).unwrap_or_default();
        if pending.is_empty() || self.command.dry_run {
            return Ok(());
        }
        let reason = self.command.reason.as_deref().unwrap_or_default();
        let what = if self.command.disable_old { "moved home, old ones disabled" } else { "moved home" };
        let detail = format!("{} versions {what}", pending.len());
        self.deployment.record(Action::VaultRebalanced, Some(device), reason, &detail).await?;
        for (astray, is_pending) in pending {
            match self.version(device, &astray, is_pending).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Corrupt => {
                    self.counts.damaged += 1;
                    eprintln!("keyturn: device {device}: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn version(
        &mut self,
        device: DeviceId,
        astray: &Astray,
        pending: bool,
    ) -> Result<(), keyturn_ports::Error> {
        let Astray { entry, home } = astray;
        if pending {
            let found = self.vault.bring_home(device, entry).await?;
            self.ledger.relocate(entry.version, &entry.vault_ref, &found.vault_ref).await?;
            self.counts.moved += 1;
            if home.is_none() {
                tokio::time::sleep(self.pause).await;
            }
        }
        if self.command.disable_old {
            self.vault.disable(device, entry).await?;
            self.counts.disabled += 1;
        }
        Ok(())
    }
}

fn tell(deployment: &Deployment, command: &VaultRebalance, counts: &Counts) -> Result<()> {
    let Counts { devices, astray, moved, disabled, damaged } = counts;
    match deployment.output {
        Output::Json => output::json(counts)?,
        Output::Text if command.dry_run => {
            say!("{} of {} would be moved", count(*astray, "version"), count(*devices, "device"));
        }
        Output::Text => {
            let (moved, devices) = (count(*moved, "version"), count(*devices, "device"));
            say!("moved {moved} of {devices}, and disabled {disabled} old ones");
        }
    }
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::new(
            Code::Partial,
            format!("{damaged} versions stay where they are, because they are damaged"),
        )),
    }
}

/// On stderr, and only on a terminal.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{spinner} {pos} devices looked at, {per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
