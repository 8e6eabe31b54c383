//! Columns and the types they stand for.

use keyturn_domain::ids::{DeviceId, LaneId, RequestId, VersionId};
use keyturn_domain::time::UnixMillis;
use keyturn_ports::queue::QueueName;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::failure::Failure;

/// A point in time as a column. The saturation lies 292 million years ahead.
pub(crate) fn to_column(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A span as a column, in milliseconds.
pub(crate) fn span(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// A `LIMIT`, or any other count.
pub(crate) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A number that is counted up, as a column.
pub(crate) fn place(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// How many there are.
pub(crate) fn length<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// The number by which the tables know a queue.
pub(crate) fn queue_code(queue: QueueName) -> i16 {
    match queue {
        QueueName::Requests => 1,
        QueueName::Findings => 2,
        QueueName::Outcomes => 3,
        QueueName::Alarms => 4,
    }
}

/// A text that PostgreSQL can hold: it has no place for the character NUL, and one in an error text must not keep a
/// message from being settled.
pub(crate) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A text as it is compared where case does not count.
pub(crate) fn folded(wanted: &str) -> String {
    text(wanted).to_lowercase()
}

/// A column of any type.
pub(crate) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, Failure> {
    Ok(row.try_get(at)?)
}

/// A point in time.
pub(crate) fn time(row: &Row, at: usize) -> Result<UnixMillis, Failure> {
    number(row, at).map(UnixMillis)
}

/// A point in time that may not have come.
pub(crate) fn optional_time(row: &Row, at: usize) -> Result<Option<UnixMillis>, Failure> {
    column::<Option<i64>>(row, at)?.is_some().then(|| time(row, at)).transpose()
}

/// A number that is never negative.
pub(crate) fn number<T: TryFrom<i64>>(row: &Row, at: usize) -> Result<T, Failure> {
    let stored: i64 = column(row, at)?;
    T::try_from(stored).map_err(|_| Failure::corrupt("a number", format!("{stored} is out of range")))
}

/// A text that is kept byte for byte.
pub(crate) fn bytes_as_text(row: &Row, at: usize) -> Result<String, Failure> {
    String::from_utf8(column(row, at)?).map_err(|error| Failure::corrupt("a text", error))
}

/// A queue.
pub(crate) fn queue(row: &Row, at: usize) -> Result<QueueName, Failure> {
    let code: i16 = column(row, at)?;
    let named = QueueName::ALL.into_iter().find(|queue| queue_code(*queue) == code);
    named.ok_or_else(|| Failure::corrupt("the name of a queue", format!("{code} is none")))
}

/// A device id.
pub(crate) fn device(row: &Row, at: usize) -> Result<DeviceId, Failure> {
    identifier(row, at, |bytes| bytes.try_into().ok().map(DeviceId::from_bytes))
}

/// A request id.
pub(crate) fn request(row: &Row, at: usize) -> Result<RequestId, Failure> {
    identifier(row, at, RequestId::from_slice)
}

/// A lane id.
pub(crate) fn lane(row: &Row, at: usize) -> Result<LaneId, Failure> {
    identifier(row, at, LaneId::from_slice)
}

/// A version id.
pub(crate) fn version(row: &Row, at: usize) -> Result<VersionId, Failure> {
    identifier(row, at, VersionId::from_slice)
}

/// An identifier of a fixed length.
pub(crate) fn identifier<T>(row: &Row, at: usize, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, Failure> {
    read(column(row, at)?).ok_or_else(|| Failure::corrupt("an identifier", "it has another length"))
}
