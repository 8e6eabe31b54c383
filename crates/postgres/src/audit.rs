//! The audit: rows in a chain of hashes, in a table whose triggers abort every change. The chain is that of
//! [`keyturn_ports::audit::chain`]. Of all processes one appends at a time.

use async_trait::async_trait;
use keyturn_domain::ids::DeviceId;
use keyturn_ports::Error;
use keyturn_ports::audit::chain::{self, Hash, START};
use keyturn_ports::audit::{Action, AuditSink, NewRow, Row, Verified, Wanted};

use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::pool::Session;
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

/// Of a page of a chain, however long that is, no more than the page is read: rows are found by their number.
const FROM: &str = audit!("WHERE seq >= $1 ORDER BY seq LIMIT $2");

#[async_trait]
impl AuditSink for Database {
    async fn append(&self, row: NewRow) -> Result<u64, Error> {
        self.retrying("appending to the audit", async || append(self, &row).await).await
    }

    async fn probe(&self, row: NewRow) -> Result<(), Error> {
        self.retrying("trying the audit", async || probe(self, &row).await).await
    }

    async fn select(&self, wanted: Wanted, limit: usize) -> Result<Vec<Row>, Error> {
        self.retrying("reading the audit", async || select(self, &wanted, limit).await).await
    }

    async fn after(&self, seq: u64, limit: usize) -> Result<Vec<Row>, Error> {
        self.retrying("reading the audit", async || {
            let found = self.read(AFTER, &[&rows::place(seq), &rows::count(limit)]).await?;
            found.iter().map(|row| Ok(stored(row)?.public())).collect()
        })
        .await
    }

    async fn verify(&self) -> Result<Verified, Error> {
        self.retrying("checking the audit", async || verify(self).await).await
    }
}

/// Names compare by the letters a to z alone, whatever the database's language: as with the other engine.
const WANTED: &str = audit!(
    "WHERE ($1::bytea IS NULL OR device = $1) \
     AND (cardinality($2::text[]) = 0 OR action = ANY ($2)) \
     AND ($3::text IS NULL OR strpos(lower(actor COLLATE \"C\"), lower($3 COLLATE \"C\")) > 0) \
     AND ($4::text IS NULL OR strpos(detail, $4) > 0) \
     AND at >= $5 ORDER BY seq DESC LIMIT $6"
);

