//! The report on the whole fleet: directory and ledger compared, device by device, in the words of
//! [`DeviceStanding`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::policies::Policies;
use keyturn_domain::standing::{DeviceStanding, capped, standing};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::chores::{self, Chore, Chores};
use keyturn_ports::directory::Directory;
use keyturn_ports::ledger::LedgerReader;
use keyturn_ports::{Error, Kind};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config::{Config, Fleet};
use crate::engines::Engines;

/// Devices read at once.
const PAGE: usize = 500;

/// How long a turn lasts: whoever has not finished by then is taken for dead.
const TURN: Duration = Duration::from_hours(1);

/// The most characters of a device's name that a report repeats.
const NAME: usize = 64;

/// A device and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Surveyed {
    /// How it stands.
    pub state: DeviceStanding,
    /// The device.
    pub device_id: DeviceId,
    /// Its name in the directory.
    pub name: String,
    /// When it may have a new password again, if it has had as many as it may for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capped_until: Option<UnixMillis>,
}

/// What a survey found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it was begun.
    pub at: UnixMillis,
    /// How many devices stand how. One that is not here has none.
    pub devices: BTreeMap<DeviceStanding, u64>,
    /// Of these, how many have had as many new passwords as they may for now. One that is not here has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capped: BTreeMap<DeviceStanding, u64>,
    /// Of those never escrowed, how many the ledger has never heard of.
    pub without_lane: u64,
    /// Devices that the directory lists.
    pub listed: u64,
    /// Of these, in percent, how many are overdue, unverified or never escrowed, rounded down.
    pub unwell_percent: u64,
    /// Whether that is more than `fleet.unwell_percent_warn` allowed.
    pub unwell: bool,
    /// The first devices that are not confirmed, the worst first.
    pub named: Vec<Surveyed>,
}

impl Report {
    /// How many devices stand so.
    pub fn count(&self, standing: DeviceStanding) -> u64 {
        self.devices.get(&standing).copied().unwrap_or_default()
    }
}

/// What a survey reads.
#[derive(Clone)]
pub struct Surveyor {
    /// The directory.
    pub directory: Arc<dyn Directory>,
    /// The ledger.
    pub ledger: Arc<dyn LedgerReader>,
    /// The policies, by which passwords are due.
    pub policies: Arc<Policies>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The pause after a page of devices, for others to read.
    pub pause: Duration,
}

impl Surveyor {
    /// That of a deployment.
    pub fn new(config: &Config, engines: &Engines) -> Self {
        Self {
            directory: engines.directory(),
            ledger: engines.ledger_reader(),
            policies: Arc::new(config.policies.clone()),
            clock: engines.clock(),
            pause: Duration::ZERO,
        }
    }

    /// The same in no hurry, for the background.
    pub(crate) fn leisurely(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Tells each device and how it stands, in the order of their ids.
    ///
    /// # Errors
    /// The first engine that fails: half a survey says nothing.
    pub async fn each(&self, mut tell: impl FnMut(Surveyed, bool)) -> Result<(), Error> {
        let now = self.clock.now();
        for (number, (device, name)) in (1..).zip(self.devices().await?) {
            if number % PAGE == 0 {
                tokio::time::sleep(self.pause).await;
            }
            let lanes = self.ledger.lanes(device).await?;
            let state = standing(name.is_some(), &lanes, &self.policies, now);
            let capped_until = capped(&lanes, &self.policies, now).map(|cap| cap.until);
            let name = name.unwrap_or_default();
            tell(Surveyed { state, device_id: device, name, capped_until }, lanes.is_empty());
        }
        Ok(())
    }

    /// Surveys the fleet.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub async fn survey(&self, settings: &Fleet) -> Result<Report, Error> {
        let mut report = Report { at: self.clock.now(), ..Report::default() };
        let mut worst = std::collections::BTreeSet::new();
        self.each(|one, laneless| {
            *report.devices.entry(one.state).or_default() += 1;
            if one.capped_until.is_some() {
                *report.capped.entry(one.state).or_default() += 1;
            }
            report.listed += u64::from(one.state != DeviceStanding::Orphaned);
            report.without_lane += u64::from(laneless);
            if one.state != DeviceStanding::Confirmed {
                let name = one.name.chars().take(NAME).collect();
                worst.insert(Surveyed { name, ..one });
                if worst.len() > settings.report_names {
                    worst.pop_last();
                }
            }
        })
        .await?;
        let unwell = report.devices.iter().filter(|(state, _)| state.is_unwell());
        let unwell: u64 = unwell.map(|(_, count)| count).sum();
        report.unwell_percent = (unwell * 100).checked_div(report.listed).unwrap_or_default();
        report.unwell = unwell * 100 > report.listed * u64::from(settings.unwell_percent_warn);
        report.named = worst.into_iter().collect();
        Ok(report)
    }

