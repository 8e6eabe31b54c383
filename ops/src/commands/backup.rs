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
use crate::output::{self, say};

pub(super) async fn run(arguments: &Arguments, command: &Backup) -> Result<()> {
    let checked = match command {
        Backup::Create { to } => create(&Deployment::open(arguments)?, to).await?,
        Backup::Verify { file } => backups::check(file)?,
    };
    tell(arguments.output, &checked)
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

fn tell(output: Output, checked: &Checked) -> Result<()> {
    let Checked { schema, devices, lanes, issued, versions, missing: _, audit, dead_letters } = checked;
    match output {
        Output::Json => output::json(checked)?,
        Output::Text => say!(
            "sound: schema {schema}, {devices} devices, {lanes} lanes, {issued} versions issued, {versions} in the \
             vault, {audit} audit rows in an unbroken chain, {dead_letters} dead letters"
        ),
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
    tell(arguments.output, &checked)?;
    if let Some(kept) = kept {
        eprintln!("The database that was replaced is {}: remove it when all is well.", kept.display());
    }
    eprintln!(
        "Devices are heard anew. If there is a recovery log, run `keyturn vault recover` before the roles start."
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
