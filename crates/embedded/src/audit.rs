//! The audit: rows in a chain of hashes, in a table whose triggers abort every change.
//! The chain is that of [`keyturn_ports::audit::chain`].

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::Error;
use keyturn_ports::audit::chain::{self, Hash, START};
use keyturn_ports::audit::{Action, AuditSink, NewRow, Row, Verified, Wanted};
use rusqlite::{Connection, OptionalExtension as _};

use crate::batch::Batch;
use crate::database::Database;
use crate::failure::Failure;
use crate::rows;
use crate::writer::Durability;

macro_rules! audit {
    ($rest:literal) => {
        concat!("SELECT seq, at, actor, action, device, reason, detail, hash FROM audit ", $rest)
    };
}

#[async_trait]
impl AuditSink for Database {
    async fn append(&self, row: NewRow) -> Result<u64, Error> {
        let append = move |batch: &mut Batch<'_>| append(batch, &row);
        self.write("appending to the audit", Durability::Told, append).await
    }

    async fn probe(&self, row: NewRow) -> Result<(), Error> {
        let probe = move |batch: &mut Batch<'_>| {
            batch.execute("SAVEPOINT probe", ())?;
            let appended = append(batch, &row);
            batch.execute("ROLLBACK TO probe", ())?;
            batch.execute("RELEASE probe", ())?;
            appended.map(drop)
        };
        self.write("trying the audit", Durability::Internal, probe).await
    }

    async fn select(&self, wanted: Wanted, limit: usize) -> Result<Vec<Row>, Error> {
        self.read("reading the audit", move |connection| select(connection, &wanted, limit)).await
    }

    async fn after(&self, seq: u64, limit: usize) -> Result<Vec<Row>, Error> {
        let seq = i64::try_from(seq).unwrap_or(i64::MAX);
        self.read("reading the audit", move |connection| {
            let mut statement = connection.prepare_cached(audit!("WHERE seq > ?1 ORDER BY seq LIMIT ?2"))?;
            let found = statement.query_map((seq, rows::count(limit)), stored)?;
            found.map(|row| Ok(row?.public())).collect()
        })
        .await
    }

    async fn verify(&self) -> Result<Verified, Error> {
        self.read("checking the audit", verify).await
    }
}

/// The actions come as a list in JSON, so that there is one statement however many they are.
const WANTED: &str = audit!(
    "WHERE (?1 IS NULL OR device = ?1) \
     AND (?2 IS NULL OR action IN (SELECT value FROM json_each(?2))) \
     AND (?3 IS NULL OR instr(lower(actor), lower(?3)) > 0) \
     AND (?4 IS NULL OR instr(detail, ?4) > 0) \
     AND at >= ?5 ORDER BY seq DESC LIMIT ?6"
);

fn select(connection: &Connection, wanted: &Wanted, limit: usize) -> Result<Vec<Row>, Failure> {
    let Wanted { device, actions, actor, detail, since } = wanted;
    let words: Vec<&str> = actions.iter().map(Action::as_str).collect();
    let words = (!words.is_empty()).then(|| serde_json::Value::from(words).to_string());
    let mut statement = connection.prepare_cached(WANTED)?;
    let found = statement.query_map(
        (
            device.as_ref().map(DeviceId::as_bytes),
            words,
            actor,
            detail,
            rows::to_column(since.unwrap_or(UnixMillis(0))),
            rows::count(limit),
        ),
        stored,
    )?;
    found.map(|row| Ok(row?.public())).collect()
}

/// Appends a row in a transaction that does what it records.
pub(crate) fn append(batch: &Batch<'_>, row: &NewRow) -> Result<u64, Failure> {
    let last = batch
        .prepare("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")?
        .query_row([], |row| Ok((rows::number::<u64>(row, 0)?, row.get::<_, Hash>(1)?)))
        .optional()?;
    let (seq, previous) = last.map_or((1, START), |(seq, hash)| (seq.saturating_add(1), hash));
    let action = row.action.recordable().ok_or_else(|| unknown(&row.action))?;
    let hash = chain::link(&previous, seq, row, action);
    batch.execute(
        "INSERT INTO audit (seq, at, actor, action, device, reason, detail, hash) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        (
            i64::try_from(seq).unwrap_or(i64::MAX),
            rows::to_column(row.at),
            &row.actor,
            action,
            row.device.as_ref().map(DeviceId::as_bytes),
            &row.reason,
            &row.detail,
            hash,
        ),
    )?;
    Ok(seq)
}

/// Walks the chain from its start. A row that cannot be read breaks it like one that was altered.
pub(crate) fn verify(connection: &Connection) -> Result<Verified, Failure> {
    let mut statement = connection.prepare_cached(audit!("ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    let (mut previous, mut seq) = (START, 0);
    while let Some(row) = rows.next()? {
        seq += 1;
        match stored(row).ok().and_then(|stored| stored.follows(&previous, seq)) {
            Some(hash) => previous = hash,
            None => return Ok(Verified::Broken { seq }),
        }
    }
    Ok(Verified::Intact { rows: seq })
}

/// A row as the table has it.
struct Stored {
    seq: u64,
    row: NewRow,
    action: String,
    hash: Hash,
}

fn stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<Stored> {
    let device = row.get_ref(4)?.as_blob_or_null()?.is_some().then(|| rows::device(row, 4)).transpose()?;
    Ok(Stored {
        seq: rows::number(row, 0)?,
        row: NewRow {
            at: UnixMillis(rows::number(row, 1)?),
            actor: row.get(2)?,
            action: Action::SecretGet,
            device,
            reason: row.get(5)?,
            detail: row.get(6)?,
        },
        action: row.get(3)?,
        hash: row.get(7)?,
    })
}

impl Stored {
    /// Its hash, if that is the one a row at this place after `previous` must have.
    fn follows(self, previous: &Hash, seq: u64) -> Option<Hash> {
        let Self { seq: place, row, action, hash } = self;
        // By the word of its action: what a later release recorded is linked like anything else.
        let holds = place == seq && chain::link(previous, seq, &row, &action) == hash;
        holds.then_some(hash)
    }

    fn public(self) -> Row {
        let row = NewRow { action: Action::of(self.action), ..self.row };
        Row { seq: self.seq, row, hash: chain::hexadecimal(&self.hash) }
    }
}

/// A row of an action that this release does not know is another release's to append.
fn unknown(action: &Action) -> Failure {
    Failure::corrupt("an audit action", format!("«{}» is none of this release's", action.as_str()))
}
