//! Columns and the types they stand for.

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::QueueName;
use rusqlite::types::Type;
use rusqlite::{Result, Row};

/// A point in time as a column. SQLite's integers are signed; the saturation lies 292 million years ahead.
pub(crate) fn to_column(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A `LIMIT`, or any other count.
pub(crate) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// How many there are.
pub(crate) fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// The number by which the tables know a queue; the table `queue_counters` has the names beside them.
pub(crate) fn queue_code(queue: QueueName) -> i64 {
    match queue {
        QueueName::Requests => 1,
        QueueName::Findings => 2,
        QueueName::Outcomes => 3,
        QueueName::Alarms => 4,
    }
}

/// A point in time.
pub(crate) fn time(row: &Row<'_>, at: usize) -> Result<UnixMillis> {
    number(row, at).map(UnixMillis)
}

/// A number that is never negative.
pub(crate) fn number<T: TryFrom<i64>>(row: &Row<'_>, at: usize) -> Result<T> {
    let stored: i64 = row.get(at)?;
    T::try_from(stored).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, stored))
}

/// A queue.
pub(crate) fn queue(row: &Row<'_>, at: usize) -> Result<QueueName> {
    let code: i64 = row.get(at)?;
    let named = QueueName::ALL.into_iter().find(|queue| queue_code(*queue) == code);
    named.ok_or(rusqlite::Error::IntegralValueOutOfRange(at, code))
}

/// A device id.
pub(crate) fn device(row: &Row<'_>, at: usize) -> Result<DeviceId> {
    identifier(row, at, |bytes| bytes.try_into().ok().map(DeviceId::from_bytes))
}

/// A request id.
pub(crate) fn request(row: &Row<'_>, at: usize) -> Result<RequestId> {
    identifier(row, at, RequestId::from_slice)
}

/// A lane id.
pub(crate) fn lane(row: &Row<'_>, at: usize) -> Result<LaneId> {
    identifier(row, at, LaneId::from_slice)
}

/// A version id.
pub(crate) fn version(row: &Row<'_>, at: usize) -> Result<VersionId> {
    identifier(row, at, VersionId::from_slice)
}

fn identifier<T>(row: &Row<'_>, at: usize, read: impl Fn(&[u8]) -> Option<T>) -> Result<T> {
    read(row.get_ref(at)?.as_blob()?).ok_or_else(|| {
        rusqlite::Error::InvalidColumnType(at, "an identifier of another length".to_owned(), Type::Blob)
    })
}

/// A text as it is compared where case does not count.
pub(crate) fn folded(text: &str) -> String {
    text.to_lowercase()
}