async fn select(database: &Database, wanted: &Wanted, limit: usize) -> Result<Vec<Row>, Failure> {
    let device = wanted.device.as_ref().map(|device| device.as_bytes().as_slice());
    let actions: Vec<String> = wanted.actions.iter().map(|action| rows::text(action.as_str())).collect();
    let actor = wanted.actor.as_deref().map(rows::text);
    let detail = wanted.detail.as_deref().map(rows::text);
    let since = wanted.since.map_or(0, rows::to_column);
    let params: [Param<'_>; 6] = [&device, &actions, &actor, &detail, &since, &rows::count(limit)];
    let found = database.read(WANTED, &params).await?;
    found.iter().map(|row| Ok(stored(row)?.public())).collect()
}

const LOCK: &str = "SELECT pg_advisory_xact_lock($1)";

/// The look comes after the lock, in a statement and so with a view of its own.
const NEWEST: &str = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";

const APPEND: &str = "INSERT INTO audit (seq, at, actor, action, device, reason, detail, hash) \
 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

async fn append(database: &Database, row: &NewRow) -> Result<u64, Failure> {
    let (work, found) = database.begin(Mode::Told, &[(LOCK, &[&locks::AUDIT]), (NEWEST, &[])]).await?;
    match Link::after(found.get(1).map_or(&[], Vec::as_slice), row) {
        Err(failure) => Err(work.undo(failure).await),
        Ok(link) => {
            work.commit(&[(APPEND, &link.params())]).await?;
            Ok(link.seq.cast_unsigned())
        }
    }
}

/// The same without the commit.
async fn probe(database: &Database, row: &NewRow) -> Result<(), Failure> {
    let (work, _) = database.begin(Mode::Internal, &[]).await?;
    let tried = async { append_within(work.session()?, row).await }.await;
    work.roll_back().await?;
    tried
}

/// Appends a row in a transaction that does what it records. Others who append wait from here until its commit.
pub(crate) async fn append_within(session: &Session, row: &NewRow) -> Result<(), Failure> {
    let (lock, newest) = (session.prepare(LOCK).await?, session.prepare(NEWEST).await?);
    let (client, append) = (session.client(), session.prepare(APPEND).await?);
    client.query(&lock, &[&locks::AUDIT]).await?;
    let link = Link::after(&client.query(&newest, &[]).await?, row)?;
    client.query(&append, &link.params()).await?;
    Ok(())
}

/// A row with its place in the chain, as the columns of a statement.
struct Link {
    seq: i64,
    at: i64,
    actor: String,
    action: String,
    device: Option<Vec<u8>>,
    reason: String,
    detail: String,
    hash: Vec<u8>,
}

impl Link {
    /// The next link after what [`NEWEST`] found.
    fn after(found: &[tokio_postgres::Row], row: &NewRow) -> Result<Self, Failure> {
        // What is hashed has to be what is stored.
        let row = NewRow {
            actor: rows::text(&row.actor),
            reason: rows::text(&row.reason),
            detail: rows::text(&row.detail),
            ..row.clone()
        };
        let last = found
            .first()
            .map(|row| Ok::<_, Failure>((rows::number::<u64>(row, 0)?, hash(row, 1)?)))
            .transpose()?;
        let (seq, previous) = last.map_or((1, START), |(seq, hash)| (seq.saturating_add(1), hash));
        let unknown = || {
            let what = format!("«{}» is none of this release's", row.action.as_str());
            Failure::corrupt("an audit action", what)
        };
        let action = row.action.recordable().ok_or_else(unknown)?.to_owned();
        let hash = chain::link(&previous, seq, &row, &action).to_vec();
        let NewRow { at, actor, action: _, device, reason, detail } = row;
        let device = device.map(|device| device.as_bytes().to_vec());
        Ok(Self {
            seq: rows::place(seq),
            at: rows::to_column(at),
            actor,
            action,
            device,
            reason,
            detail,
            hash,
        })
    }

    fn params(&self) -> [Param<'_>; 8] {
        [&self.seq, &self.at, &self.actor, &self.action, &self.device, &self.reason, &self.detail, &self.hash]
    }
}

/// Walks the chain from its start, a page at a time. A row that cannot be read breaks it like one that was altered.
async fn verify(database: &Database) -> Result<Verified, Failure> {
    let (mut previous, mut seq) = (START, 0);
    // The number in the column, and not the one that should be there: a row with a number out of place is met too, also
    // one before the first.
    let mut from = Some(i64::MIN);
    loop {
        let page = match from {
            Some(from) => database.read(FROM, &[&from, &PAGE]).await?,
            None => Vec::new(),
        };
        let Some(last) = page.last() else { return Ok(Verified::Intact { rows: seq }) };
        from = rows::column::<i64>(last, 0)?.checked_add(1);
        for row in &page {
            seq += 1;
            match stored(row).ok().and_then(|stored| stored.follows(&previous, seq)) {
                Some(hash) => previous = hash,
                None => return Ok(Verified::Broken { seq }),
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
    fn follows(self, previous: &Hash, seq: u64) -> Option<Hash> {
        let Self { row, action, hash } = self;
        // By the word of its action: what a later release recorded is linked like anything else.
        let holds = row.seq == seq && chain::link(previous, seq, &row.row, &action) == hash;
        holds.then_some(hash)
    }

    fn public(self) -> Row {
        let Self { mut row, action, .. } = self;
        row.row.action = Action::of(action);
        row
    }
}
