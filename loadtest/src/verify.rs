//! Whether anything was lost or doubled, by what the deployment itself says after the run: its timeline of each
//! device, exported by the operator's command, against what the devices were given.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyturn_domain::ids::{DeviceId, VersionId};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::envelope::rfc3339;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::target::Operator;

/// Faults told in full; the others are counted.
const TOLD: usize = 20;

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verification {
    /// Devices that were compared.
    pub devices: u64,
    /// Versions that the deployment made for them.
    pub made: u64,
    /// Versions that they were given.
    pub given: u64,
    /// What is wrong, if anything is.
    pub faults: u64,
    /// The first of it.
    pub told: Vec<String>,
}

#[derive(Default)]
struct Known {
    made: BTreeSet<VersionId>,
    confirmed: Option<VersionId>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "AzureADDeviceId")]
    device: DeviceId,
    #[serde(rename = "Event")]
    event: serde_json::Value,
}

#[derive(Deserialize)]
struct Depth {
    #[serde(rename = "queue")]
    name: String,
    total: u64,
    dead: u64,
}

/// Compares. Devices whose last report was recorded must be confirmed at exactly the version they have; every version
/// made must have been given to its device, and none twice; the queues must be empty and nothing dead.
pub fn verify(operator: &Operator, devices: &[Device], since: UnixMillis) -> Result<Verification> {
    drain(operator)?;
    let known = timeline(operator, &rfc3339(since))?;
    let mut found = Verification { devices: u64::try_from(devices.len())?, ..Verification::default() };
    let nothing = Known::default();
    for device in devices {
        let known = known.get(&device.id()).unwrap_or(&nothing);
        found.made += u64::try_from(known.made.len())?;
        found.given += u64::try_from(device.given.len())?;
        let given: BTreeSet<_> = device.given.iter().copied().collect();
        if given.len() != device.given.len() {
            found.tell(format!("{}: was given one version at two times", device.id()));
        }
        if !given.is_subset(&known.made) {
            found.tell(format!("{}: was given a version that the ledger did not make", device.id()));
        }
        // What was made and never fetched is outstanding, and there is at most one of that.
        if known.made.len() > given.len() + usize::from(!device.settled()) {
            found.tell(format!(
                "{}: {} versions were made, {} given",
                device.id(),
                known.made.len(),
                given.len()
            ));
        }
        if device.reported && known.confirmed != device.version() {
            found.tell(format!(
                "{}: has {:?} and reported it, the ledger has {:?} as confirmed",
                device.id(),
                device.version(),
                known.confirmed
            ));
        }
    }
    for queue in queues(operator)?.iter().filter(|queue| queue.total > 0 || queue.dead > 0) {
        found.tell(format!(
            "{}: {} messages are left, {} are dead letters",
            queue.name, queue.total, queue.dead
        ));
    }
    Ok(found)
}

/// Looks at the queues that may follow one another without a change for the better.
const STALLS: u32 = 50;

/// Between looks.
const LOOK: Duration = Duration::from_millis(200);

/// Waits until nothing is left to do for the workers, for as long as it gets less. A message that moves from queue to
/// queue is counted on each, so a while without a change means nothing yet.
fn drain(operator: &Operator) -> Result<()> {
    let (mut least, mut stalls) = (u64::MAX, 0);
    while least > 0 && stalls < STALLS {
        let left = queues(operator)?.iter().map(|queue| queue.total).sum();
        stalls = if left < least { 0 } else { stalls + 1 };
        least = least.min(left);
        std::thread::park_timeout(if least > 0 { LOOK } else { Duration::ZERO });
    }
    Ok(())
}

fn queues(operator: &Operator) -> Result<Vec<Depth>> {
    let queues: Vec<Depth> = serde_json::from_str(&operator.run(&["--output", "json", "queues"])?)?;
    ensure!(!queues.is_empty(), "the deployment tells of no queue");
    Ok(queues)
}

impl Verification {
    fn tell(&mut self, fault: String) {
        self.faults += 1;
        if self.told.len() < TOLD {
            self.told.push(fault);
        }
    }
}

/// What the deployment knows of each device.
fn timeline(operator: &Operator, since: &str) -> Result<BTreeMap<DeviceId, Known>> {
    let mut export =
        operator.command(&["events", "export", "--since", since]).stdout(Stdio::piped()).spawn()?;
    let out = export.stdout.take().context("its output is a pipe")?;
    let mut known: BTreeMap<DeviceId, Known> = BTreeMap::new();
    for line in BufReader::new(out).lines() {
        let line: Line = serde_json::from_str(&line?).context("a line of `keyturn events export`")?;
        let version = || -> Result<VersionId> {
            let text = line.event.get("version").and_then(|version| version.as_str());
            Ok(text.context("an event without its version")?.parse()?)
        };
        let of = known.entry(line.device).or_default();
        match line.event.get("event").and_then(|event| event.as_str()) {
            Some("password_minted") => {
                of.made.insert(version()?);
            }
            Some("password_confirmed") => of.confirmed = Some(version()?),
            _ => {}
        }
    }
    ensure!(export.wait()?.success(), "`keyturn events export` failed");
    Ok(known)
}
