//! Copies of confirmed passwords for people with plain vault tools: the second name of a device.
//!
//! Level-triggered: what a copy should be is what the ledger says now, and a copy that is something else is written. The
//! ledger's events only say where to look first; a sweep over all devices looks at every copy once in a while. One process
//! at a time does this, and what it has done is noted after it was done: whoever dies leaves work that is done again,
//! which writes nothing a second time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt as _;
use keyturn_domain::clock::Clock;
use keyturn_domain::ids::{DeviceId, LaneId, VersionId};
use keyturn_domain::lane::{Lane, LaneEvent};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::chores::{Chore, Chores, Report};
use keyturn_ports::ledger::{Event, Happening, LedgerReader};
use keyturn_ports::vault::{ConfirmedCopy, Copies, Tags, VaultReader};
use keyturn_ports::{Error, Kind};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::CopySettings;

/// Facts, or devices of a sweep, that are looked at in one round.
const PAGE: usize = 200;

/// Copies that failed and are tried again in one round.
const AGAIN: usize = 16;

/// The most of these that are remembered. The sweep meets any other.
const BEHIND: usize = 1000;

/// Looks after the copies.
pub(crate) struct Copier {
    pub(crate) ledger: Arc<dyn LedgerReader>,
    pub(crate) vault: Arc<dyn VaultReader>,
    pub(crate) copies: Arc<dyn Copies>,
    pub(crate) chores: Arc<dyn Chores>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: CopySettings,
}

/// How far they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Progress {
    /// The last fact that was looked at.
    place: u64,
    /// The last device of the sweep under way; none if there is none under way.
    sweeping: Option<DeviceId>,
    /// When the last sweep was begun.
    swept: UnixMillis,
    /// Devices whose copy could not be written, the longest waiting first.
    behind: VecDeque<DeviceId>,
}

impl Copier {
    /// Looks after the copies until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        info!("confirmed passwords are copied for people with plain vault tools");
        loop {
            let round = tokio::select! { () = stop.cancelled() => return, round = self.round() => round };
            if let Err(error) = round {
                warn!(%error, "copies of confirmed passwords could not be looked after, it is tried again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.settings.every / 4) => {}
            }
        }
    }

    /// Works off what there is, a page at a time, if it is due and nobody else is at it.
    async fn round(&self) -> Result<(), Error> {
        let (begun, every) = (self.clock.now(), self.settings.every);
        if !self.chores.take(Chore::ConfirmedCopies, begun, begun.plus(every)).await? {
            return Ok(());
        }
        let mut progress = match self.chores.last(Chore::ConfirmedCopies).await? {
            // What cannot be read is begun anew, with a sweep.
            Some(report) => serde_json::from_str(&report.text).unwrap_or_default(),
            None => self.beginning().await?,
        };
        let some = AGAIN.min(progress.behind.len());
        let behind: Vec<DeviceId> = progress.behind.drain(..some).collect();
        self.settle_all(behind, &mut progress).await;
        loop {
            let now = self.clock.now();
            let more = self.page(&mut progress, now).await?;
            let text = serde_json::to_string(&progress)
                .map_err(|error| Error::new(Kind::Corrupt, "noting what is copied", error.to_string()))?;
            self.chores.finish(Chore::ConfirmedCopies, Report { at: now, text }, now).await?;
            // Before the turn is somebody else's.
            if !more || self.clock.now().since(begun) >= every / 2 {
                return Ok(());
            }
        }
    }

    /// Facts from before the first round say nothing that the sweep does not find.
    async fn beginning(&self) -> Result<Progress, Error> {
        let mut progress = Progress::default();
        loop {
            let page = self.ledger.events(progress.place, PAGE * 10).await?;
            let Some((last, _)) = page.last() else { return Ok(progress) };
            progress.place = *last;
        }
    }

