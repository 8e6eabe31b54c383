//! The roster: the devices of a directory elsewhere, as its feed of changes tells them, and how far that feed was read.
//!
//! One process at a time reads the feed: it holds the roster for a while, and files what it read page by page, each with
//! the place where the next one is, in one transaction. Whoever dies in between leaves the place to the next. Every page
//! is a step; an entry says at which step it last changed, so that every process can ask what changed since it last asked.
//!
//! What stands here names devices and is never what one is trusted by: keys are not in it.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_domain::ids::{DeviceId, ObjectId};
use keyturn_domain::time::UnixMillis;
use serde_json::{Map, Value};

use crate::Error;
use crate::directory::{DeviceRecord, Listed};
use crate::shipping::Holder;

/// The properties that are kept, by their names in the directory.
pub const KEPT: [&str; 5] = ["deviceId", "displayName", "accountEnabled", "trustType", "operatingSystem"];

/// The most bytes of a place in the feed.
pub const PLACE_BYTES: usize = 16 * 1024;

/// What the feed says of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is there, and at least these of its properties are new. One that is not among them is as it was.
    Seen(ObjectId, Map<String, Value>),
    /// It was deleted.
    Gone(ObjectId),
}

impl Change {
    fn object(&self) -> ObjectId {
        match self {
            Self::Seen(object, _) | Self::Gone(object) => *object,
        }
    }
}

/// What comes after a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another page, at this place.
    More(String),
    /// Nothing for now; the round is over, and the next one begins at this place after that long.
    Done(String, Duration),
    /// The feed does not know the place any more: it is read from the beginning.
    Restart,
}

/// A turn at reading the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// How many pages were ever filed.
    pub step: u64,
    /// Where the next page is; none at the beginning.
    pub place: Option<String>,
}

/// How the roster stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last step.
    pub step: u64,
    /// When the last round that came to its end was begun: everything older is in the roster. None before the first.
    pub read: Option<UnixMillis>,
    /// Devices in it.
    pub devices: u64,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Up to which step this is.
    pub step: u64,
    /// As in [`Standing`].
    pub read: Option<UnixMillis>,
    /// The devices, or none if they are more than was asked for: then any of them may have changed.
    pub devices: Option<Vec<DeviceId>>,
}

/// The roster of a deployment. It is a copy of what is elsewhere: who loses it reads the feed from its beginning.
#[async_trait]
pub trait Roster: Send + Sync {
    /// Takes the turn at reading for `lasts`, if a round is due or under way and nobody else has it. Who has it takes it
    /// anew.
    async fn take(&self, holder: Holder, lasts: Duration) -> Result<Option<Turn>, Error>;

    /// Files the page that was read as `turn` said, and holds for `lasts` more, or lets go at the end of a round. Returns
    /// false, and changes nothing, if somebody else has taken the turn or the page was filed before.
    ///
    /// At the end of a round that began at the beginning, whatever was not seen in it is gone.
    async fn file(
        &self,
        holder: Holder,
        step: u64,
        changes: Vec<Change>,
        next: Next,
        lasts: Duration,
    ) -> Result<bool, Error>;

    /// Gives a turn back, for whoever asks after `pause`. Nothing if it was not the holder's.
    async fn give_back(&self, holder: Holder, pause: Duration) -> Result<(), Error>;

    /// Which devices changed after a step; at most `limit` are told.
    async fn changed(&self, after: u64, limit: usize) -> Result<Changed, Error>;

    /// How it stands.
    async fn standing(&self) -> Result<Standing, Error>;

    /// At most `limit` devices ordered by id, after `after`. Of a device with several objects the record is an error.
    async fn devices(&self, after: Option<DeviceId>, limit: usize) -> Result<Vec<Listed>, Error>;
}

/// An object as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its device id, if it has one that can be read.
    pub device: Option<DeviceId>,
    /// Its properties, as JSON.
    pub record: String,
    /// Whether it was deleted.
    pub gone: bool,
}

/// An object that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// It.
    pub entry: Entry,
    /// Whether it is not what it was.
    pub differs: bool,
}

/// The objects that a page is about.
pub fn objects(changes: &[Change]) -> Vec<ObjectId> {
    let mut objects: Vec<ObjectId> = changes.iter().map(Change::object).collect();
    objects.sort_unstable();
    objects.dedup();
    objects
}

