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

/// Facts, or devices of a sweep, that are looked at before it is noted how far that went.
const PAGE: usize = 64;

/// Facts that are passed over at once where there was no round before.
const PASSED: usize = 2000;

/// Copies that failed and are tried again at once.
const AGAIN: usize = 16;

/// The most of these that are remembered. For any other a sweep is made as soon as there are much fewer.
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
    /// Whether there were more of these than are remembered.
    missed: bool,
}

impl Progress {
    /// Remembers a device whose copy is not what it should be.
    fn put_off(&mut self, device: DeviceId) {
        if self.behind.contains(&device) {
            return;
        }
        if self.behind.len() < BEHIND {
            self.behind.push_back(device);
        } else {
            self.missed = true;
        }
    }

    /// Has everything looked at once the worst is over, as after a vault was away for long: those that were not remembered
    /// do not wait for the next sweep to be due.
    fn catch_up(&mut self) {
        if self.missed && self.behind.len() < BEHIND / 2 {
            (self.missed, self.sweeping, self.swept) = (false, None, UnixMillis::default());
        }
    }
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
        // Then the turn is not somebody else's yet.
        let until = begun.plus(every / 2);
        loop {
            let now = self.clock.now();
            let more = self.page(&mut progress, now, until).await?;
            let text = serde_json::to_string(&progress)
                .map_err(|error| Error::new(Kind::Corrupt, "noting what is copied", error.to_string()))?;
            self.chores.finish(Chore::ConfirmedCopies, Report { at: now, text }, now).await?;
            if !more || self.clock.now() >= until {
                return Ok(());
            }
        }
    }

    /// Facts from before the first round say nothing that the sweep does not find.
    async fn beginning(&self) -> Result<Progress, Error> {
        let mut progress = Progress::default();
        loop {
            let page = self.ledger.events(progress.place, PASSED).await?;
            let Some((last, _)) = page.last() else { return Ok(progress) };
            progress.place = *last;
        }
    }

    /// Some of what failed, one page of facts and one of the sweep. Returns whether there is more.
    async fn page(&self, progress: &mut Progress, now: UnixMillis, until: UnixMillis) -> Result<bool, Error> {
        let mut more = self.again(progress, until).await;
        progress.catch_up();
        let facts = self.ledger.events(progress.place, PAGE).await?;
        let confirmed: BTreeSet<DeviceId> = facts.iter().filter_map(confirmed).collect();
        self.settle_all(confirmed.into_iter().collect(), progress, until).await;
        if let Some((last, _)) = facts.last() {
            progress.place = *last;
        }
        more |= facts.len() == PAGE;
        if progress.sweeping.is_some() || now.since(progress.swept) >= self.settings.sweep {
            if progress.sweeping.is_none() {
                progress.swept = now;
            }
            let devices = self.ledger.devices(progress.sweeping, PAGE).await?;
            progress.sweeping = devices.last().copied().filter(|_| devices.len() == PAGE);
            more |= progress.sweeping.is_some();
            self.settle_all(devices, progress, until).await;
        }
        Ok(more)
    }

    /// Tries some of what failed. Returns whether it did any good and there are more: if not, it is tried the next round.
    async fn again(&self, progress: &mut Progress, until: UnixMillis) -> bool {
        let some = AGAIN.min(progress.behind.len());
        let behind: Vec<DeviceId> = progress.behind.drain(..some).collect();
        let settled = self.settle_all(behind, progress, until).await;
        settled > 0 && !progress.behind.is_empty()
    }

    /// Settles copies, several at once, and begins none any more at `until`. One that fails, or is not begun, holds up no
    /// other. Returns how many are what they should be.
    async fn settle_all(&self, devices: Vec<DeviceId>, progress: &mut Progress, until: UnixMillis) -> usize {
        let settling = devices.into_iter().map(async |device| {
            let begins = self.clock.now() < until;
            (device, if begins { Some(self.settle(device).await) } else { None })
        });
        let mut settled = futures_util::stream::iter(settling).buffer_unordered(self.settings.parallel);
        let mut right = 0;
        while let Some((device, outcome)) = settled.next().await {
            let outcome = match outcome {
                Some(Ok(written)) => {
                    right += 1;
                    if !written {
                        continue;
                    }
                    "written"
                }
                Some(Err(error)) => {
                    warn!(device.id = %device, %error, "the copy of a confirmed password is not what it should be");
                    progress.put_off(device);
                    "failed"
                }
                None => {
                    progress.put_off(device);
                    continue;
                }
            };
            metrics::counter!("keyturn_vault_copies_total", "outcome" => outcome).increment(1);
        }
        right
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

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: usize) -> DeviceId {
        DeviceId::from_bytes(u128::try_from(number).unwrap().to_be_bytes())
    }

    #[test]
    fn more_failures_than_are_remembered_make_a_sweep_once_there_are_fewer() {
        let mut progress = Progress { swept: UnixMillis(7), ..Progress::default() };
        (0..BEHIND).for_each(|number| progress.put_off(device(number)));
        progress.put_off(device(0));
        assert!(!progress.missed, "all are remembered, each once");
        progress.put_off(device(BEHIND));
        assert!(progress.missed && progress.behind.len() == BEHIND);
        progress.catch_up();
        assert_eq!(
            (progress.missed, progress.swept),
            (true, UnixMillis(7)),
            "while they fail nothing is begun"
        );
        progress.behind.truncate(BEHIND / 2 - 1);
        progress.sweeping = Some(device(3));
        progress.catch_up();
        assert_eq!((progress.missed, progress.swept, progress.sweeping), (false, UnixMillis(0), None));
    }
}
