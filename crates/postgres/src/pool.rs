//! Connections: how one is made, and how those of a process are shared.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use deadpool::Runtime;
use deadpool::managed::{BuildError, Manager, Metrics, Object, Pool, RecycleError, RecycleResult, Timeouts};
use keyturn_domain::clock::Clock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{Client, Connection, NoTls, Socket, Statement};
use zeroize::Zeroizing;

use crate::epoch;
use crate::failure::Failure;
use crate::rows;
use crate::settings::{Limits, Settings};
use crate::tls::Maker;

/// A connection lent out by the pool.
pub(crate) type Lent = Object<Dialer>;

/// The pool of a process.
#[derive(Clone)]
pub(crate) struct Connections(Pool<Dialer>);

impl Connections {
    /// A pool that connects when somebody asks.
    pub(crate) fn new(dialer: Dialer) -> Result<Self, BuildError> {
        let Limits { connections, connect, .. } = dialer.settings.limits;
        let timeouts = Timeouts { wait: Some(connect), create: Some(connect), recycle: Some(connect) };
        let builder = Pool::builder(dialer).max_size(connections.max(1)).timeouts(timeouts);
        Ok(Self(builder.runtime(Runtime::Tokio1).build()?))
    }

    /// A connection of one's own for a while.
    pub(crate) async fn lend(&self) -> Result<Lent, Failure> {
        Ok(self.0.get().await?)
    }
}

/// Makes connections and looks whether they still live.
#[derive(Clone)]
pub(crate) struct Dialer {
    settings: Settings,
    tls: Maker,
    clock: Option<Arc<dyn Clock>>,
    use_of: Use,
}

/// What connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The work of the deployment. A database whose state is not all there is refused.
    Work,
    /// Moving the state into it.
    Arrival,
    /// Making its tables, for a new deployment.
    Making,
}

impl Dialer {
    /// A dialer for these settings. Without a clock, times are the server's.
    pub(crate) fn new(settings: Settings, tls: Maker, clock: Option<Arc<dyn Clock>>, use_of: Use) -> Self {
        Self { settings, tls, clock, use_of }
    }

    /// What its connections are for.
    pub(crate) fn use_of(&self) -> Use {
        self.use_of
    }

    /// The time that a statement goes by, for the function `now_ms`: null for the server's own.
    pub(crate) fn now_given(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| rows::to_column(clock.now()))
    }

    /// The settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A connection, and a wire that somebody has to drive.
    pub(crate) async fn dial(&self) -> Result<(Client, Wire), Failure> {
        let target = self.target()?;
        // The two kinds of connection have different types and the same use.
        if target.get_ssl_mode() == tokio_postgres::config::SslMode::Disable {
            let (client, connection) = target.connect(NoTls).await?;
            Ok((client, Wire::Plain(connection)))
        } else {
            let (client, connection) = target.connect(self.tls.clone()).await?;
            Ok((client, Wire::Tls(connection)))
        }
    }

    fn target(&self) -> Result<tokio_postgres::Config, Failure> {
        let mut target = self.settings.target.clone();
        if let Some(file) = &self.settings.password_file {
            // Whoever knows the password is the database's owner, as far as the server can tell.
            if std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
                let detail =
                    "is open to every user of this machine; take that away with chmod o= and change it";
                return Err(Failure::denied(format!("{} {detail}", file.display())));
            }
            let unreadable = |error| Failure::denied(format!("{} cannot be read: {error}", file.display()));
            let text = Zeroizing::new(std::fs::read_to_string(file).map_err(unreadable)?);
            target.password(text.trim_end_matches(['\r', '\n']));
        }
        Ok(target)
    }
}

/// What carries a connection's bytes.
pub(crate) enum Wire {
    /// A Unix socket, or whatever else needs no TLS.
    Plain(Connection<Socket, tokio_postgres::tls::NoTlsStream>),
    /// TLS.
    Tls(Connection<Socket, crate::tls::Stream>),
}

impl Wire {
    /// Carries bytes until the client is dropped, and hands on what the server says unasked.
    pub(crate) async fn drive(self, told: impl Fn(tokio_postgres::AsyncMessage) + Send) {
        match self {
            Self::Plain(connection) => drive(connection, told).await,
            Self::Tls(connection) => drive(connection, told).await,
        }
    }
}

async fn drive<T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<Socket, T>,
    told: impl Fn(tokio_postgres::AsyncMessage) + Send,
) {
    // An error ends the connection; whoever has a query under way is told by that query.
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        told(message);
    }
}

/// A connection with the statements that were prepared on it.
pub(crate) struct Session {
    client: Client,
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

impl Session {
    /// Takes a new connection over and settles it in.
    pub(crate) async fn settled_in(client: Client, limits: &Limits) -> Result<Self, Failure> {
        client.batch_execute(&settle_in(limits)).await?;
        Ok(Self { client, prepared: Mutex::default() })
    }

    /// The connection.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A statement, prepared once per connection.
    pub(crate) async fn prepare(&self, sql: &'static str) -> Result<Statement, Failure> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }
}

/// What every connection sets before it is used. Names are looked up in our schema alone, so that a table that
/// somebody else puts into another one is never taken for ours. A server or role whose commits do not wait for the
/// disk is overruled; one that waits for more than the disk is not.
fn settle_in(limits: &Limits) -> String {
    let Limits { statement, lock, .. } = limits;
    format!(
        "SET search_path = keyturn, pg_temp; SET statement_timeout = {}; SET lock_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}; SET default_transaction_isolation = 'read committed'; \
         SET client_min_messages = warning; SET TimeZone = 'UTC'; \
         SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') IN ('off', 'local')",
        statement.as_millis(),
        lock.as_millis(),
        statement.saturating_mul(2).as_millis(),
    )
}

impl Manager for Dialer {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        let (client, wire) = self.dial().await?;
        tokio::spawn(wire.drive(|_| ()));
        let session = Session::settled_in(client, &self.settings.limits).await?;
        // Connections are made anew when the server comes back, perhaps with what a backup had.
        epoch::settle(&session, self).await?;
        Ok(session)
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Failure> {
        if session.client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        Ok(())
    }
}
