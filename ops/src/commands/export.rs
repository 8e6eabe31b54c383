//! `keyturn audit export` and `keyturn events export`: JSON lines for a log store, with the columns of CloudLAPS's
//! tables (`CloudLAPSAudit_CL`, `CloudLAPSClient_CL`) beside our own, so that its workbooks keep their queries.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::LaneEvent;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, Row};
use keyturn_ports::ledger::{Event, Happening};
use keyturn_schemas::envelope::{parse_rfc3339, rfc3339};
use keyturn_service::engines::Engines;
use serde_json::json;

use super::Deployment;
use crate::output::json_line;
use crate::resolve;

/// Rows read at once.
const PAGE: usize = 500;

/// Prints the audit.
pub(super) async fn audit(deployment: &Deployment, since: Option<&str>) -> Result<()> {
    let (since, audit) = (instant(since)?, deployment.engines.audit());
    let (mut names, mut after) = (Names::new(&deployment.engines), 0);
    loop {
        let page = audit.after(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        for Row { seq, row, hash } in page.into_iter().filter(|row| row.row.at >= since) {
            let Named { computer, serial } = names.of(row.device).await?;
            json_line(&json!({
                "AzureADDeviceId": row.device, "UserPrincipalName": row.actor, "Action": word(row.action),
                "ComputerName": computer, "SerialNumber": serial, "CreatedOn": rfc3339(row.at),
                "Result": "Success", "Id": seq.to_string(),
                "Reason": row.reason, "Detail": row.detail, "Hash": hash,
            }))?;
        }
    }
}

/// Prints what happened on devices.
pub(super) async fn events(deployment: &Deployment, since: Option<&str>) -> Result<()> {
    let (since, ledger) = (instant(since)?, deployment.engines.ledger_reader());
    let (mut names, mut after) = (Names::new(&deployment.engines), 0);
    loop {
        let page = ledger.events(after, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        for (place, event) in page.into_iter().filter(|(_, event)| event.at >= since) {
            let Named { computer, serial } = names.of(Some(event.device)).await?;
            let (result, message) = told(&event);
            json_line(&json!({
                "SerialNumber": serial, "AzureADDeviceId": event.device, "PasswordRotationResult": result,
                "DateTimeUtc": rfc3339(event.at), "Message": message,
                "ComputerName": computer, "Id": place.to_string(), "RequestId": event.request,
                "Event": event.what,
            }))?;
        }
    }
}

/// CloudLAPS's word for what happened, where it has one, and a sentence.
fn told(event: &Event) -> (String, String) {
    let (result, message) = match &event.what {
        Happening::Client { result, message } => return (result.clone(), message.clone()),
        Happening::RequestRefused { code } => ("NotAllowed", format!("refused with {code}")),
        Happening::Lane { event: LaneEvent::PasswordConfirmed { version }, .. } => {
            ("PasswordRotated", format!("the device confirmed version {version}"))
        }
        Happening::Lane { event: LaneEvent::PasswordRefused { version }, .. } => {
            ("Failed", format!("the operating system refused version {version}"))
        }
        Happening::Lane { event: LaneEvent::PasswordMinted { version, .. }, .. } => {
            ("", format!("version {version} was made"))
        }
        Happening::Lane { event: LaneEvent::AlarmRaised { alarm }, .. } => ("", format!("alarm {alarm:?}")),
        Happening::Lane { event: LaneEvent::LaneOpened, .. } => ("", "first heard of".to_owned()),
        Happening::Lane { event: LaneEvent::LaneRestored, .. } => {
            ("", "known again after the ledger was restored".to_owned())
        }
    };
    (result.to_owned(), message)
}

/// CloudLAPS has one action; the others are ours.
fn word(action: Action) -> &'static str {
    match action {
        Action::SecretGet => "SecretGet",
        Action::RotationForced => "RotationForced",
        Action::LaneClosed => "LaneClosed",
        Action::HoldReleased => "HoldReleased",
        Action::DirectoryChanged => "DirectoryChanged",
        Action::DeadLettersReplayed => "DeadLettersReplayed",
        Action::DeadLettersDiscarded => "DeadLettersDiscarded",
        Action::RotationHeld => "RotationHeld",
        Action::AuditAnchored => "AuditAnchored",
        Action::VaultExported => "VaultExported",
        Action::KeysChanged => "KeysChanged",
        Action::VaultRecovered => "VaultRecovered",
        Action::BackupMade => "BackupMade",
        Action::StoreRestored => "StoreRestored",
        Action::StoreMoved => "StoreMoved",
    }
}

fn instant(text: Option<&str>) -> Result<UnixMillis> {
    let wrong = || "--since: expected an instant like 2026-11-22T00:00:00Z";
    text.map_or(Ok(UnixMillis(0)), |text| parse_rfc3339(text).with_context(wrong))
}

/// How a device is called.
#[derive(Clone, Default)]
struct Named {
    computer: String,
    serial: String,
}

/// The names of devices, each looked up once.
struct Names<'a> {
    engines: &'a Engines,
    known: BTreeMap<DeviceId, Named>,
}

impl<'a> Names<'a> {
    fn new(engines: &'a Engines) -> Self {
        Self { engines, known: BTreeMap::new() }
    }

    async fn of(&mut self, device: Option<DeviceId>) -> Result<Named> {
        let Some(device) = device else { return Ok(Named::default()) };
        if let Some(known) = self.known.get(&device) {
            return Ok(known.clone());
        }
        let record = resolve::record(self.engines, device).await?;
        let lanes = self.engines.ledger_reader().lanes(device).await?;
        let label = |of: fn(&keyturn_domain::lane::About) -> String| lanes.last().map(|lane| of(&lane.about));
        let computer =
            record.and_then(|record| record.display_name).or_else(|| label(|about| about.host.to_string()));
        let named = Named {
            computer: computer.unwrap_or_default(),
            serial: label(|about| about.serial.to_string()).unwrap_or_default(),
        };
        self.known.insert(device, named.clone());
        Ok(named)
    }
}