    /// One page of facts and one of the sweep. Returns whether there is more.
    async fn page(&self, progress: &mut Progress, now: UnixMillis) -> Result<bool, Error> {
        let facts = self.ledger.events(progress.place, PAGE).await?;
        let confirmed: BTreeSet<DeviceId> = facts.iter().filter_map(confirmed).collect();
        self.settle_all(confirmed.into_iter().collect(), progress).await;
        if let Some((last, _)) = facts.last() {
            progress.place = *last;
        }
        let mut more = facts.len() == PAGE;
        if progress.sweeping.is_some() || now.since(progress.swept) >= self.settings.sweep {
            if progress.sweeping.is_none() {
                progress.swept = now;
            }
            let devices = self.ledger.devices(progress.sweeping, PAGE).await?;
            progress.sweeping = devices.last().copied().filter(|_| devices.len() == PAGE);
            more |= progress.sweeping.is_some();
            self.settle_all(devices, progress).await;
        }
        Ok(more)
    }

    /// Settles copies, several at once. One that fails holds up no other.
    async fn settle_all(&self, devices: Vec<DeviceId>, progress: &mut Progress) {
        let settling = devices.into_iter().map(async |device| (device, self.settle(device).await));
        let mut settled = futures_util::stream::iter(settling).buffer_unordered(self.settings.parallel);
        while let Some((device, outcome)) = settled.next().await {
            let outcome = match outcome {
                Ok(true) => "written",
                Ok(false) => continue,
                Err(error) => {
                    warn!(device.id = %device, %error, "the copy of a confirmed password is not what it should be");
                    if progress.behind.len() < BEHIND && !progress.behind.contains(&device) {
                        progress.behind.push_back(device);
                    }
                    "failed"
                }
            };
            metrics::counter!("keyturn_vault_copies_total", "outcome" => outcome).increment(1);
        }
    }

    /// Makes the copy what the ledger says, until both are the same. Returns whether it was written.
    async fn settle(&self, device: DeviceId) -> Result<bool, Error> {
        let mut written = false;
        let mut current = self.confirmed(device).await?;
        while let Some((lane, version)) = &current {
            written |= self.copies.copy(self.made(lane, *version).await?).await?;
            // It may have been confirmed anew meanwhile, and another process may have copied that before this one wrote.
            let now = self.confirmed(device).await?;
            let same = now.as_ref().map(|(_, version)| *version) == Some(*version);
            if same {
                return Ok(written);
            }
            current = now;
        }
        Ok(written)
    }

    /// What the device said last that it uses, of all lanes that are not closed.
    async fn confirmed(&self, device: DeviceId) -> Result<Option<(Lane, VersionId)>, Error> {
        let lanes = self.ledger.lanes(device).await?;
        let open = lanes.into_iter().filter(|lane| lane.closed.is_none());
        let dated = open.filter_map(|lane| lane.confirmed.map(|dated| (dated, lane)));
        Ok(dated
            .max_by_key(|(dated, _)| (dated.at, dated.version))
            .map(|(dated, lane)| (lane, dated.version)))
    }

    async fn made(&self, lane: &Lane, version: VersionId) -> Result<ConfirmedCopy, Error> {
        let missing = |what: &str| {
            let problem = format!("{what} version {version}");
            Error::new(Kind::Corrupt, "copying a confirmed password", problem)
        };
        let id: LaneId = lane.key.id();
        let vault_ref = self.ledger.vault_ref(version).await?;
        let vault_ref = vault_ref.ok_or_else(|| missing("the ledger does not say where the vault keeps"))?;
        let password = self.vault.read(id, version, &vault_ref).await?;
        let tags = Tags {
            user_name: lane.about.account_name.to_string(),
            device: lane.key.device,
            device_name: lane.about.host.to_string(),
            serial_number: lane.about.serial.to_string(),
        };
        Ok(ConfirmedCopy {
            version,
            lane: id,
            password: password.ok_or_else(|| missing("the vault does not have"))?,
            tags,
        })
    }
}

fn confirmed((_, event): &(u64, Event)) -> Option<DeviceId> {
    let is = matches!(event.what, Happening::Lane { event: LaneEvent::PasswordConfirmed { .. }, .. });
    is.then_some(event.device)
}
