//! Rows on their way: as this engine has them, in the form that both have.

use keyturn_ports::moving::{Column, Holds, Page, Row, Standing, Table, Value};
use keyturn_ports::queue::QueueName;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ToSql, params_from_iter};
use serde::Deserialize;

use crate::failure::Failure;
use crate::rows;

/// Messages and what is held of them. Those that nobody had yet are visible since they were sent.
const MESSAGES: &str = "SELECT {code} AS queue, m.id, coalesce(h.visible_at, m.enqueued_at) AS visible_at, \
 m.enqueued_at, coalesce(h.deliveries, 0) AS deliveries, h.lease, m.request, m.device, m.body, \
 (SELECT json_group_array(json_object('at', failed_at, 'error', error) ORDER BY attempt) FROM queue_attempts \
  WHERE queue = {code} AND message = m.id) AS attempts \
 FROM queue_{name} AS m LEFT JOIN held_{name} AS h ON h.id = m.id";

/// At most `limit` rows after the one that is found by `after`.
pub(super) fn page(
    connection: &Connection,
    table: Table,
    after: Option<&Row>,
    limit: u32,
) -> Result<Page, Failure> {
    if table == Table::Messages {
        return messages(connection, after, limit);
    }
    select(connection, table, table.name(), after, limit)
}

/// The queues one after the other: each is a table of its own.
fn messages(connection: &Connection, after: Option<&Row>, limit: u32) -> Result<Page, Failure> {
    let (begun, passed) = match after.map(Vec::as_slice) {
        Some([Value::Number(code), Value::Number(id)]) => (*code, *id),
        _ => (0, i64::MIN),
    };
    let mut page = Page::default();
    for queue in QueueName::ALL.into_iter().filter(|queue| rows::queue_code(*queue) >= begun) {
        let code = rows::queue_code(queue);
        let passed = if code == begun { passed } else { i64::MIN };
        let room = limit.saturating_sub(u32::try_from(page.rows.len()).unwrap_or(limit));
        let source = MESSAGES.replace("{code}", &code.to_string()).replace("{name}", queue.as_str());
        // Bounded within, where the number is the row's own.
        let source = format!("({source} WHERE m.id > {passed} ORDER BY m.id LIMIT {room})");
        let more = select(connection, Table::Messages, &source, None, room)?;
        page.rows.extend(more.rows);
        page.last = more.last.or(page.last);
    }
    Ok(page)
}

fn select(
    connection: &Connection,
    table: Table,
    source: &str,
    after: Option<&Row>,
    limit: u32,
) -> Result<Page, Failure> {
    let (columns, key) = (table.columns(), table.key());
    let by = names(key);
    let (mut bound, mut only) = (vec![Bound::Number(i64::from(limit))], String::new());
    if let Some(after) = after {
        let places: Vec<String> = (2..key.len() + 2).map(|place| format!("?{place}")).collect();
        only = format!("WHERE ({by}) > ({})", places.join(", "));
        bound.extend(after.iter().map(Bound::of));
    }
    let sql = format!("SELECT {}, {by} FROM {source} {only} ORDER BY {by} LIMIT ?1", names(columns));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(bound))?;
    let mut page = Page::default();
    while let Some(row) = found.next()? {
        let read = |(place, column): (usize, &Column)| value(table, *column, row.get_ref(place)?);
        let all: Vec<&Column> = columns.iter().chain(key).collect();
        let mut values: Row = all.into_iter().enumerate().map(read).collect::<Result<_, Failure>>()?;
        page.last = Some(values.split_off(columns.len()));
        page.rows.push(values);
    }
    Ok(page)
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// A part of a key, for a statement.
enum Bound {
    Number(i64),
    Bytes(Vec<u8>),
}

impl Bound {
    fn of(value: &Value) -> Self {
        match value {
            Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Value::Number(number) => Self::Number(*number),
            // No key has any of these.
            Value::Null | Value::Text(_) | Value::Attempts(_) => Self::Number(i64::MAX),
        }
    }
}

impl ToSql for Bound {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Number(number) => number.to_sql(),
            Self::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

#[derive(Deserialize)]
struct Attempt {
    at: u64,
    error: String,
}

fn value(table: Table, (name, holds): Column, found: ValueRef<'_>) -> Result<Value, Failure> {
    let corrupt = |why: String| Failure::corrupt(format!("{}.{name}", table.name()), why);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|error| corrupt(error.to_string()));
    match (holds, found) {
        (_, ValueRef::Null) => Ok(Value::Null),
        (Holds::Number, ValueRef::Integer(number)) => Ok(Value::Number(number)),
        (Holds::Bytes, ValueRef::Blob(bytes) | ValueRef::Text(bytes)) => Ok(Value::Bytes(bytes.to_vec())),
        (Holds::Text, ValueRef::Text(bytes)) => Ok(Value::Text(without_nul(&text(bytes)?))),
        (Holds::Hashed, ValueRef::Text(bytes)) => match text(bytes)? {
            text if text.contains('\0') => {
                Err(corrupt("it holds the character NUL, which no other engine can keep".to_owned()))
            }
            text => Ok(Value::Text(text)),
        },
        (Holds::Attempts, ValueRef::Text(bytes)) => {
            let attempts: Vec<Attempt> =
                serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
            let attempt = |Attempt { at, error }| (at, without_nul(&error));
            Ok(Value::Attempts(attempts.into_iter().map(attempt).collect()))
        }
        (_, other) => Err(corrupt(format!("it is a {}", other.data_type()))),
    }
}

/// As engines that cannot hold a NUL store such a text.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// How many rows there are.
pub(super) fn count(connection: &Connection, table: Table) -> Result<u64, Failure> {
    let count = |name: &str| -> Result<u64, Failure> {
        let sql = format!("SELECT count(*) FROM {name}");
        Ok(connection.query_row(&sql, [], |row| rows::number(row, 0))?)
    };
    if table != Table::Messages {
        return count(table.name());
    }
    QueueName::ALL.into_iter().map(|queue| count(&format!("queue_{}", queue.as_str()))).sum()
}

/// What there is beside rows.
pub(super) fn standing(connection: &Connection) -> Result<Standing, Failure> {
    let number = |sql: &str| -> Result<i64, Failure> { Ok(connection.query_row(sql, [], |row| row.get(0))?) };
    let given = |table: &str| {
        number(&format!(
            "SELECT max((SELECT coalesce(max(id), 0) FROM {table}), \
             coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0))"
        ))
    };
    let mut standing = Standing {
        generation: number("SELECT generation FROM epoch")?,
        restored_at: connection.query_row("SELECT restored_at FROM epoch", [], |row| row.get(0))?,
        sent: [0; 4],
        dead_letters: given("dead_letters")?,
        letter_jobs: given("letter_jobs")?,
        rotation_jobs: given("rotation_jobs")?,
        events: number(
            "SELECT max((SELECT coalesce(max(id), 0) FROM events), (SELECT coalesce(max(event), 0) FROM lanes))",
        )?,
        versions: number("SELECT coalesce(max(id), 0) FROM vault_versions")?,
        shipped: [
            number("SELECT place FROM shipped WHERE stream = 1")?,
            number("SELECT place FROM shipped WHERE stream = 2")?,
        ],
    };
    for (queue, sent) in QueueName::ALL.into_iter().zip(&mut standing.sent) {
        let (code, name) = (rows::queue_code(queue), queue.as_str());
        *sent = number(&format!(
            "SELECT max(taken, coalesce((SELECT max(id) FROM queue_{name}), 0)) FROM queue_counters \
             WHERE queue = {code}"
        ))?;
    }
    Ok(standing)
}
