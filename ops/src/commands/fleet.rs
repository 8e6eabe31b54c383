//! `keyturn fleet`: how the fleet stands, in the words that `device show` uses for one device.

use std::collections::BTreeMap;

use anyhow::Result;
use keyturn_domain::fleet::{Standing, standing};
use keyturn_domain::ids::DeviceId;
use serde_json::json;

use super::Deployment;
use crate::output;

/// Devices read at once.
const PAGE: usize = 500;

pub(super) async fn run(deployment: &Deployment, list: bool) -> Result<()> {
    let now = deployment.engines.clock().now();
    let devices = devices(deployment).await?;
    let (mut counts, mut rows) = (BTreeMap::<Standing, u64>::new(), Vec::new());
    for (device, name) in devices {
        let lanes = deployment.engines.ledger_reader().lanes(device).await?;
        let standing = standing(device, name.is_some(), &lanes, &deployment.config.policies, now);
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
