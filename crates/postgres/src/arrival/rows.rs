//! Rows on their way: from the form that both engines have to this one's, and back.

use keyturn_domain::time::UnixMillis;
use keyturn_ports::moving::{Column, Holds, Page, Row, Standing, Table, Value};
use keyturn_ports::queue::QueueName;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::failure::Failure;
use crate::pool::Session;
use crate::rows;

/// A failed attempt, as the tables have it.
#[derive(Serialize, Deserialize)]
struct Attempt {
    at: UnixMillis,
    error: String,
}

/// A column of many rows.
enum Values {
    Numbers(Vec<Option<i64>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Texts(Vec<Option<String>>),
}

impl Values {
    fn of(holds: Holds) -> Self {
        match holds {
            Holds::Number => Self::Numbers(Vec::new()),
            Holds::Bytes => Self::Bytes(Vec::new()),
            Holds::Text | Holds::Hashed | Holds::Attempts => Self::Texts(Vec::new()),
        }
    }

    fn push(&mut self, value: &Value) -> Result<(), Failure> {
        match (self, value) {
            (Self::Numbers(all), Value::Null) => all.push(None),
            (Self::Numbers(all), Value::Number(number)) => all.push(Some(*number)),
            (Self::Bytes(all), Value::Null) => all.push(None),
            (Self::Bytes(all), Value::Bytes(bytes)) => all.push(Some(bytes.clone())),
            (Self::Texts(all), Value::Null) => all.push(None),
            (Self::Texts(all), Value::Text(text)) => all.push(Some(text.clone())),
            (Self::Texts(all), Value::Attempts(attempts)) => all.push(Some(json(attempts)?)),
            _ => {
                return Err(Failure::corrupt(
                    "what moves here",
                    "a value is of another kind than its column",
                ));
            }
        }
        Ok(())
    }

    fn param(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Numbers(all) => all,
            Self::Bytes(all) => all,
            Self::Texts(all) => all,
        }
    }
}

fn json(attempts: &[(u64, String)]) -> Result<String, Failure> {
    let attempt = |(at, error): &(u64, String)| Attempt { at: UnixMillis(*at), error: error.clone() };
    let attempts: Vec<Attempt> = attempts.iter().map(attempt).collect();
    serde_json::to_string(&attempts).map_err(|error| Failure::corrupt("a message's attempts", error))
}

/// The type of a column's values on their way.
fn kind(holds: Holds) -> &'static str {
    match holds {
        Holds::Number => "bigint",
        Holds::Bytes => "bytea",
        Holds::Text | Holds::Hashed | Holds::Attempts => "text",
    }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Stores rows in their order, under their own numbers.
pub(super) async fn insert(client: &Client, table: Table, given: &[Row]) -> Result<(), Failure> {
    let columns = table.columns();
    let mut values: Vec<Values> = columns.iter().map(|(_, holds)| Values::of(*holds)).collect();
    for row in given {
        if row.len() != columns.len() {
            return Err(Failure::corrupt("what moves here", "a row has another number of columns"));
        }
        for (value, column) in row.iter().zip(&mut values) {
            column.push(value)?;
        }
    }
    let arrays = columns.iter().enumerate();
    let arrays = arrays.map(|(at, (_, holds))| format!("${}::{}[]", at + 1, kind(*holds)));
    let selected = columns.iter().map(|(name, holds)| match holds {
        Holds::Attempts => format!("g.{name}::jsonb"),
        _ => format!("g.{name}"),
    });
    let sql = format!(
        "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {selected} \
         FROM unnest({arrays}) WITH ORDINALITY AS g ({names}, ordinal) ORDER BY g.ordinal",
        table = table.name(),
        names = names(columns),
        selected = selected.collect::<Vec<_>>().join(", "),
        arrays = arrays.collect::<Vec<_>>().join(", "),
    );
    let params: Vec<&(dyn ToSql + Sync)> = values.iter().map(Values::param).collect();
    client.execute(&sql, &params).await?;
    Ok(())
}

/// At most `limit` rows after the one at this place.
pub(super) async fn page(
    client: &Client,
    table: Table,
    after: Option<&Row>,
    limit: u32,
) -> Result<Page, Failure> {
    let (columns, key) = (table.columns(), table.key());
    let by = names(key);
    let mut bounds: Vec<Values> = key.iter().map(|(_, holds)| Values::of(*holds)).collect();
    let mut only = String::new();
    if let Some(after) = after {
        after.iter().zip(&mut bounds).try_for_each(|(value, bound)| bound.push(value))?;
        let places = key.iter().enumerate();
        let places: Vec<String> =
            places.map(|(at, (_, holds))| format!("(${}::{}[])[1]", at + 1, kind(*holds))).collect();
        only = format!("WHERE ({by}) > ({})", places.join(", "));
    }
    let read = |(name, holds): &Column| match holds {
        Holds::Number => format!("{name}::bigint"),
        Holds::Attempts => format!("{name}::text"),
        Holds::Bytes | Holds::Text | Holds::Hashed => (*name).to_owned(),
    };
    let read: Vec<String> = columns.iter().chain(key).map(read).collect();
    let sql = format!("SELECT {} FROM {} {only} ORDER BY {by} LIMIT {limit}", read.join(", "), table.name());
    let params: Vec<&(dyn ToSql + Sync)> = match after {
        Some(_) => bounds.iter().map(Values::param).collect(),
        None => Vec::new(),
    };
    let mut page = Page::default();
    for row in client.query(&sql, &params).await? {
        let all = columns.iter().chain(key).enumerate();
        let mut values: Row =
            all.map(|(at, (_, holds))| value(&row, at, *holds)).collect::<Result<_, Failure>>()?;
        page.last = Some(values.split_off(columns.len()));
        page.rows.push(values);
    }
    Ok(page)
}

