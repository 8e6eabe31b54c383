//! `keyturn device`.

mod add;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use keyturn_domain::ids::LaneId;
use keyturn_domain::span::Span;
use keyturn_domain::standing;
use keyturn_ports::audit::Action;
use keyturn_ports::directory::{AlternativeSecurityId, DeviceRecord, DirectoryAdmin};
use keyturn_schemas::certificate::DeviceCertificate;
use keyturn_schemas::security_id::{DEVICE_KEY, RegisteredKey};
use serde::Deserialize;

use super::hold::FOR_GOOD;
use super::{Deployment, rotate, show};
use crate::cli::Device;
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result, no_reason, usage};
use crate::{output, resolve};

pub(super) async fn run(deployment: &Deployment, command: &Device) -> Result<()> {
    match command {
        Device::Add { cert, name, join, replace } => add::run(deployment, cert, name, join, *replace).await,
        Device::Import { file } => import(deployment, file).await,
        Device::List => show::list(deployment).await,
        Device::Show(which) => {
            show::one(deployment, &resolve::device(&deployment.engines, &which.device).await?).await
        }
        Device::Disable(which) => enable(deployment, &which.device, &which.reason, false).await,
        Device::Enable(which) => enable(deployment, &which.device, &which.reason, true).await,
        Device::History(which) => {
            show::history(deployment, &resolve::device(&deployment.engines, &which.device).await?).await
        }
        Device::CloseLane { device, lane, reason } => close_lane(deployment, device, lane, reason).await,
        Device::Hold { device, span, reason } => hold(deployment, device, *span, reason).await,
        Device::Release { device, reason } => release(deployment, device, reason).await,
        Device::RotateNow(rotate) => rotate::now(deployment, rotate).await,
        Device::Rotations { limit } => rotate::list(deployment, *limit).await,
    }
}

/// The record of a device that registered with this certificate.
pub(crate) fn record(certificate: &DeviceCertificate, name: &str, join: &str) -> Option<DeviceRecord> {
    let key = RegisteredKey { thumbprint: certificate.thumbprint(), key_hash: certificate.key_hash() };
    Some(DeviceRecord {
        device_id: certificate.common_name()?,
        display_name: Some(name.to_owned()),
        account_enabled: Some(true),
        trust_type: Some(join.to_owned()),
        alternative_security_ids: vec![AlternativeSecurityId { kind: DEVICE_KEY, key: key.encode() }],
        operating_system: None,
        groups: None,
    })
}

async fn import(deployment: &Deployment, file: &Path) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Export {
        Page { value: Vec<serde_json::Value> },
        List(Vec<serde_json::Value>),
    }
    let text = fs::read_to_string(file).read_of(file)?;
    let neither = format!("{}: neither {{\"value\": [...]}} nor a list of devices", file.display());
    let export: Export = serde_json::from_str(&text).or_fail(Code::FileNotMeant, neither)?;
    let (Export::Page { value: devices } | Export::List(devices)) = export;
    let read = |(at, device): (usize, serde_json::Value)| {
        let place = format!("{}: device {} of the list; nothing was imported", file.display(), at + 1);
        serde_json::from_value::<DeviceRecord>(device).or_fail(Code::FileNotMeant, place)
    };
    let mut records = devices.into_iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
    if records.is_empty() {
        return Err(Failure::new(
            Code::FileNotMeant,
            format!("{}: there is no device in it", file.display()),
        ));
    }
    let count = records.len();
    keep_groups(deployment, &mut records).await?;
    put(deployment, records, &format!("imported {} from {}", output::count(count, "device"), file.display()))
        .await?;
    eprintln!("{} in the directory.", output::are(count, "device"));
    Ok(())
}

/// Leaves devices in the groups they are in, if the export does not say otherwise: a list of devices without their
/// groups must not lead all of them to another policy.
async fn keep_groups(deployment: &Deployment, records: &mut [DeviceRecord]) -> Result<()> {
    let directory = admin(deployment)?;
    for some in records.chunks_mut(500) {
        let answers = directory.look_up(some.iter().map(|record| record.device_id).collect()).await;
        for (record, answer) in some.iter_mut().zip(answers) {
            if record.groups.is_none()
                && let Ok(known) = answer
            {
                record.groups = known.records.into_iter().next().and_then(|known| known.groups);
            }
        }
    }
    Ok(())
}

