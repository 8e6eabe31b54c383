//! `keyturn group`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::audit::Action;
use keyturn_ports::directory::DeviceRecord;
use serde::Serialize;

use super::{Deployment, device};
use crate::cli::Group;
use crate::failure::{Code, Failure, Result};
use crate::{output, resolve};

/// Records read at once.
const PAGE: usize = 500;

pub(super) async fn run(deployment: &Deployment, command: &Group) -> Result<()> {
    match command {
        Group::List => list(deployment).await,
        Group::Set { group, file } => set(deployment, *group, file).await,
    }
}

/// A group in the list.
#[derive(Default, Serialize)]
struct Listing {
    devices: usize,
    policies: Vec<String>,
}

async fn list(deployment: &Deployment) -> Result<()> {
    let mut groups = BTreeMap::<GroupId, Listing>::new();
    for policy in deployment.config.policies.groups() {
        for id in policy.members.groups.iter().flatten() {
            groups.entry(*id).or_default().policies.push(policy.name.clone());
        }
    }
    for record in records(deployment).await? {
        for id in record.group_ids() {
            groups.entry(id).or_default().devices += 1;
        }
    }
    let rows = groups
        .iter()
        .map(|(id, group)| [id.to_string(), group.devices.to_string(), group.policies.join(", ")]);
    output::table(deployment.output, ["GROUP", "DEVICES", "POLICIES"], rows, &groups)
}

async fn set(deployment: &Deployment, group: GroupId, file: &Path) -> Result<()> {
    let admin = device::admin(deployment)?;
    let listed = resolve::list(&deployment.engines, file, "changed").await?;
    let (count, mut wanted) = (listed.len(), listed.into_iter().collect::<BTreeSet<DeviceId>>());
    let mut changed = Vec::new();
    for record in records(deployment).await? {
        let (is, shall) = (record.group_ids().any(|id| id == group), wanted.remove(&record.device_id));
        if is != shall {
            changed.push((record.device_id, shall));
        }
    }
    if let Some(unknown) = wanted.first() {
        let more = wanted.len();
        let text = format!(
            "the directory has no record of {unknown}; nothing was changed ({more} of {count} are missing)"
        );
        return Err(Failure::new(Code::NoSuchDevice, text));
    }
    let joined = changed.iter().filter(|(_, joins)| *joins).count();
    let left = changed.len() - joined;
    let detail = format!("group {group}: {} joined, {left} left", output::count(joined, "device"));
    deployment.record(Action::DirectoryChanged, None, "", &detail).await?;
    admin.regroup(group, changed).await?;
    eprintln!("The group has {}: {joined} joined, {left} left.", output::count(count, "device"));
    if !deployment.config.policies.directory_groups().contains(&group) {
        eprintln!("No policy goes by it yet: name it in the groups of a [[policy]]; see docs/POLICY.md.");
    }
    Ok(())
}

/// Every record of the embedded directory that can be read.
async fn records(deployment: &Deployment) -> Result<Vec<DeviceRecord>> {
    let admin = device::admin(deployment)?;
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = admin.page(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(records) };
        after = Some(last.id);
        records.extend(page.into_iter().filter_map(|listed| listed.record.ok()));
    }
}
