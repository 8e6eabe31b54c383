//! The audit: rows in a chain of hashes, in a table whose triggers abort every change. The chain is that of
//! [`keyturn_ports::audit::chain`]. Of all processes one appends at a time.

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_ports::Error;
use keyturn_ports::audit::chain::{self, Hash, START};
use keyturn_ports::audit::{Action, AuditSink, NewRow, Row, Verified};

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;
use crate::schema::locks;

/// How many rows are read at once when the chain is checked.
const PAGE: i64 = 1000;

macro_rules! audit {
    ($rest:literal) => {
        concat!("SELECT seq, at, actor, action, device, reason, detail, hash FROM audit ", $rest)
    };
}

const AFTER: &str = audit!("WHERE seq > $1 ORDER BY seq LIMIT $2");

#[async_trait]
impl AuditSink for Database {
    async fn append(&self, row: NewRow) -> Result<u64, Error> {
        // What is hashed has to be what is stored.
        let row = NewRow {
            actor: rows::text(&row.actor),
            reason: rows::text(&row.reason),
            detail: rows::text(&row.detail),
            ..row
        };
        self.retrying("appending to the audit", async || append(self, &row).await).await
    }

    async fn recent(&self, limit: usize) -> Result<Vec<Row>, Error> {
        self.retrying("reading the audit", async || {
            let found = self.read(audit!("ORDER BY seq DESC LIMIT $1"), &[&rows::count(limit)]).await?;
            found.iter().map(|row| stored(row)?.public()).collect()
        })
        .await
    }

    async fn after(&self, seq: u64, limit: usize) -> Result<Vec<Row>, Error> {
        self.retrying("reading the audit", async || {
            let found = self.read(AFTER, &[&rows::place(seq), &rows::count(limit)]).await?;
            found.iter().map(|row| stored(row)?.public()).collect()
        })
        .await
    }

    async fn verify(&self) -> Result<Verified, Error> {
        self.retrying("checking the audit", async || verify(self).await).await
    }
}

async fn append(database: &Database, row: &NewRow) -> Result<u64, Failure> {
    let action = word(row.action)?;
    // The look comes after the lock, in a statement and so with a view of its own.
    let lock = "SELECT pg_advisory_xact_lock($1)";
    let newest = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
    let (work, found) = database.begin(Mode::Told, &[(lock, &[&locks::AUDIT]), (newest, &[])]).await?;
    let last = found.get(1).and_then(|rows| rows.first());
    let last = match last.map(|row| Ok((rows::number::<u64>(row, 0)?, hash(row, 1)?))).transpose() {
        Ok(last) => last,
        Err(failure) => return Err(work.undo(failure).await),
    };
    let (seq, previous) = last.map_or((1, START), |(seq, hash)| (seq.saturating_add(1), hash));
    let hash = chain::link(&previous, seq, row, &action);
    let device = row.device.as_ref().map(|device| device.as_bytes().as_slice());
    let params: [Param<'_>; 8] = [
        &rows::place(seq),
        &rows::to_column(row.at),
        &row.actor,
        &action,
        &device,
        &row.reason,
        &row.detail,
        &hash.as_slice(),
    ];
    let sql = "INSERT INTO audit (seq, at, actor, action, device, reason, detail, hash) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    work.commit(&[(sql, &params)]).await?;
    Ok(seq)
}

/// Walks the chain from its start, a page at a time. A row that cannot be read breaks it like one that was altered.
async fn verify(database: &Database) -> Result<Verified, Failure> {
    let (mut previous, mut seq) = (START, 0);
    loop {
        // By what is in the column and not by what should be: a row with a number out of place is met too.
        let page =
            database.read(audit!("ORDER BY seq LIMIT $1 OFFSET $2"), &[&PAGE, &rows::place(seq)]).await?;
        if page.is_empty() {
            return Ok(Verified::Intact { rows: seq });
        }
        for row in &page {
            seq += 1;
            match stored(row).and_then(|stored| stored.follows(&previous, seq)) {
                Ok(Some(hash)) => previous = hash,
                Ok(None) | Err(_) => return Ok(Verified::Broken { seq }),
            }
        }
    }
}

/// A row as the table has it.
struct Stored {
    row: Row,
    action: String,
    hash: Hash,
}

fn stored(row: &tokio_postgres::Row) -> Result<Stored, Failure> {
    let device: Option<&[u8]> = rows::column(row, 4)?;
    let device: Option<DeviceId> = device.is_some().then(|| rows::device(row, 4)).transpose()?;
    let new = NewRow {
        at: rows::time(row, 1)?,
        actor: rows::column(row, 2)?,
        action: Action::SecretGet,
        device,
        reason: rows::column(row, 5)?,
        detail: rows::column(row, 6)?,
    };
    let hash = hash(row, 7)?;
    let row_of = Row { seq: rows::number(row, 0)?, row: new, hash: chain::hexadecimal(&hash) };
    Ok(Stored { row: row_of, action: rows::column(row, 3)?, hash })
}

fn hash(row: &tokio_postgres::Row, at: usize) -> Result<Hash, Failure> {
    rows::identifier(row, at, |bytes| bytes.try_into().ok())
}

impl Stored {
    /// Its hash, if that is the one a row at this place after `previous` must have.
    fn follows(self, previous: &Hash, seq: u64) -> Result<Option<Hash>, Failure> {
        let (hash, action) = (self.hash, self.action.clone());
        let row = self.public()?;
        let holds = row.seq == seq && chain::link(previous, seq, &row.row, &action) == hash;
        Ok(holds.then_some(hash))
    }

    fn public(self) -> Result<Row, Failure> {
        let Self { mut row, action, .. } = self;
        row.row.action = serde_json::from_value(action.into())
            .map_err(|error: serde_json::Error| Failure::corrupt(format!("audit row {}", row.seq), error))?;
        Ok(row)
    }
}

/// An action as the table has it: the word the port's type is serialised as.
fn word(action: Action) -> Result<String, Failure> {
    match serde_json::to_value(action) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        other => Err(Failure::corrupt("an audit action", format!("{other:?} is no word"))),
    }
}