/// The embedded directory's own commands, if that is the directory.
pub(super) fn admin(deployment: &Deployment) -> Result<Arc<dyn DirectoryAdmin>> {
    let elsewhere = "this deployment's directory is Microsoft Entra ID; devices and groups are managed there";
    deployment.engines.directory_admin().or_fail(Code::OtherKindOfDeployment, elsewhere)
}

async fn put(deployment: &Deployment, records: Vec<DeviceRecord>, detail: &str) -> Result<()> {
    let admin = admin(deployment)?;
    let device = records.first().filter(|_| records.len() == 1).map(|record| record.device_id);
    deployment.record(Action::DirectoryChanged, device, "", detail).await?;
    Ok(admin.put(records).await?)
}

async fn enable(deployment: &Deployment, device: &str, reason: &str, enabled: bool) -> Result<()> {
    let admin = admin(deployment)?;
    let named = resolve::device(&deployment.engines, device).await?;
    need_reason(reason)?;
    let word = if enabled { "enabled" } else { "disabled" };
    deployment.record(Action::DirectoryChanged, Some(named.id), reason, word).await?;
    if !admin.enable(named.id, enabled).await? {
        let problem = format!("{}: the directory has no record of it", named.title());
        return Err(Failure::new(Code::NoSuchDevice, problem));
    }
    eprintln!("{} is {word}.", named.title());
    Ok(())
}

async fn close_lane(deployment: &Deployment, device: &str, lane: &str, reason: &str) -> Result<()> {
    let named = resolve::device(&deployment.engines, device).await?;
    let lane: LaneId = lane.parse().map_err(|error| usage("--lane", error))?;
    need_reason(reason)?;
    let lanes = deployment.engines.ledger_reader().lanes(named.id).await?;
    if !lanes.iter().any(|one| one.key.id() == lane) {
        let mend = "`keyturn device show` lists them";
        let problem = format!("{lane}: {} has no such lane; {mend}", named.title());
        return Err(Failure::new(Code::NothingByThatName, problem));
    }
    deployment.record(Action::LaneClosed, Some(named.id), reason, &format!("lane {lane}")).await?;
    deployment.engines.ledger_operator().close(named.id, lane, deployment.engines.clock().now()).await?;
    eprintln!("The lane is closed. What it had is among the older versions: `keyturn device history`.");
    Ok(())
}

async fn hold(deployment: &Deployment, device: &str, span: Option<Span>, reason: &str) -> Result<()> {
    let named = resolve::device(&deployment.engines, device).await?;
    need_reason(reason)?;
    let now = deployment.engines.clock().now();
    let until = span.map_or(FOR_GOOD, |span| now.plus(span.0));
    let end = super::hold::until(until);
    let detail = span.map_or_else(|| "until released".to_owned(), |span| format!("for {span}"));
    deployment.record(Action::RotationHeld, Some(named.id), reason, &detail).await?;
    match deployment.engines.ledger_operator().hold(named.id, until).await? {
        0 => eprintln!("{} has no password yet, so there is nothing to hold.", named.title()),
        _ => eprintln!("{} gets no new password {end}.", named.title()),
    }
    Ok(())
}

async fn release(deployment: &Deployment, device: &str, reason: &str) -> Result<()> {
    let named = resolve::device(&deployment.engines, device).await?;
    need_reason(reason)?;
    deployment.record(Action::HoldReleased, Some(named.id), reason, "").await?;
    match deployment.engines.ledger_operator().release(named.id).await? {
        0 => eprintln!("{} was not held.", named.title()),
        _ => eprintln!("{} is held no more.", named.title()),
    }
    let lanes = deployment.engines.ledger_reader().lanes(named.id).await?;
    let now = deployment.engines.clock().now();
    if let Some(cap) = standing::capped(&lanes, &deployment.config.policies, now) {
        eprintln!("  {}", show::limit(&cap));
    }
    Ok(())
}

pub(super) fn need_reason(reason: &str) -> Result<()> {
    if reason.trim().is_empty() {
        return Err(no_reason());
    }
    Ok(())
}
