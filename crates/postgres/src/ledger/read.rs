//! Looking things up in the ledger.

use std::collections::{BTreeSet, HashMap, HashSet};

use keyturn_domain::ids::{DeviceId, KeyHash, LaneId, RequestId, VersionId};
use keyturn_domain::lane::Lane;
use keyturn_ports::ledger::{Event, Happening, History, Loaded, Stored, Wanted};
use tokio_postgres::Row;

use super::lanes::{self, Known};
use super::{Mark, mark_of};
use crate::database::{Database, Mode};
use crate::epoch::{GENERATION, Generation};
use crate::failure::Failure;
use crate::rows;

/// How many devices may share a label before the rest is left out.
const NAMESAKES: i64 = 32;

/// The messages that took effect with these nonces under these marks.
pub(super) const EFFECTS: &str = "SELECT e.nonce_ms, e.mark, e.request FROM effects AS e \
 JOIN unnest($1::bigint[], $2::bytea[]) AS g (nonce_ms, mark) USING (nonce_ms, mark)";

/// What took effect, by nonce and mark.
pub(super) type Effects = HashMap<(i64, Mark), RequestId>;

/// What is known when deciding on each message, all of one moment.
pub(super) async fn load(database: &Database, wanted: &[Wanted]) -> Result<Vec<Loaded>, Failure> {
    let devices: Vec<&[u8]> = wanted.iter().map(|one| one.device.as_bytes().as_slice()).collect();
    let marks: Vec<Vec<u8>> = wanted.iter().map(|one| mark_of(&one.mark).to_vec()).collect();
    let versions: Vec<&[u8]> =
        wanted.iter().flat_map(|one| &one.versions).map(|version| version.as_bytes().as_slice()).collect();
    let nonces: Vec<i64> = wanted.iter().map(|one| rows::to_column(one.nonce)).collect();
    let of_devices = lanes::lanes!("WHERE device = ANY($1::bytea[]) ORDER BY id");
    let of_versions = "SELECT version, lane FROM issued WHERE version = ANY($1::bytea[])";
    let found = database
        .at_once(
            Mode::Snapshot,
            &[
                (of_devices, &[&devices]),
                (of_versions, &[&versions]),
                (EFFECTS, &[&nonces, &marks]),
                (GENERATION, &[]),
            ],
        )
        .await?;
    let [lanes, issued, effects, generation] = found.as_slice() else {
        return Err(Failure::outrun());
    };
    // One device's unreadable lane is that device's trouble; it fails the batch, which then is handled one by one.
    let generation = Generation::of(generation)?;
    let mut of_device: HashMap<DeviceId, Vec<Stored<Lane>>> = HashMap::new();
    let mut known: HashMap<LaneId, Known> = HashMap::new();
    for row in lanes {
        let (stored, about) = lanes::lane(row, generation)?;
        known.insert(stored.value.key.id(), about);
        of_device.entry(stored.value.key.device).or_default().push(stored);
    }
    let issued: HashSet<(VersionId, LaneId)> = issued
        .iter()
        .map(|row| Ok((rows::version(row, 0)?, rows::lane(row, 1)?)))
        .collect::<Result<_, Failure>>()?;
    let effects = took_effect(effects)?;
    let loaded = |one: &Wanted| Loaded {
        lanes: of_device.get(&one.device).cloned().unwrap_or_default(),
        issued: issued_to(&issued, one.lane, &one.versions),
        history: {
            let mark = mark_of(&one.mark);
            let effect = effects.get(&(rows::to_column(one.nonce), mark));
            history(effect, one.request, known.get(&one.lane).is_some_and(|lane| lane.used(mark)))
        },
        restored: generation.restored,
    };
    Ok(wanted.iter().map(loaded).collect())
}

fn issued_to(
    issued: &HashSet<(VersionId, LaneId)>,
    lane: LaneId,
    versions: &BTreeSet<VersionId>,
) -> BTreeSet<VersionId> {
    versions.iter().copied().filter(|version| issued.contains(&(*version, lane))).collect()
}

/// The rows of [`EFFECTS`].
pub(super) fn took_effect(found: &[Row]) -> Result<Effects, Failure> {
    let effect = |row: &Row| {
        let mark = rows::identifier(row, 1, |bytes| bytes.try_into().ok())?;
        Ok(((rows::column(row, 0)?, mark), rows::request(row, 2)?))
    };
    found.iter().map(effect).collect()
}

