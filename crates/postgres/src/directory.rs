//! The directory of a deployment without a cloud one: records as Microsoft Graph writes them, kept as text so that
//! one that cannot be read harms nobody but its own device.

use std::collections::HashMap;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::Error;
use keyturn_ports::directory::{Answer, DeviceRecord, Directory, DirectoryAdmin, Listed};
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;

const LOOKING_UP: &str = "looking a device up";
const LISTING: &str = "listing devices";

/// How many devices may share a name before the rest is left out.
const NAMESAKES: i64 = 32;

const STORE: &str = "INSERT INTO directory (device, name, record) \
 SELECT device, name, record FROM unnest($1::bytea[], $2::text[], $3::text[]) AS g (device, name, record) \
 ORDER BY device \
 ON CONFLICT (device) DO UPDATE SET name = excluded.name, record = excluded.record";

#[async_trait]
impl Directory for Database {
    async fn look_up(&self, devices: Vec<DeviceId>) -> Vec<Result<Answer, Error>> {
        let answered = self.now();
        let asked: Vec<&[u8]> = devices.iter().map(|device| device.as_bytes().as_slice()).collect();
        let sql = "SELECT device, record FROM directory WHERE device = ANY($1::bytea[])";
        let found = self
            .retrying(LOOKING_UP, async || {
                let found = self.read(sql, &[&asked]).await?;
                found.iter().map(|row| Ok((rows::device(row, 0)?, row.clone_text()?))).collect()
            })
            .await;
        let found: HashMap<DeviceId, String> = match found {
            Ok(found) => found,
            Err(error) => {
                let same = |_| Err(Error::new(error.kind(), LOOKING_UP, error.to_string()));
                return devices.iter().map(same).collect();
            }
        };
        let answer = |device: &DeviceId| {
            let record = found.get(device).map(|text| record(*device, text)).transpose();
            let record = record.map_err(|failure| failure.during(LOOKING_UP))?;
            Ok(Answer { records: record.into_iter().collect(), answered })
        };
        devices.iter().map(answer).collect()
    }

    async fn page(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error> {
        let after = after.map_or(Vec::new(), |device| device.as_bytes().to_vec());
        let sql = "SELECT device, record FROM directory WHERE device > $1 ORDER BY device LIMIT $2";
        self.retrying(LISTING, async || {
            let found = self.read(sql, &[&after, &rows::count(limit)]).await?;
            let listed = |row: &Row| {
                let id = rows::device(row, 0)?;
                let record = record(id, &row.clone_text()?).map_err(|failure| failure.during(LISTING));
                Ok(Listed { id, record })
            };
            found.iter().map(listed).collect()
        })
        .await
    }

    async fn named(&self, name: &str) -> Result<Vec<DeviceId>, Error> {
        let name = rows::folded(name);
        let sql = "SELECT device FROM directory WHERE name = $1 ORDER BY device LIMIT $2";
        self.retrying("looking a device name up", async || {
            self.read(sql, &[&name, &NAMESAKES]).await?.iter().map(|row| rows::device(row, 0)).collect()
        })
        .await
    }
}

#[async_trait]
impl DirectoryAdmin for Database {
    async fn put(&self, records: Vec<DeviceRecord>) -> Result<(), Error> {
        self.retrying("changing the directory", async || {
            let columns = Columns::of(&records)?;
            self.at_once(Mode::Told, &[(STORE, &columns.params())]).await.map(drop)
        })
        .await
    }

    async fn enable(&self, device: DeviceId, enabled: bool) -> Result<bool, Error> {
        self.retrying("enabling or disabling a device", async || enable(self, device, enabled).await).await
    }

    async fn regroup(&self, group: GroupId, members: Vec<(DeviceId, bool)>) -> Result<(), Error> {
        let members: HashMap<DeviceId, bool> = members.into_iter().collect();
        self.retrying("changing a group", async || regroup(self, group, &members).await).await
    }
}

async fn regroup(
    database: &Database,
    group: GroupId,
    members: &HashMap<DeviceId, bool>,
) -> Result<(), Failure> {
    // In one order, so that two who do this wait for each other and not in a circle.
    let sql = "SELECT device, record FROM directory WHERE device = ANY ($1) ORDER BY device FOR UPDATE";
    let devices: Vec<Vec<u8>> = members.keys().map(|device| device.as_bytes().to_vec()).collect();
    let (work, found) = database.begin(Mode::Told, &[(sql, &[&devices])]).await?;
    let changed = found.iter().flatten().map(|row| {
        let device = rows::device(row, 0)?;
        let mut record = record(device, &row.clone_text()?)?;
        record.regroup(group, members.get(&device).copied().unwrap_or_default());
        Ok(record)
    });
    match changed.collect::<Result<Vec<_>, Failure>>().and_then(|records| Columns::of(&records)) {
        Ok(columns) => work.commit(&[(STORE, &columns.params())]).await.map(drop),
        Err(failure) => Err(work.undo(failure).await),
    }
}

async fn enable(database: &Database, device: DeviceId, enabled: bool) -> Result<bool, Failure> {
    let sql = "SELECT device, record FROM directory WHERE device = $1 FOR UPDATE";
    let key = device.as_bytes().as_slice();
    let (work, found) = database.begin(Mode::Told, &[(sql, &[&key])]).await?;
    let changed = match found.iter().flatten().next() {
        None => return work.commit(&[]).await.map(|_| false),
        Some(row) => row
            .clone_text()
            .and_then(|text| record(device, &text))
            .and_then(|record| Columns::of(&[DeviceRecord { account_enabled: Some(enabled), ..record }])),
    };
    match changed {
        Ok(columns) => work.commit(&[(STORE, &columns.params())]).await.map(|_| true),
        Err(failure) => Err(work.undo(failure).await),
    }
}

/// Records, as the columns of a statement. Of several with one id the last one counts.
#[derive(Default)]
struct Columns {
    devices: Vec<Vec<u8>>,
    names: Vec<Option<String>>,
    records: Vec<String>,
}

impl Columns {
    fn of(records: &[DeviceRecord]) -> Result<Self, Failure> {
        let last: HashMap<DeviceId, &DeviceRecord> = records.iter().map(|one| (one.device_id, one)).collect();
        let mut columns = Self::default();
        for (device, record) in last {
            let text = serde_json::to_string(record).map_err(|error| Failure::corrupt(device, error))?;
            columns.devices.push(device.as_bytes().to_vec());
            columns.names.push(record.display_name.as_deref().map(rows::folded));
            columns.records.push(text);
        }
        Ok(columns)
    }

    fn params(&self) -> [Param<'_>; 3] {
        [&self.devices, &self.names, &self.records]
    }
}

/// The record's text, which outlives its row.
trait RecordText {
    fn clone_text(&self) -> Result<String, Failure>;
}

impl RecordText for Row {
    fn clone_text(&self) -> Result<String, Failure> {
        rows::column(self, 1)
    }
}

/// Reads a record. One filed under another device's id is as unreadable as one that is no JSON.
fn record(device: DeviceId, text: &str) -> Result<DeviceRecord, Failure> {
    let what = || format!("the directory's record of device {device}");
    let record: DeviceRecord = serde_json::from_str(text).map_err(|error| Failure::corrupt(what(), error))?;
    if record.device_id != device {
        return Err(Failure::corrupt(what(), format!("it names device {}", record.device_id)));
    }
    Ok(record)
}