    /// Every device of the directory, with its name, and every one that the ledger alone knows, without.
    async fn devices(&self) -> Result<BTreeMap<DeviceId, Option<String>>, Error> {
        let (mut devices, mut after) = (BTreeMap::new(), None);
        loop {
            let page = self.ledger.devices(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            devices.extend(page.into_iter().map(|device| (device, None)));
        }
        after = None;
        loop {
            let page = self.directory.page(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(devices) };
            after = Some(last.id);
            for listed in page {
                let name = listed.record.map(|record| record.display_name.unwrap_or_default());
                devices.insert(listed.id, Some(name.unwrap_or_default()));
            }
        }
    }
}

/// The last report that was stored: the counts for whoever shows them.
///
/// # Errors
/// What the store fails with; [`Kind::Corrupt`] if it is no report.
pub async fn last(chores: &dyn Chores) -> Result<Option<Report>, Error> {
    let Some(report) = chores.last(Chore::FleetReport).await? else { return Ok(None) };
    let read = serde_json::from_str(&report.text);
    read.map(Some).map_err(|error| Error::new(Kind::Corrupt, "reading the fleet's report", error.to_string()))
}

/// Makes the report when it is due, once for the deployment.
pub(crate) struct Clerk {
    pub(crate) surveyor: Surveyor,
    pub(crate) chores: Arc<dyn Chores>,
    pub(crate) settings: Fleet,
}

impl Clerk {
    /// Makes the report if it is due and nobody else is at it.
    pub(crate) async fn round(&self) -> Result<(), Error> {
        let now = self.surveyor.clock.now();
        if !self.chores.take(Chore::FleetReport, now, now.plus(TURN)).await? {
            // Whoever made the last report may be gone, or may have made one before it: all tell the last one's word.
            if let Some(report) = last(&*self.chores).await? {
                metrics::gauge!("keyturn_fleet_unwell").set(u32::from(report.unwell));
            }
            return Ok(());
        }
        let report = self.surveyor.survey(&self.settings).await?;
        let text = serde_json::to_string(&report)
            .map_err(|error| Error::new(Kind::Corrupt, "writing the fleet's report", error.to_string()))?;
        let due = next(now, &self.settings);
        self.chores.finish(Chore::FleetReport, chores::Report { at: report.at, text }, due).await?;
        metrics::gauge!("keyturn_fleet_unwell").set(u32::from(report.unwell));
        let (listed, percent) = (report.listed, report.unwell_percent);
        if report.unwell {
            warn!(listed, percent, "many devices have no fresh password: `keyturn fleet --last-report`");
        } else {
            info!(listed, percent, "the fleet was surveyed");
        }
        Ok(())
    }
}

/// The first instant after `now` at which a report is due.
fn next(now: UnixMillis, settings: &Fleet) -> UnixMillis {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let (every, after) = (millis(settings.report_every.0).max(1), millis(settings.report_after.0));
    let begun = now.0.saturating_sub(after) / every;
    UnixMillis(begun.saturating_add(1).saturating_mul(every).saturating_add(after))
}

#[cfg(test)]
mod tests {
    use keyturn_domain::span::Span;

    use super::*;

    #[test]
    fn a_report_is_due_at_its_time_of_day() {
        let hours = |hours: u64| UnixMillis(hours * 3_600_000);
        let settings = |every, after| Fleet {
            report_every: Span(Duration::from_hours(every)),
            report_after: Span(Duration::from_hours(after)),
            report_names: 1,
            unwell_percent_warn: 10,
        };
        let nightly = settings(24, 2);
        for (now, due) in [(25, 26), (26, 50), (49, 50), (50, 74)] {
            assert_eq!(next(hours(now), &nightly), hours(due), "{now}");
        }
        assert_eq!(next(hours(7), &settings(6, 1)), hours(13));
        assert_eq!(next(hours(6), &settings(6, 1)), hours(7));
    }
}
