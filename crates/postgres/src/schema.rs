//! The tables, and how a database of an earlier release gets those of this one.
//!
//! Migrations only add. A release that adds something earlier releases may ignore leaves `compatible_from` in the
//! table `meta` alone, and they can still use the database; one that changes what they rely on raises it to its own
//! number in the same migration, and they refuse. What is newer is never taken back: an earlier release leaves the
//! tables and their number as they are, so that the later one finds nothing to do when it comes back.

use keyturn_ports::schema::Schema;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::failure::Failure;
use crate::pool::Use;

/// Each makes a database one schema newer; the number of the schema is how many were applied.
const MIGRATIONS: [&str; 6] = [
    include_str!("schema/0001_tables.sql"),
    include_str!("schema/0002_chores.sql"),
    include_str!("schema/0003_arrival.sql"),
    include_str!("schema/0004_shipped.sql"),
    include_str!("schema/0005_turns.sql"),
    include_str!("schema/0006_roster.sql"),
];

/// What the migrations leave in `compatible_from`: the oldest schema whose releases may use a database of this one.
pub(crate) const COMPATIBLE_FROM: i64 = 1;

/// The first schema whose releases know that a state may not be all there.
pub(crate) const KNOWS_ARRIVALS: i64 = 3;

/// The newest schema this release knows.
pub(crate) const KNOWN: i64 = MIGRATIONS.len().cast_signed() as i64;

/// The names of the advisory locks; they share their first half, "KTRN".
pub(crate) mod locks {
    /// Held while the tables are changed.
    pub(crate) const SCHEMA: i64 = 0x4b54_524e_0000_0001;
    /// Held while rows of `events` are numbered and committed.
    pub(crate) const EVENTS: i64 = 0x4b54_524e_0000_0002;
    /// Held while a row is appended to the audit.
    pub(crate) const AUDIT: i64 = 0x4b54_524e_0000_0003;
    /// Held while rows of `vault_versions` are numbered and committed.
    pub(crate) const VAULT: i64 = 0x4b54_524e_0000_0004;
}

/// What is there.
pub(crate) enum Found {
    /// Tables that this release can use, though they may be of a later one.
    Usable(Schema),
    /// No tables of ours.
    Nothing {
        /// Whether there are others'.
        others: bool,
    },
    /// Tables of a later release that does not allow this one to go on.
    Newer {
        /// Their schema.
        found: i64,
        /// The oldest schema whose releases may use them.
        oldest: i64,
    },
}

/// Brings the database up to date, in one transaction and under a lock: of many processes that start at once one
/// does it and the others find nothing left to do. Whoever finds nothing to do needs no right to change tables. Where
/// there are none nobody makes any in passing, and whoever moves a state makes them in an empty database alone: a name that
/// was mistyped must not look like a deployment without devices, nor put tables beside somebody else's.
pub(crate) async fn migrate(client: &Client, use_of: Use) -> Result<Found, Failure> {
    let (found, _) = applied(client).await?;
    if found == 0 && use_of != Use::Making {
        let others = has_others(client).await?;
        if others || use_of == Use::Work {
            return Ok(Found::Nothing { others });
        }
    }
    if found < KNOWN {
        let begin = "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'";
        client.batch_execute(begin).await?;
        if let Err(failure) = advance(client).await {
            client.batch_execute("ROLLBACK").await?;
            return Err(failure);
        }
        client.batch_execute("COMMIT").await?;
    }
    let (found, compatible_from) = applied(client).await?;
    if found > KNOWN && compatible_from > KNOWN {
        return Ok(Found::Newer { found, oldest: compatible_from });
    }
    let number = |schema: i64| u32::try_from(schema).unwrap_or(u32::MAX);
    Ok(Found::Usable(Schema { found: number(found), known: number(KNOWN) }))
}

async fn advance(client: &Client) -> Result<(), Failure> {
    client.query_one("SELECT pg_advisory_xact_lock($1)", &[&locks::SCHEMA]).await?;
    let (found, _) = applied(client).await?;
    if found == 0 {
        client
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS keyturn; \
                 CREATE TABLE keyturn.meta (key text NOT NULL PRIMARY KEY, value bigint NOT NULL); \
                 INSERT INTO keyturn.meta (key, value) VALUES ('schema', 0), ('compatible_from', 1)",
            )
            .await?;
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        client.batch_execute(migration).await?;
    }
    if found < KNOWN {
        client.execute("UPDATE keyturn.meta SET value = $1 WHERE key = 'schema'", &[&KNOWN]).await?;
    }
    Ok(())
}

/// Whether there are tables that are not ours, nor the server's own.
pub(crate) async fn has_others(client: &Client) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c \
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('keyturn', 'pg_catalog', 'information_schema') \
                   AND n.nspname NOT LIKE 'pg\\_%')";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// The number of the schema and the oldest release's that may use it; 0 and 0 where there is none.
async fn applied(client: &Client) -> Result<(i64, i64), Failure> {
    // Asked of the catalogue's rows, and not by to_regclass: that goes by what this connection remembers, and whoever
    // waited for the lock remembers a database without tables.
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class AS c \
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
               WHERE n.nspname = 'keyturn' AND c.relname = 'meta')";
    let there: bool = client.query_one(sql, &[]).await?.try_get(0)?;
    if !there {
        return Ok((0, 0));
    }
    let sql = "SELECT (SELECT value FROM keyturn.meta WHERE key = 'schema'), \
               (SELECT value FROM keyturn.meta WHERE key = 'compatible_from')";
    match client.query_one(sql, &[]).await {
        Ok(row) => Ok((row.try_get(0)?, row.try_get(1)?)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok((0, 0)),
        Err(error) => Err(error.into()),
    }
}
