//! `keyturn audit`.

use keyturn_ports::audit::{Action, Row, Verified};

use super::{Deployment, anchor, export};
use crate::cli::{Audit, Output};
use crate::failure::{Code, Failure, Result};
use crate::output;
use crate::output::say;

pub(super) async fn run(deployment: &Deployment, command: &Audit) -> Result<()> {
    let audit = deployment.engines.audit();
    match command {
        Audit::List { limit } => list(deployment, &audit.recent(*limit).await?)?,
        Audit::Export { since } => export::audit(deployment, since.as_deref()).await?,
        Audit::Anchor => anchor::make(deployment).await?,
        Audit::Verify { anchor: None } => verify(deployment, &audit.verify().await?)?,
        Audit::Verify { anchor: Some(file) } => {
            let chain = verify(deployment, &audit.verify().await?);
            let checked = anchor::check(deployment, file).await?;
            eprintln!("{} anchors hold.", checked.anchors);
            for (kid, anchors) in checked.retired {
                eprintln!(
                    "{anchors} of them are signed with {kid}, which was retired. If others may have had that key, they \
                     show no more than the place does in which they were kept."
                );
            }
            chain?;
        }
    }
    Ok(())
}

fn list(deployment: &Deployment, rows: &[Row]) -> Result<()> {
    let cells = rows.iter().map(|Row { seq, row, .. }| {
        let device = row.device.map(|device| device.to_string()).unwrap_or_default();
        let action = word(row.action).to_owned();
        [
            seq.to_string(),
            output::when(row.at),
            row.actor.clone(),
            action,
            device,
            row.reason.clone(),
            row.detail.clone(),
        ]
    });
    output::table(deployment.output, ["#", "WHEN", "WHO", "WHAT", "DEVICE", "REASON", "DETAIL"], cells, &rows)
}

fn verify(deployment: &Deployment, verified: &Verified) -> Result<()> {
    match (deployment.output, verified) {
        (Output::Json, _) => output::json(verified)?,
        (Output::Text, Verified::Intact { rows }) => say!("{rows} rows, the chain is whole"),
        (Output::Text, Verified::Broken { seq }) => {
            say!("row {seq} does not follow from the one before it: it or its neighbour was changed");
        }
    }
    match verified {
        Verified::Intact { .. } => Ok(()),
        Verified::Broken { seq } => {
            Err(Failure::new(Code::AuditBroken, format!("the chain of the audit breaks at row {seq}")))
        }
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::SecretGet => "password revealed",
        Action::RotationForced => "rotation asked for",
        Action::KeysChanged => "keys changed",
        Action::LaneClosed => "lane closed",
        Action::HoldReleased => "hold released",
        Action::VaultRecovered => "vault recovered",
        Action::DirectoryChanged => "directory changed",
        Action::BackupMade => "backup made",
        Action::StoreRestored => "store restored",
        Action::DeadLettersReplayed => "dead letters replayed",
        Action::DeadLettersDiscarded => "dead letters discarded",
        Action::RotationHeld => "rotation held",
        Action::AuditAnchored => "audit anchored",
        Action::VaultExported => "vault exported",
        Action::VaultRebalanced => "vault rebalanced",
        Action::StoreMoved => "store moved",
    }
}
