//! From what a person types to a device: its id, its name in the directory, or the serial number it claims.

use std::collections::BTreeSet;

use anyhow::Result;
use keyturn_domain::ids::DeviceId;
use keyturn_ports::directory::DeviceRecord;
use keyturn_service::engines::Engines;

use crate::failure::Failure;

/// A device that was named, with its record if the directory has one.
pub(crate) struct Named {
    pub(crate) id: DeviceId,
    pub(crate) record: Option<DeviceRecord>,
}

impl Named {
    /// What to call it: the directory's name first.
    pub(crate) fn title(&self) -> String {
        let name = self.record.as_ref().and_then(|record| record.display_name.clone());
        name.map_or_else(|| self.id.to_string(), |name| format!("{name} ({})", self.id))
    }
}

/// The one device that `text` names.
pub(crate) async fn device(engines: &Engines, text: &str) -> Result<Named> {
    if let Ok(id) = DeviceId::parse_any_case(text) {
        let record = record(engines, id).await?;
        if record.is_none() && engines.ledger_reader().lanes(id).await?.is_empty() {
            return Err(Failure::NotFound(format!(
                "{id}: no such device, neither in the directory nor in the ledger"
            ))
            .into());
        }
        return Ok(Named { id, record });
    }
    let by_name = engines.directory().named(text).await?;
    let mut ids: BTreeSet<DeviceId> = by_name.iter().map(|record| record.device_id).collect();
    if ids.is_empty() {
        ids.extend(engines.ledger_reader().labelled(text).await?);
    }
    let mut ids = ids.into_iter();
    match (ids.next(), ids.next()) {
        (None, _) => Err(Failure::NotFound(format!(
            "«{text}»: no device has this name or serial number; `keyturn device list` lists them"
        ))
        .into()),
        (Some(id), None) => Ok(Named { id, record: record(engines, id).await? }),
        (Some(first), Some(second)) => {
            let more: Vec<String> = [first, second].into_iter().chain(ids).map(|id| id.to_string()).collect();
            let list = more.join(", ");
            Err(Failure::Conflict(format!("«{text}» names several devices: {list}; say which by its id"))
                .into())
        }
    }
}

/// The directory's record of a device.
pub(crate) async fn record(engines: &Engines, id: DeviceId) -> Result<Option<DeviceRecord>> {
    match engines.directory().look_up(vec![id]).await.pop() {
        Some(Ok(answer)) => Ok(answer.records.into_iter().next()),
        Some(Err(error)) => Err(error.into()),
        None => Ok(None),
    }
}