fn value(row: &tokio_postgres::Row, at: usize, holds: Holds) -> Result<Value, Failure> {
    let found = match holds {
        Holds::Number => rows::column::<Option<i64>>(row, at)?.map(Value::Number),
        Holds::Bytes => rows::column::<Option<Vec<u8>>>(row, at)?.map(Value::Bytes),
        Holds::Text | Holds::Hashed => rows::column::<Option<String>>(row, at)?.map(Value::Text),
        Holds::Attempts => rows::column::<Option<&str>>(row, at)?.map(attempts).transpose()?,
    };
    Ok(found.unwrap_or(Value::Null))
}

fn attempts(text: &str) -> Result<Value, Failure> {
    let attempts: Vec<Attempt> =
        serde_json::from_str(text).map_err(|error| Failure::corrupt("a message's attempts", error))?;
    Ok(Value::Attempts(attempts.into_iter().map(|Attempt { at, error }| (at.0, error)).collect()))
}

/// The first table that has a row.
pub(super) async fn occupied(session: &Session) -> Result<Option<Table>, Failure> {
    for table in Table::ALL {
        let sql = format!("SELECT EXISTS (SELECT FROM {})", table.name());
        if session.client().query_one(&sql, &[]).await?.try_get(0)? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// The sequences that give numbers, and what they are to go on from.
fn numbers(standing: &Standing) -> [(&'static str, i64); 6] {
    let Standing { sent, dead_letters, letter_jobs, rotation_jobs, events, versions, .. } = *standing;
    [
        // One for all queues.
        ("messages_id_seq", sent.into_iter().max().unwrap_or(0)),
        ("dead_letters_id_seq", dead_letters),
        ("letter_jobs_id_seq", letter_jobs),
        ("rotation_jobs_id_seq", rotation_jobs),
        ("events_id_seq", events),
        ("vault_versions_id_seq", versions),
    ]
}

/// Sets sequences, the counters of the queues, and the generation. May be done again.
pub(super) async fn settle(client: &Client, standing: &Standing) -> Result<(), Failure> {
    for (name, last) in numbers(standing).into_iter().filter(|(_, last)| *last > 0) {
        client.execute(&format!("SELECT setval('{name}', $1)"), &[&last]).await?;
    }
    client.execute("UPDATE queue_counters SET total = 0, dead = 0, sent = 0", &[]).await?;
    let count = "UPDATE queue_counters SET total = (SELECT count(*) FROM messages WHERE queue = $1), \
                 dead = (SELECT count(*) FROM dead_letters WHERE queue = $1), sent = $2 \
                 WHERE queue = $1 AND slot = 0";
    for (queue, sent) in QueueName::ALL.into_iter().zip(standing.sent) {
        client.execute(count, &[&rows::queue_code(queue), &sent]).await?;
    }
    for (stream, place) in (1_i16..).zip(standing.shipped) {
        let shipped = "UPDATE shipped SET place = $2, holder = NULL, held_until = 0 WHERE stream = $1";
        client.execute(shipped, &[&stream, &place]).await?;
    }
    let generation = "UPDATE epoch SET generation = $1, restored_at = $2";
    client.execute(generation, &[&standing.generation, &standing.restored_at]).await?;
    Ok(())
}

/// What is set, as the server says it.
pub(super) async fn standing(client: &Client) -> Result<Standing, Failure> {
    let row = client.query_one("SELECT generation, restored_at FROM epoch", &[]).await?;
    let mut standing = Standing {
        generation: rows::column(&row, 0)?,
        restored_at: rows::column(&row, 1)?,
        dead_letters: number(client, "dead_letters_id_seq").await?,
        letter_jobs: number(client, "letter_jobs_id_seq").await?,
        rotation_jobs: number(client, "rotation_jobs_id_seq").await?,
        events: number(client, "events_id_seq").await?,
        versions: number(client, "vault_versions_id_seq").await?,
        ..Standing::default()
    };
    for (stream, place) in (1_i16..).zip(&mut standing.shipped) {
        let shipped = "SELECT place::bigint FROM shipped WHERE stream = $1";
        *place = rows::column(&client.query_one(shipped, &[&stream]).await?, 0)?;
    }
    let sum = "SELECT sum(sent)::bigint FROM queue_counters WHERE queue = $1";
    for (queue, sent) in QueueName::ALL.into_iter().zip(&mut standing.sent) {
        *sent = rows::column(&client.query_one(sum, &[&rows::queue_code(queue)]).await?, 0)?;
    }
    Ok(standing)
}

async fn number(client: &Client, sequence: &str) -> Result<i64, Failure> {
    let sql = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}");
    rows::column(&client.query_one(&sql, &[]).await?, 0)
}

/// Which releases may use the database from now on.
pub(super) fn compatible_from(schema: i64) -> String {
    format!("UPDATE meta SET value = {schema} WHERE key = 'compatible_from'")
}
