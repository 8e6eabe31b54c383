//! Versions and their rows.

use std::collections::HashMap;

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_ports::vault::{Entry, NewVersion};
use serde::Serialize;
use tokio_postgres::Row;

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;
use crate::schema::locks;

/// Versions are numbered under a lock that is held until the commit, so that whoever walks them in order, to seal them
/// anew, meets every one. It is asked for and given back within one trip.
const LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

/// Stores what is not there already. Thanks to the lock nobody else stores the same meanwhile.
const STORE: &str = "INSERT INTO vault_versions (version, request, lane, device, sealed, tags, created_at) \
 SELECT version, request, lane, device, sealed, tags, now_ms($1) FROM ( \
     SELECT DISTINCT ON (request, version, lane) * \
     FROM unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[], $7::text[]) \
         WITH ORDINALITY AS u (version, request, lane, device, sealed, tags, place) \
     ORDER BY request, version, lane, place) AS g \
 WHERE NOT EXISTS ( \
     SELECT FROM vault_versions AS v \
     WHERE v.request = g.request AND v.version = g.version AND v.lane = g.lane) \
 ORDER BY place";

const OF_REQUESTS: &str = "SELECT id, version, lane, created_at, request FROM vault_versions \
 WHERE request = ANY($1::bytea[]) ORDER BY id";

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
        let tags_text =
            serde_json::to_string(&text).map_err(|error| Failure::corrupt("a version's tags", error))?;
        let (request, version, lane, device) = (*request, *version, *lane, tags.device);
        Ok(Self { request, version, lane, device, tags: tags_text, sealed })
    }
}

/// Stores versions, unless they are there already. Returns where each is.
pub(super) async fn store(database: &Database, sealed: &[&SealedVersion]) -> Result<Vec<Entry>, Failure> {
    let now = database.now_given();
    let versions: Vec<&[u8]> = sealed.iter().map(|one| one.version.as_bytes().as_slice()).collect();
    let requests: Vec<&[u8]> = sealed.iter().map(|one| one.request.as_bytes().as_slice()).collect();
    let lanes: Vec<&[u8]> = sealed.iter().map(|one| one.lane.as_bytes().as_slice()).collect();
    let devices: Vec<&[u8]> = sealed.iter().map(|one| one.device.as_bytes().as_slice()).collect();
    let values: Vec<&[u8]> = sealed.iter().map(|one| one.sealed.as_slice()).collect();
    let tags: Vec<&str> = sealed.iter().map(|one| one.tags.as_str()).collect();
    let params: [Param<'_>; 7] = [&now, &versions, &requests, &lanes, &devices, &values, &tags];
    let found = database
        .at_once(Mode::Internal, &[(LOCK, &[&locks::VAULT]), (STORE, &params), (OF_REQUESTS, &[&requests])])
        .await?;
    let mut first: HashMap<(RequestId, VersionId, LaneId), Entry> = HashMap::new();
    for row in found.last().into_iter().flatten() {
        let entry = entry(row)?;
        first.entry((rows::request(row, 4)?, entry.version, entry.lane)).or_insert(entry);
    }
    let entry_of = |one: &&SealedVersion| first.get(&(one.request, one.version, one.lane)).cloned();
    let gone = || Failure::corrupt("a password version", "it is not there after it was stored");
    sealed.iter().map(|one| entry_of(one).ok_or_else(gone)).collect()
}

/// The first version stored for each message.
pub(super) async fn first_of(
    database: &Database,
    requests: &[RequestId],
) -> Result<Vec<Option<Entry>>, Failure> {
    let asked: Vec<&[u8]> = requests.iter().map(|request| request.as_bytes().as_slice()).collect();
    let mut first: HashMap<RequestId, Entry> = HashMap::new();
    for row in &database.read(OF_REQUESTS, &[&asked]).await? {
        first.entry(rows::request(row, 4)?).or_insert(entry(row)?);
    }
    Ok(requests.iter().map(|request| first.get(request).cloned()).collect())
}

/// Every version of a device, newest first.
pub(super) async fn history(database: &Database, device: DeviceId) -> Result<Vec<Entry>, Failure> {
    let sql = "SELECT id, version, lane, created_at FROM vault_versions WHERE device = $1 ORDER BY id DESC";
    database.read(sql, &[&device.as_bytes().as_slice()]).await?.iter().map(entry).collect()
}

/// The lane and the sealed value of the version in row `id`, if it is this version.
pub(super) async fn sealed(
    database: &Database,
    id: i64,
    version: VersionId,
) -> Result<Option<(LaneId, Vec<u8>)>, Failure> {
    let sql = "SELECT lane, sealed FROM vault_versions WHERE id = $1 AND version = $2";
    let found = database.read(sql, &[&id, &version.as_bytes().as_slice()]).await?;
    found.first().map(|row| Ok((rows::lane(row, 0)?, rows::column(row, 1)?))).transpose()
}

fn entry(row: &Row) -> Result<Entry, Failure> {
    let id: i64 = rows::column(row, 0)?;
    let (version, lane, created) = (rows::version(row, 1)?, rows::lane(row, 2)?, rows::time(row, 3)?);
    Ok(Entry { version, lane, vault_ref: id.to_string(), created })
}