/// What happened before to the message, or to another with its mark: `effect` took effect with its nonce and mark, and
/// `used` says whether one of the last messages of its lane had the mark.
pub(super) fn history(effect: Option<&RequestId>, request: RequestId, used: bool) -> History {
    match effect {
        None if used => History::MarkReused,
        None => History::Unseen,
        Some(done) if *done == request => History::Done,
        Some(_) => History::MarkReused,
    }
}

/// Every lane of a device, in the order in which they were opened.
pub(super) async fn lanes_of(database: &Database, device: DeviceId) -> Result<Vec<Lane>, Failure> {
    let sql = lanes::lanes!("WHERE device = $1 ORDER BY id");
    let of_device = device.as_bytes().as_slice();
    let found = database.at_once(Mode::Snapshot, &[(sql, &[&of_device]), (GENERATION, &[])]).await?;
    let [lanes, generation] = found.as_slice() else {
        return Err(Failure::outrun());
    };
    let generation = Generation::of(generation)?;
    lanes.iter().map(|row| Ok(lanes::lane(row, generation)?.0.value)).collect()
}

/// Devices that have lanes.
pub(super) async fn devices(
    database: &Database,
    after: Option<DeviceId>,
    limit: usize,
) -> Result<Vec<DeviceId>, Failure> {
    let after = after.map_or(Vec::new(), |device| device.as_bytes().to_vec());
    let sql = "SELECT DISTINCT device FROM lanes WHERE device > $1 ORDER BY device LIMIT $2";
    let found = database.read(sql, &[&after, &rows::count(limit)]).await?;
    found.iter().map(|row| rows::device(row, 0)).collect()
}

/// Devices one of whose lanes carries this serial number or host name.
pub(super) async fn labelled(database: &Database, label: &str) -> Result<Vec<DeviceId>, Failure> {
    let sql = "SELECT device FROM lanes WHERE serial = $1 UNION SELECT device FROM lanes WHERE host = $1 \
               ORDER BY device LIMIT $2";
    let found = database.read(sql, &[&rows::folded(label), &NAMESAKES]).await?;
    found.iter().map(|row| rows::device(row, 0)).collect()
}

/// The newest facts about a device.
pub(super) async fn timeline(
    database: &Database,
    device: DeviceId,
    limit: usize,
) -> Result<Vec<Event>, Failure> {
    let sql = "SELECT id, at, device, request, what FROM events WHERE device = $1 ORDER BY id DESC LIMIT $2";
    let found = database.read(sql, &[&device.as_bytes().as_slice(), &rows::count(limit)]).await?;
    found.iter().map(|row| Ok(event(row)?.1)).collect()
}

/// Facts of all devices in the order in which they were stored.
pub(super) async fn events(
    database: &Database,
    after: u64,
    limit: usize,
) -> Result<Vec<(u64, Event)>, Failure> {
    let sql = "SELECT id, at, device, request, what FROM events WHERE id > $1 ORDER BY id LIMIT $2";
    let found = database.read(sql, &[&rows::place(after), &rows::count(limit)]).await?;
    found.iter().map(event).collect()
}

fn event(row: &Row) -> Result<(u64, Event), Failure> {
    let id = rows::number(row, 0)?;
    let what: Happening = serde_json::from_str(rows::column(row, 4)?)
        .map_err(|error| Failure::corrupt(format!("event {id}"), error))?;
    let (at, device, request) = (rows::time(row, 1)?, rows::device(row, 2)?, rows::request(row, 3)?);
    Ok((id, Event { at, device, request, what }))
}

/// Where the vault keeps a version.
pub(super) async fn vault_ref(database: &Database, version: VersionId) -> Result<Option<String>, Failure> {
    let sql = "SELECT vault_ref FROM issued WHERE version = $1";
    let found = database.read(sql, &[&version.as_bytes().as_slice()]).await?;
    found.first().map(|row| rows::column(row, 0)).transpose()
}

/// Whether any lane is the key's.
pub(super) async fn knows_key(database: &Database, key: KeyHash) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM lanes WHERE key = $1 LIMIT 1";
    Ok(!database.read(sql, &[&key.to_string()]).await?.is_empty())
}
