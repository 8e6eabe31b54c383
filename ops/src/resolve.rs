//! From what a person types to a device: its id, its name in the directory, or the serial number it claims.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use keyturn_domain::ids::DeviceId;
use keyturn_ports::Kind;
use keyturn_ports::directory::DeviceRecord;
use keyturn_service::engines::Engines;

use crate::failure::{Code, Context as _, Failure, OfFile as _, Result};
use crate::output::quoted;

/// A device that was named, with its record if the directory has one that can be read.
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
        if record.is_none() && !is_heard_of(engines, id).await? {
            let problem = format!("{id}: no such device, neither in the directory nor in the ledger");
            return Err(Failure::new(Code::NoSuchDevice, problem));
        }
        return Ok(Named { id, record });
    }
    let mut ids: BTreeSet<DeviceId> = engines.directory().named(text).await?.into_iter().collect();
    if ids.is_empty() {
        ids.extend(engines.ledger_reader().labelled(text).await?);
    }
    let list: Vec<String> = ids.iter().map(ToString::to_string).collect();
    match (ids.first(), list.len()) {
        (Some(id), 1) => Ok(Named { id: *id, record: record(engines, *id).await? }),
        (None, _) => {
            let mend = "`keyturn device list` lists them";
            let problem = format!("{}: no device has this name or serial number; {mend}", quoted(text));
            Err(Failure::new(Code::NoSuchDevice, problem))
        }
        (Some(_), _) => {
            let list = list.join(", ");
            let problem = format!("{} names several devices: {list}; say which by its id", quoted(text));
            Err(Failure::new(Code::SeveralByThatName, problem))
        }
    }
}

async fn is_heard_of(engines: &Engines, id: DeviceId) -> Result<bool> {
    let ledger = engines.ledger_reader();
    Ok(!ledger.lanes(id).await?.is_empty() || !ledger.timeline(id, 1).await?.is_empty())
}

/// The directory's record of a device. One that cannot be read is told of and goes for none: a password must be
/// found whatever became of the directory.
pub(crate) async fn record(engines: &Engines, id: DeviceId) -> Result<Option<DeviceRecord>> {
    match engines.directory().look_up(vec![id]).await.pop() {
        Some(Ok(answer)) => Ok(answer.records.into_iter().next()),
        Some(Err(error)) if error.kind() == Kind::Corrupt => {
            eprintln!("keyturn: {error}; put it anew with `keyturn device add --replace` or `device import`");
            Ok(None)
        }
        Some(Err(error)) => {
            eprintln!("keyturn: {error}");
            Ok(None)
        }
        None => Ok(None),
    }
}

/// The devices of a list, one a line. Every one must be known before anything is done, of which `done` is the word.
pub(crate) async fn list(engines: &Engines, file: &Path, done: &str) -> Result<Vec<DeviceId>> {
    let text = fs::read_to_string(file).read_of(file)?;
    let mut devices = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        let name = line.split('#').next().unwrap_or_default().trim();
        if !name.is_empty() {
            let place = format_args!("{}:{number}; nothing was {done}", file.display());
            devices.insert(device(engines, name).await.context(place)?.id);
        }
    }
    Ok(devices.into_iter().collect())
}
