//! Holds: an operator's word that a device gets no new password. The ledger has until when; who said so, why and since
//! when is in the audit.

use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::Lane;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, Wanted};
use keyturn_service::engines::Engines;
use serde::Serialize;

use crate::failure::Result;
use crate::output::when;

/// 9999-01-01: a hold that somebody has to end, by an instant that every column and calendar has room for.
pub(super) const FOR_GOOD: UnixMillis = UnixMillis(253_370_764_800_000);

/// A hold that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hold {
    /// When it ends by itself; none if somebody has to end it.
    pub(super) until_ms: Option<UnixMillis>,
    /// Who said it last, why and when; none of it if the audit does not say.
    pub(super) by: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) since_ms: Option<UnixMillis>,
}

impl Hold {
    /// In words: `until it is released, since WHEN by WHO: WHY`.
    pub(super) fn told(&self) -> String {
        let end = until(self.until_ms.unwrap_or(FOR_GOOD));
        match (self.since_ms, &self.by, &self.reason) {
            (Some(since), Some(by), Some(reason)) => {
                format!("{end}, since {} by {by}: {reason}", when(since))
            }
            _ => end,
        }
    }
}

/// When a hold ends, in words.
pub(super) fn until(end: UnixMillis) -> String {
    if end >= FOR_GOOD { "until it is released".to_owned() } else { format!("until {}", when(end)) }
}

/// The hold on a device with these lanes, if an operator holds one of them now.
pub(super) async fn of(engines: &Engines, device: DeviceId, lanes: &[Lane]) -> Result<Option<Hold>> {
    let now = engines.clock().now();
    let open = lanes.iter().filter(|lane| lane.closed.is_none());
    let Some(end) = open.filter_map(|lane| lane.on_hold).filter(|until| *until > now).max() else {
        return Ok(None);
    };
    let actions = vec![Action::RotationHeld, Action::HoldReleased];
    let wanted = Wanted { device: Some(device), actions, ..Wanted::default() };
    let last = engines.audit().select(wanted, 1).await?.pop().map(|row| row.row);
    let said = last.filter(|row| row.action == Action::RotationHeld);
    let (by, reason, since_ms) = match said {
        Some(row) => (Some(row.actor), Some(row.reason), Some(row.at)),
        None => (None, None, None),
    };
    Ok(Some(Hold { until_ms: (end < FOR_GOOD).then_some(end), by, reason, since_ms }))
}
