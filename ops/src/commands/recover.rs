//! The recovery log: its key, and putting back what the vault lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use keyturn_domain::ids::{DeviceId, LaneId, VersionId};
use keyturn_domain::password::Password;
use keyturn_ports::audit::Action;
use keyturn_ports::vault::{NewVersion, Tags, Vault};
use keyturn_schemas::recovery::{self, Head, RecoverySecret};
use serde::Serialize;
use zeroize::Zeroizing;

use super::Deployment;
use super::init::private_file;
use crate::cli::Output;
use crate::failure::{Code, Failure, OfFile as _, OrFail as _, Result};
use crate::operator;
use crate::output;
use crate::output::say;

/// Versions are put back in groups of this many.
const PAGE: usize = 128;

/// Makes the key pair of a recovery log.
pub(super) fn make_key(out: &Path) -> Result<()> {
    let (secret, public) = recovery::generate().or_defect()?;
    let mut name = out.as_os_str().to_owned();
    name.push(".pub");
    let beside = Path::new(&name);
    private_file(out, &secret.format())?;
    private_file(beside, &public.format())?;
    eprintln!(
        "Set vault.recovery_key to {} and vault.recovery_log to a file on another disk.",
        beside.display()
    );
    eprintln!("Take {} offline now, in two copies: without it the log opens for nobody.", out.display());
    Ok(())
}

/// What came of a log.
#[derive(Default, Serialize)]
struct Counts {
    put_back: u64,
    there_already: u64,
    other_lane: u64,
    unreadable: u64,
}

/// Puts back what the vault lacks.
pub(super) async fn recover(deployment: &Deployment, key: &Path, log: &Path) -> Result<()> {
    let text = fs::read_to_string(key).map(Zeroizing::new);
    let text = text.read_of(key)?;
    let secret = RecoverySecret::parse(&text).or_fail(Code::FileNotMeant, key.display())?;
    let file = File::open(log).read_of(log)?;
    let what = format!("from {}", log.display());
    deployment.record(Action::VaultRecovered, None, "", &what).await?;
    deployment.keys.unlock().await?;
    let vault = deployment.engines.vault_without_log(|| deployment.keys.vault())?;
    let mut recovery =
        Recovery { vault: &*vault, known: BTreeMap::new(), missing: Vec::new(), counts: Counts::default() };
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    while {
        line.clear();
        lines.read_until(b'\n', &mut line).read_of(log)? > 0
    } {
        let text = String::from_utf8_lossy(&line);
        match text.trim() {
            "" => {}
            text => match secret.open(text) {
                Ok((head, password)) => recovery.take(head, password).await?,
                Err(_) => recovery.counts.unreadable += 1,
            },
        }
    }
    recovery.put().await?;
    if recovery.counts.put_back > 0 {
        // The ledger may know as little of them as the vault did; a running rotator learns of it as well.
        deployment.engines.declare_restored(&operator::name(), "", "versions were put back").await?;
    }
    tell(deployment, &recovery.counts)
}

struct Recovery<'a> {
    vault: &'a dyn Vault,
    /// What the vault has of each device met so far.
    known: BTreeMap<DeviceId, BTreeSet<(VersionId, LaneId)>>,
    missing: Vec<NewVersion>,
    counts: Counts,
}

impl Recovery<'_> {
    async fn take(&mut self, head: Head, password: Password) -> Result<()> {
        let device = head.device_id;
        if !self.known.contains_key(&device) {
            let entries = self.vault.history(device).await?;
            self.known.insert(device, entries.iter().map(|entry| (entry.version, entry.lane)).collect());
        }
        let known = self.known.entry(device).or_default();
        if known.contains(&(head.version, head.lane)) {
            self.counts.there_already += 1;
        } else if known.iter().any(|(version, _)| *version == head.version) {
            // A version never changes its lane, so this line was not written by a rotator.
            self.counts.other_lane += 1;
        } else {
            known.insert((head.version, head.lane));
            self.missing.push(version(head, password));
        }
        if self.missing.len() < PAGE { Ok(()) } else { self.put().await }
    }

    async fn put(&mut self) -> Result<()> {
        for stored in self.vault.put(std::mem::take(&mut self.missing)).await {
            stored?;
            self.counts.put_back += 1;
        }
        Ok(())
    }
}

fn version(head: Head, password: Password) -> NewVersion {
    let Head { rid, lane, version, device_id, user_name, device_name, serial_number, .. } = head;
    let tags = Tags { user_name, device: device_id, device_name, serial_number };
    NewVersion { request: rid, version, lane, password, tags }
}

fn tell(deployment: &Deployment, counts: &Counts) -> Result<()> {
    let Counts { put_back, there_already, other_lane, unreadable } = counts;
    match deployment.output {
        Output::Json => output::json(counts)?,
        Output::Text => say!(
            "{put_back} put back, {there_already} there already, {other_lane} refused for another lane, \
             {unreadable} unreadable"
        ),
    }
    match other_lane + unreadable {
        0 => Ok(()),
        left => Err(Failure::new(Code::Partial, format!("{left} lines of the log were not put back"))),
    }
}
