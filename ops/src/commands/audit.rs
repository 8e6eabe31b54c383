//! `keyturn audit`.

use keyturn_domain::ids::DeviceId;
use keyturn_ports::audit::{Action, Row, Verified, Wanted};
use serde_json::json;

use super::{Deployment, anchor, export};
use crate::cli::{Audit, Output, Search};
use crate::failure::{Code, Failure, Result, usage};
use crate::output;
use crate::output::say;
use crate::resolve;

pub(super) async fn run(deployment: &Deployment, command: &Audit) -> Result<()> {
    let audit = deployment.engines.audit();
    match command {
        Audit::List(search) => search_for(deployment, search).await?,
        Audit::Export { since } => export::audit(deployment, since.as_deref()).await?,
        Audit::Anchor => anchor::make(deployment).await?,
        Audit::Verify { anchor: None } => verify(deployment, &audit.verify().await?)?,
        Audit::Verify { anchor: Some(file) } => {
            let chain = verify(deployment, &audit.verify().await?);
            let checked = anchor::check(deployment, file).await?;
            eprintln!(
                "{}.",
                if checked.anchors == 1 {
                    "1 anchor holds".to_owned()
                } else {
                    format!("{} anchors hold", checked.anchors)
                }
            );
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

async fn search_for(deployment: &Deployment, search: &Search) -> Result<()> {
    let Search { limit, device, action, who, since } = search;
    let audit = deployment.engines.audit();
    let device = match device {
        None => None,
        // Of one that is nowhere any more there may be rows all the same.
        Some(text) => Some(match DeviceId::parse_any_case(text) {
            Ok(id) => id,
            Err(_) => resolve::device(&deployment.engines, text).await?.id,
        }),
    };
    let since = since.is_some().then(|| export::instant(since.as_deref())).transpose()?;
    let actions: Vec<Action> = action.iter().map(|text| named(text)).collect();
    if let [Action::Later(word)] = actions.as_slice() {
        // What nobody ever did is a slip of the hand, and an empty list would hide that.
        let any = Wanted { actions: actions.clone(), ..Wanted::default() };
        if audit.select(any, 1).await?.is_empty() {
            let known: Vec<&str> = Action::ALL.iter().map(self::word).collect();
            let word = output::quoted(word);
            return Err(usage(
                "--action",
                format_args!("{word}: there is none; there are {}", known.join(", ")),
            ));
        }
    }
    let wanted = Wanted { device, actions, actor: who.clone(), detail: None, since };
    list(deployment, &audit.select(wanted, *limit).await?)
}

/// The action that was typed: its words or its one word, with hyphens or without, in upper or lower case.
fn named(text: &str) -> Action {
    let plain = |text: &str| text.replace([' ', '-', '_'], "").to_ascii_lowercase();
    let typed = plain(text);
    let meant = |known: &Action| [word(known), known.as_str()].into_iter().any(|one| plain(one) == typed);
    Action::ALL.into_iter().find(meant).unwrap_or_else(|| Action::of(text.to_owned()))
}

fn list(deployment: &Deployment, rows: &[Row]) -> Result<()> {
    let cells = rows.iter().map(|Row { seq, row, .. }| {
        let device = row.device.map(|device| device.to_string()).unwrap_or_default();
        let action = word(&row.action).to_owned();
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
        (Output::Json, Verified::Intact { rows }) => output::json(&json!({ "intact": true, "rows": rows }))?,
        (Output::Json, Verified::Broken { seq }) => {
            output::json(&json!({ "intact": false, "broken_at": seq }))?;
        }
        (Output::Text, Verified::Intact { rows }) => {
            say!("{}, the chain is whole", output::count(*rows, "row"));
        }
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

/// What was done in words; by its one word if a later release did it.
fn word(action: &Action) -> &str {
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
        Action::LogLevelChanged => "log level changed",
        Action::Later(word) => word,
    }
}
