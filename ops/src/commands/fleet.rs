//! `keyturn fleet`: how the fleet stands, in the words that `device show` uses for one device.

use std::collections::BTreeMap;

use anyhow::Result;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::Lane;
use keyturn_domain::policies::Policies;
use keyturn_domain::time::UnixMillis;
use serde::Serialize;
use serde_json::json;

use super::Deployment;
use crate::output;

/// Devices read at once.
const PAGE: usize = 500;

/// How a device stands. The first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// The directory does not list it, and passwords are known of it.
    Orphaned,
    /// It gets no new password for now.
    OnHold,
    /// No password was ever made for it.
    NeverEscrowed,
    /// Passwords were made, and it has not said that it uses one.
    Unverified,
    /// It confirmed a password, and the next one is due.
    Overdue,
    /// It confirmed its password, and the next one is not due.
    Confirmed,
}

impl Standing {
    const ALL: [Self; 6] =
        [Self::Confirmed, Self::Overdue, Self::NeverEscrowed, Self::Unverified, Self::OnHold, Self::Orphaned];

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Orphaned => "orphaned",
            Self::OnHold => "on hold",
            Self::NeverEscrowed => "never escrowed",
            Self::Unverified => "unverified",
            Self::Overdue => "overdue",
            Self::Confirmed => "confirmed",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Orphaned => "the directory does not list it, its passwords are kept",
            Self::OnHold => "it gets no new password for now",
            Self::NeverEscrowed => "no password was ever made for it",
            Self::Unverified => "it has not said which of its passwords it uses",
            Self::Overdue => "it uses a known password, and should have come for the next",
            Self::Confirmed => "it uses a known password, and the next is not due",
        }
    }
}

/// How a device with these lanes stands.
pub(super) fn standing(listed: bool, lanes: &[Lane], policies: &Policies, now: UnixMillis) -> Standing {
    let open: Vec<&Lane> = lanes.iter().filter(|lane| lane.closed.is_none()).collect();
    let due = next_due(lanes, policies);
    if !listed {
        Standing::Orphaned
    } else if open.iter().any(|lane| lane.held(now).is_some()) {
        Standing::OnHold
    } else if !open.iter().any(|lane| lane.has_versions()) {
        Standing::NeverEscrowed
    } else {
        match due {
            None => Standing::Unverified,
            Some(due) if due <= now => Standing::Overdue,
            Some(_) => Standing::Confirmed,
        }
    }
}

/// When the next password is due: of the lane that was confirmed last, at once if a rotation was asked for.
pub(super) fn next_due(lanes: &[Lane], policies: &Policies) -> Option<UnixMillis> {
    let confirmed = lanes.iter().filter(|lane| lane.closed.is_none());
    let confirmed = confirmed.filter_map(|lane| Some((lane.confirmed?.at, lane)));
    let (at, lane) = confirmed.max_by_key(|(at, _)| *at)?;
    let every = policies.choose(lane).rotation.update_frequency;
    Some(lane.forced.unwrap_or(at.plus(every)).min(at.plus(every)))
}

pub(super) async fn run(deployment: &Deployment, list: bool) -> Result<()> {
    let now = deployment.engines.clock().now();
    let devices = devices(deployment).await?;
    let (mut counts, mut rows) = (BTreeMap::<Standing, u64>::new(), Vec::new());
    for (device, name) in devices {
        let lanes = deployment.engines.ledger_reader().lanes(device).await?;
        let standing = standing(name.is_some(), &lanes, &deployment.config.policies, now);
        *counts.entry(standing).or_default() += 1;
        rows.push((standing, device, name.unwrap_or_default()));
    }
    if list {
        rows.sort_unstable();
        let value: Vec<_> = rows
            .iter()
            .map(|(standing, device, name)| json!({"state": standing, "device_id": device, "name": name}))
            .collect();
        let cells = rows
            .into_iter()
            .map(|(standing, device, name)| [standing.words().to_owned(), name, device.to_string()]);
        return output::table(deployment.output, ["STATE", "NAME", "DEVICE"], cells, &value);
    }
    let count = |standing: Standing| counts.get(&standing).copied().unwrap_or_default();
    let value: Vec<_> =
        Standing::ALL.iter().map(|one| json!({"state": one, "devices": count(*one)})).collect();
    let cells =
        Standing::ALL.map(|one| [one.words().to_owned(), count(one).to_string(), one.meaning().to_owned()]);
    output::table(deployment.output, ["STATE", "DEVICES", "MEANING"], cells, &value)
}

/// Every device of the directory, with its name, and every one that the ledger alone knows, without.
async fn devices(deployment: &Deployment) -> Result<BTreeMap<DeviceId, Option<String>>> {
    let (mut devices, mut after) = (BTreeMap::new(), None);
    let ledger = deployment.engines.ledger_reader();
    loop {
        let page = ledger.devices(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(*last);
        devices.extend(page.into_iter().map(|device| (device, None)));
    }
    let directory = deployment.engines.directory();
    after = None;
    loop {
        let page = directory.page(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(devices) };
        after = Some(last.id);
        for listed in page {
            let name =
                listed.record.map(|record| record.display_name.unwrap_or_default()).unwrap_or_default();
            devices.insert(listed.id, Some(name));
        }
    }
}