/// What is to be stored after a page, given what is there of its objects. The feed may tell anything again; the last it
/// says of an object counts. A deleted object that was never there is not stored.
pub fn filed(found: &BTreeMap<ObjectId, Entry>, changes: Vec<Change>) -> BTreeMap<ObjectId, Write> {
    let mut entries: BTreeMap<ObjectId, Entry> = BTreeMap::new();
    for change in changes {
        let object = change.object();
        let old = entries.remove(&object).or_else(|| found.get(&object).cloned());
        let new = match (change, old) {
            (Change::Gone(_), None) => continue,
            (Change::Gone(_), Some(old)) => Entry { gone: true, ..old },
            (Change::Seen(_, properties), old) => merged(old, properties),
        };
        entries.insert(object, new);
    }
    let write = |(object, entry)| (object, Write { differs: found.get(&object) != Some(&entry), entry });
    entries.into_iter().map(write).collect()
}

/// An object deleted before comes back as it is told now, and not as it was.
fn merged(old: Option<Entry>, properties: Map<String, Value>) -> Entry {
    let before = old.filter(|old| !old.gone).and_then(|old| serde_json::from_str(&old.record).ok());
    let mut record: Map<String, Value> = before.unwrap_or_default();
    record.extend(properties.into_iter().filter(|(name, _)| KEPT.contains(&name.as_str())));
    if let Some(Value::String(id)) = record.get_mut("deviceId") {
        id.make_ascii_lowercase();
    }
    let device = record.get("deviceId").and_then(Value::as_str).and_then(|id| id.parse().ok());
    Entry { device, record: Value::Object(record).to_string(), gone: false }
}

/// A device in a list, from the record of one of its objects and how many it has.
///
/// # Errors
/// What is wrong with the record, in words, if it is not the one of this device.
pub fn listed(device: DeviceId, record: &str, objects: u64) -> Result<DeviceRecord, String> {
    if objects != 1 {
        return Err(format!("the directory has {objects} records of device {device}"));
    }
    let read: DeviceRecord = serde_json::from_str(record).map_err(|error| error.to_string())?;
    if read.device_id != device {
        return Err(format!("it names device {}", read.device_id));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(object: u8, properties: &Value) -> Change {
        let Value::Object(map) = properties else { panic!("an object") };
        Change::Seen(ObjectId::from_bytes([object; 16]), map.clone())
    }

    #[test]
    fn what_a_page_does_not_say_stays() {
        let id = "3F6A1C2E-0B1D-4C55-9A77-5D1F0C9B2E11";
        let first =
            vec![seen(1, &json!({"deviceId": id, "displayName": "A", "accountEnabled": true, "x": 1}))];
        let written = filed(&BTreeMap::new(), first.clone());
        let one = &written[&ObjectId::from_bytes([1; 16])];
        assert!(one.differs && one.entry.device.is_some() && !one.entry.record.contains("\"x\""));
        let found: BTreeMap<_, _> =
            written.iter().map(|(object, write)| (*object, write.entry.clone())).collect();
        assert!(!filed(&found, first)[&ObjectId::from_bytes([1; 16])].differs, "told again");

        let off = filed(&found, vec![seen(1, &json!({"accountEnabled": false}))]);
        let off = &off[&ObjectId::from_bytes([1; 16])];
        let record = listed(off.entry.device.unwrap(), &off.entry.record, 1).unwrap();
        assert!(off.differs);
        assert_eq!((record.account_enabled, record.display_name.as_deref()), (Some(false), Some("A")));
        let null = filed(&found, vec![seen(1, &json!({"displayName": null}))]);
        let null = &null[&ObjectId::from_bytes([1; 16])].entry;
        assert_eq!(listed(null.device.unwrap(), &null.record, 1).unwrap().display_name, None);
        assert!(listed(null.device.unwrap(), &null.record, 2).is_err());
    }

    #[test]
    fn the_last_word_of_a_page_counts() {
        let object = ObjectId::from_bytes([1; 16]);
        let id = "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11";
        let changes = vec![
            seen(1, &json!({"deviceId": id, "displayName": "A"})),
            Change::Gone(object),
            seen(1, &json!({})),
        ];
        let write = filed(&BTreeMap::new(), changes)[&object].clone();
        assert_eq!((write.entry.gone, write.entry.device), (false, None), "deleted, and back without an id");
        assert!(filed(&BTreeMap::new(), vec![Change::Gone(object)]).is_empty());
    }
}
