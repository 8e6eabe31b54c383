//! `keyturn backup` and `keyturn restore`.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use keyturn_ports::audit::Action;
use keyturn_service::backups::{self, Checked, Restored};
use keyturn_service::config::Config;

use super::Deployment;
use crate::cli::{Arguments, Backup, Output, Restore};
use crate::failure::{Context as _, Result};
use crate::operator;
use crate::output::{self, count, say};

pub(super) async fn run(arguments: &Arguments, command: &Backup) -> Result<()> {
    let (checked, file) = match command {
        Backup::Create { to } => (create(&Deployment::open(arguments)?, to).await?, to),
        Backup::Verify { file } => (backups::check(file)?, file),
    };
    tell(arguments.output, &checked, file)
}

async fn create(deployment: &Deployment, to: &Path) -> Result<Checked> {
    deployment.record(Action::BackupMade, None, "", &format!("to {}", to.display())).await?;
    let bar = bar("pages");
    let made = deployment.engines.back_up(to, &deployment.config.sections.backup, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(made?)
}

/// Tells what is in a backup, and what was checked of it.
fn tell(output: Output, checked: &Checked, file: &Path) -> Result<()> {
    let sum = backups::sum_file(file);
    let sum = sum.display();
    if output == Output::Json {
        output::json(checked)?;
    } else {
        let Checked { schema, sha256, sum_matches, .. } = checked;
        let has = [
            count(checked.devices, "device"),
            count(checked.lanes, "lane"),
            format!("{} issued", count(checked.issued, "version")),
            format!("{} in the vault", checked.versions),
            format!("{} in an unbroken chain", count(checked.audit, "audit row")),
            count(checked.dead_letters, "dead letter"),
        ];
        say!("sound: schema {schema}, {}", has.join(", "));
        if *sum_matches {
            say!("checked: every byte, by the SHA-256 in {sum}");
        }
        say!("checked: pages and indexes, the schema, the vault against the ledger, the audit's chain");
        say!("SHA-256 {sha256}");
    }
    if !checked.sum_matches {
        eprintln!(
            "There is no {sum}, so bytes that the other checks do not read may have changed unnoticed. Compare the \
             SHA-256 with one that was noted elsewhere."
        );
    }
    Ok(())
}

pub(super) async fn restore(arguments: &Arguments, command: &Restore) -> Result<()> {
    let Some(backup) = &command.backup else { return declare(arguments, command).await };
    let config = Config::load(&arguments.config)?;
    let stamp = output::when(SystemClock.now()).replace(':', "");
    let bar = bar("bytes");
    let restored = backups::restore(backup, &config, &stamp, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let Restored { backup: checked, kept } = restored?;
    // Opening it is what draws the new epoch.
    let deployment = Deployment::open(arguments).context("the backup is in place, and cannot be opened")?;
    let detail = format!("from {}", backup.display());
    deployment.record(Action::StoreRestored, None, &command.reason, &detail).await?;
    tell(arguments.output, &checked, backup)?;
    if let Some(kept) = kept {
        eprintln!("The database that was replaced is {}: remove it when all is well.", kept.display());
    }
    eprintln!(
        "The database is known for restored, and the audit says so. Devices are heard anew. If there is a recovery log, run `keyturn vault recover` before the roles start."
    );
    Ok(())
}

async fn declare(arguments: &Arguments, command: &Restore) -> Result<()> {
    let deployment = Deployment::open(arguments)?;
    let (actor, detail) = (operator::name(), "said by an operator");
    deployment.engines.declare_restored(&actor, &command.reason, detail).await?;
    eprintln!("The database is taken for restored. Devices are heard anew.");
    Ok(())
}

/// On stderr, and only on a terminal.
fn bar(unit: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{pos}}/{{len}} {unit} {{bar:30}} {{eta}}"));
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
