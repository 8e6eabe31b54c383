//! Versions and their rows.

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::vault::{Entry, NewVersion};
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde::Serialize;

use crate::batch::Batch;
use crate::failure::Failure;
use crate::rows;

macro_rules! entries {
    ($rest:literal) => {
        concat!("SELECT id, version, lane, created_at FROM vault_versions ", $rest)
    };
}

/// A version ready to be stored; there is no password in it.
pub(super) struct SealedVersion {
    request: RequestId,
    version: VersionId,
    lane: LaneId,
    device: DeviceId,
    tags: String,
    sealed: Vec<u8>,
}

/// The tags under CloudLAPS's names.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TagsText<'a> {
    user_name: &'a str,
    #[serde(rename = "AzureADDeviceID")]
    device: DeviceId,
    device_name: &'a str,
    serial_number: &'a str,
}

impl SealedVersion {
    /// What `version` becomes with its password sealed.
    pub(super) fn new(version: &NewVersion, sealed: Vec<u8>) -> Result<Self, Failure> {
        let NewVersion { request, version, lane, password: _, tags } = version;
        let text = TagsText {
            user_name: &tags.user_name,
            device: tags.device,
            device_name: &tags.device_name,
            serial_number: &tags.serial_number,
        };
        let text =
            serde_json::to_string(&text).map_err(|error| Failure::corrupt("a version's tags", error))?;
        Ok(Self {
            request: *request,
            version: *version,
            lane: *lane,
            device: tags.device,
            tags: text,
            sealed,
        })
    }
}

/// Stores a version, unless it is there already.
pub(super) fn store(batch: &Batch<'_>, sealed: &SealedVersion) -> Result<Entry, Failure> {
    let stored = batch
        .prepare(entries!("WHERE request = ?1 AND version = ?2 AND lane = ?3 ORDER BY id LIMIT 1"))?
        .query_row((sealed.request.as_bytes(), sealed.version.as_bytes(), sealed.lane.as_bytes()), entry)
        .optional()?;
    if let Some(stored) = stored {
        return Ok(stored);
    }
    batch.execute(
        "INSERT INTO vault_versions (version, request, lane, device, sealed, tags, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (
            sealed.version.as_bytes(),
            sealed.request.as_bytes(),
            sealed.lane.as_bytes(),
            sealed.device.as_bytes(),
            &sealed.sealed,
            &sealed.tags,
            rows::to_column(batch.now),
        ),
    )?;
    Ok(named(sealed.version, sealed.lane, batch.last_id(), batch.now))
}

/// The first version stored for a message.
pub(super) fn first_of(connection: &Connection, request: RequestId) -> Result<Option<Entry>, Failure> {
    let found = connection
        .prepare_cached(entries!("WHERE request = ?1 ORDER BY id LIMIT 1"))?
        .query_row([request.as_bytes()], entry)
        .optional()?;
    Ok(found)
}

/// Every version of a device, newest first.
pub(super) fn history(connection: &Connection, device: DeviceId) -> Result<Vec<Entry>, Failure> {
    let mut statement = connection.prepare_cached(entries!("WHERE device = ?1 ORDER BY id DESC"))?;
    let found = statement.query_map([device.as_bytes()], entry)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// The lane and the sealed value of the version in row `id`, if it is this version.
pub(super) fn sealed(
    connection: &Connection,
    id: i64,
    version: VersionId,
) -> Result<Option<(LaneId, Vec<u8>)>, Failure> {
    let found = connection
        .prepare_cached("SELECT lane, sealed FROM vault_versions WHERE id = ?1 AND version = ?2")?
        .query_row((id, version.as_bytes()), |row| Ok((rows::lane(row, 0)?, row.get(1)?)))
        .optional()?;
    Ok(found)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(named(rows::version(row, 1)?, rows::lane(row, 2)?, row.get(0)?, rows::time(row, 3)?))
}

fn named(version: VersionId, lane: LaneId, id: i64, created: UnixMillis) -> Entry {
    Entry { version, lane, vault_ref: id.to_string(), created }
}
