//! Opening the database: what is refused, and what mends it.

use std::sync::Arc;

use keyturn_domain::clock::Clock;
use keyturn_ports::Kind;
use keyturn_ports::schema::Schema;
use tracing::warn;

use crate::arrival;
use crate::epoch;
use crate::failure::Failure;
use crate::pool::{Connections, Dialer, Session, Use};
use crate::schema::{self, Found, KNOWN};
use crate::settings::Settings;
use crate::tls::{Maker, TlsError};

/// The oldest server that is supported.
const OLDEST_SERVER: i32 = 150_000;

/// Why a database is not opened. Each text names the database and what to do; none names a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody answers, or not in time.
    #[error(
        "{place} cannot be reached: {detail}; see that the server runs and that this machine may connect to it"
    )]
    Unreachable {
        /// The database.
        place: String,
        /// What happened.
        detail: String,
    },
    /// Who answers is not known to be the server.
    #[error("{place} is not trusted: {detail}")]
    Untrusted {
        /// The database.
        place: String,
        /// Why, and what mends it.
        detail: String,
    },
    /// The server does not let us in, or does not let us do what we have to.
    #[error("{place} refuses this user: {detail}; see docs/POSTGRESQL.md for the rights a process needs")]
    Denied {
        /// The database.
        place: String,
        /// What the server says.
        detail: String,
    },
    /// The server is too old.
    #[error("{place} is served by PostgreSQL {found}; 15 is the oldest that Keyturn works with")]
    OldServer {
        /// The database.
        place: String,
        /// The server's version.
        found: String,
    },
    /// The database does not hold every character.
    #[error("{place} has the encoding {found}; make a database with the encoding UTF8")]
    Encoding {
        /// The database.
        place: String,
        /// Its encoding.
        found: String,
    },
    /// A later release that does not allow this one to go on changed the tables.
    #[error(
        "{place} has schema {found}, which releases from schema {oldest} on may use, and this release knows up to \
         {KNOWN}: run the release that wrote it, or restore the backup made before it"
    )]
    Newer {
        /// The database.
        place: String,
        /// Its schema.
        found: i64,
        /// The oldest schema whose releases may use it.
        oldest: i64,
    },
    /// The database may be worked with, and has tables that this release would leave empty.
    #[error(
        "{place} has schema {found}, and this release knows up to {KNOWN}: move the state with the release that made \
         the tables, which knows what belongs in them"
    )]
    NewerToMove {
        /// The database.
        place: String,
        /// Its schema.
        found: u32,
    },
    /// There are no tables of ours.
    #[error(
        "KT-0325: {place} has no tables of Keyturn{}: see that state.postgres.url names the right database; those of a new \
         deployment are made by `keyturn init --tables`, which makes them beside others' too, those of one that moves by \
         `keyturn migrate`",
        besides(*others)
    )]
    NoTables {
        /// The database.
        place: String,
        /// Whether there are others'.
        others: bool,
    },
    /// The state of another installation is on its way here, or went back.
    #[error("{place}: {}", arrival::NOT_THERE)]
    NotThere {
        /// The database.
        place: String,
    },
    /// Anything else.
    #[error("{place} cannot be opened: {detail}")]
    Other {
        /// The database.
        place: String,
        /// What happened.
        detail: String,
    },
}

fn besides(others: bool) -> &'static str {
    if others { ", and somebody else's" } else { "" }
}

/// Checks the server and the tables, on a connection and a thread of their own: callers are not always async, and
/// those that are must not wait for themselves.
pub(crate) fn open(
    settings: &Settings,
    clock: Option<Arc<dyn Clock>>,
    use_of: Use,
) -> Result<(Dialer, Connections, Schema), OpenError> {
    let place = settings.to_string();
    let other = |detail: String| OpenError::Other { place: place.clone(), detail };
    let dialer = Dialer::new(settings.clone(), Maker::new(settings)?, clock, use_of);
    let connections = Connections::new(dialer.clone()).map_err(|error| other(error.to_string()))?;
    let checking = dialer.clone();
    let checked = std::thread::Builder::new().name("keyturn-open".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map_err(|error| Failure::new(Kind::Unavailable, error.to_string()))?
            .block_on(check(&checking))
    });
    let checked = checked.map_err(|error| other(error.to_string()))?.join();
    match checked {
        Ok(Ok(Checked::Usable(schema))) => Ok((dialer, connections, schema)),
        Ok(Ok(Checked::OldServer(found))) => Err(OpenError::OldServer { place, found }),
        Ok(Ok(Checked::Encoding(found))) => Err(OpenError::Encoding { place, found }),
        Ok(Ok(Checked::Nothing { others })) => Err(OpenError::NoTables { place, others }),
        Ok(Ok(Checked::NotThere)) => Err(OpenError::NotThere { place }),
        Ok(Ok(Checked::Newer { found, oldest })) => Err(OpenError::Newer { place, found, oldest }),
        Ok(Ok(Checked::NewerToMove(found))) => Err(OpenError::NewerToMove { place, found }),
        Ok(Err(failure)) if failure.is_untrusted() => {
            Err(OpenError::Untrusted { place, detail: failure.to_string() })
        }
        Ok(Err(failure)) => Err(match failure.kind() {
            Kind::Unavailable => OpenError::Unreachable { place, detail: failure.to_string() },
            Kind::Denied => OpenError::Denied { place, detail: failure.to_string() },
            _ => OpenError::Other { place, detail: failure.to_string() },
        }),
        Err(_) => Err(other("checking it panicked; this is a defect".to_owned())),
    }
}

enum Checked {
    Usable(Schema),
    OldServer(String),
    Encoding(String),
    Newer { found: i64, oldest: i64 },
    NewerToMove(u32),
    NotThere,
    Nothing { others: bool },
}

async fn check(dialer: &Dialer) -> Result<Checked, Failure> {
    let limit = dialer.settings().limits.connect;
    let late = |_| Failure::new(Kind::Unavailable, format!("no connection within {} ms", limit.as_millis()));
    let (client, wire) = tokio::time::timeout(limit, dialer.dial()).await.map_err(late)??;
    tokio::spawn(wire.drive(|_| ()));
    let session = Session::settled_in(client, &dialer.settings().limits).await?;
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), \
               current_setting('server_encoding'), current_setting('fsync')";
    let row = session.client().query_one(sql, &[]).await?;
    if row.try_get::<_, i32>(0)? < OLDEST_SERVER {
        return Ok(Checked::OldServer(row.try_get(1)?));
    }
    if row.try_get::<_, &str>(2)? != "UTF8" {
        return Ok(Checked::Encoding(row.try_get(2)?));
    }
    if row.try_get::<_, &str>(3)? == "off" {
        warn!(place = %dialer.settings(), "the server runs with fsync = off: a power loss can take what was promised");
    }
    Ok(match schema::migrate(session.client(), dialer.use_of()).await? {
        Found::Nothing { others } => Checked::Nothing { others },
        Found::Usable(schema) => {
            if schema.is_ahead() && dialer.use_of() == Use::Arrival {
                return Ok(Checked::NewerToMove(schema.found));
            }
            let state = arrival::state(&session).await?;
            if dialer.use_of() != Use::Arrival && state.is_some_and(|state| state != arrival::State::Arrived)
            {
                return Ok(Checked::NotThere);
            }
            epoch::settle(&session, dialer).await?;
            Checked::Usable(schema)
        }
        Found::Newer { found, oldest } => Checked::Newer { found, oldest },
    })
}
