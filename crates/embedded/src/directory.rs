//! The embedded directory: records as Microsoft Graph writes them, kept as text so that one that cannot be read
//! harms nobody but its own device.

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::Error;
use keyturn_ports::directory::{Answer, DeviceRecord, Directory, DirectoryAdmin, Listed};
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

const LOOKING_UP: &str = "looking a device up";
const LISTING: &str = "listing devices";

/// How many devices may share a name before the rest is left out.
const NAMESAKES: usize = 32;

#[async_trait]
impl Directory for Database {
    async fn look_up(&self, devices: Vec<DeviceId>) -> Vec<Result<Answer, Error>> {
        let answered = self.now();
        let asked = devices.clone();
        let read = move |connection: &Connection| {
            asked.iter().map(|device| find(connection, *device)).collect::<Result<Vec<_>, _>>()
        };
        match self.read_few(devices.len(), LOOKING_UP, read).await {
            Ok(found) => found
                .into_iter()
                .map(|found| found.map(DeviceText::record).transpose())
                .map(|record| match record {
                    Ok(record) => Ok(Answer { records: record.into_iter().collect(), answered }),
                    Err(failure) => Err(failure.during(LOOKING_UP)),
                })
                .collect(),
            Err(error) => {
                devices.iter().map(|_| Err(Error::new(error.kind(), LOOKING_UP, error.to_string()))).collect()
            }
        }
    }

    async fn page(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error> {
        let after = after.map_or(Vec::new(), |device| device.as_bytes().to_vec());
        self.read(LISTING, move |connection| {
            let sql = "SELECT device, record FROM directory WHERE device > ?1 ORDER BY device LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map((after, rows::count(limit)), text)?;
            found.map(|text| Ok(text?.listed())).collect()
        })
        .await
    }

    async fn named(&self, name: &str) -> Result<Vec<DeviceId>, Error> {
        let name = rows::folded(name);
        self.read("looking a device name up", move |connection| {
            let sql = "SELECT device FROM directory WHERE name = ?1 ORDER BY device LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map((name, rows::count(NAMESAKES)), |row| rows::device(row, 0))?;
            Ok(found.collect::<Result<_, _>>()?)
        })
        .await
    }
}

#[async_trait]
impl DirectoryAdmin for Database {
    async fn put(&self, records: Vec<DeviceRecord>) -> Result<(), Error> {
        let put = move |batch: &mut Batch<'_>| records.iter().try_for_each(|record| store(batch, record));
        self.write("changing the directory", Durability::Told, put).await
    }

    async fn enable(&self, device: DeviceId, enabled: bool) -> Result<bool, Error> {
        let enable = move |batch: &mut Batch<'_>| {
            let Some(found) = find(batch.connection(), device)? else {
                return Ok(false);
            };
            let record = DeviceRecord { account_enabled: Some(enabled), ..found.record()? };
            store(batch, &record).map(|()| true)
        };
        self.write("enabling or disabling a device", Durability::Told, enable).await
    }

    async fn regroup(&self, group: GroupId, members: Vec<(DeviceId, bool)>) -> Result<(), Error> {
        let regroup = move |batch: &mut Batch<'_>| {
            for (device, member) in &members {
                if let Some(found) = find(batch.connection(), *device)? {
                    let mut record = found.record()?;
                    record.regroup(group, *member);
                    store(batch, &record)?;
                }
            }
            Ok(())
        };
        self.write("changing a group", Durability::Told, regroup).await
    }
}

fn store(batch: &Batch<'_>, record: &DeviceRecord) -> Result<(), Failure> {
    let text = serde_json::to_string(record).map_err(|error| Failure::corrupt(record.device_id, error))?;
    let name = record.display_name.as_deref().map(rows::folded);
    batch.execute(
        "INSERT INTO directory (device, name, record) VALUES (?1, ?2, ?3) \
         ON CONFLICT (device) DO UPDATE SET name = excluded.name, record = excluded.record",
        (record.device_id.as_bytes(), name, text),
    )?;
    Ok(())
}

fn find(connection: &Connection, device: DeviceId) -> Result<Option<DeviceText>, Failure> {
    let found = connection
        .prepare_cached("SELECT device, record FROM directory WHERE device = ?1")?
        .query_row([device.as_bytes()], text)
        .optional()?;
    Ok(found)
}

/// A record as it is stored, not yet read.
struct DeviceText {
    device: DeviceId,
    record: String,
}

fn text(row: &Row<'_>) -> rusqlite::Result<DeviceText> {
    Ok(DeviceText { device: rows::device(row, 0)?, record: row.get(1)? })
}

impl DeviceText {
    fn listed(self) -> Listed {
        Listed { id: self.device, record: self.record().map_err(|failure| failure.during(LISTING)) }
    }

    /// Reads it. A record filed under another device's id is as unreadable as one that is no JSON.
    fn record(self) -> Result<DeviceRecord, Failure> {
        let what = || format!("the directory's record of device {}", self.device);
        let record: DeviceRecord =
            serde_json::from_str(&self.record).map_err(|error| Failure::corrupt(what(), error))?;
        if record.device_id != self.device {
            return Err(Failure::corrupt(what(), format!("it names device {}", record.device_id)));
        }
        Ok(record)
    }
}
