//! The handle on the database, and how work is done on it.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool::managed::Object;
use futures_util::future::{try_join_all, try_join3};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::schema::Schema;
use keyturn_ports::{Error, Kind};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tracing::debug;

use crate::failure::Failure;
use crate::listener::Listener;
use crate::lookups::Lookups;
use crate::open::{self, OpenError};
use crate::pool::{Connections, Dialer, Lent, Use};
use crate::settings::Settings;
use crate::signals::Signals;

/// What the parameters of a statement are.
pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// How often a transaction that was outrun, or broke a deadlock, is begun anew before its caller is told.
const TRIES: u32 = 8;

/// Whose time leases, delays and expiry go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The server's, so that machines whose clocks differ agree.
    Server,
    /// Those of the clock given, for tests that tick it by hand.
    Clock,
}

/// How a transaction is kept, and what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It only reads, and sees one moment.
    Snapshot,
    /// Its commit does not wait for the disk. The log is one and in order: a later commit that waits makes this one
    /// durable too, and a crash of the server takes a tail of these.
    Internal,
    /// It is on disk before anybody is told.
    Told,
}

impl Mode {
    fn begin(self) -> &'static str {
        match self {
            Self::Snapshot => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Self::Internal => "BEGIN; SET LOCAL synchronous_commit = off",
            Self::Told => "BEGIN",
        }
    }
}

/// An open database. Clones share it and its connections.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Dialer,
    connections: Connections,
    signals: Arc<Signals>,
    lookups: Lookups,
    schema: Schema,
    listener: OnceLock<Listener>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// What became of [`Database::make`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Where the tables are, without anything secret.
    pub place: String,
    /// Whether they were made, or were there.
    pub made: bool,
    /// Whether somebody else's were there when they were made.
    pub beside_others: bool,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("settings", self.inner.dialer.settings()).finish_non_exhaustive()
    }
}

impl Database {
    /// Makes the tables of a new deployment, where there are none. Blocks for as long as the server takes.
    ///
    /// # Errors
    /// As for [`Database::open`], but for [`OpenError::NoTables`].
    pub fn make(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        times: Times,
    ) -> Result<Made, OpenError> {
        let looked = Self::open(settings, Arc::clone(&clock), Arc::clone(&entropy), times);
        let (made, beside_others) = match looked {
            Ok(_) => (false, false),
            Err(OpenError::NoTables { others, .. }) => (true, others),
            Err(error) => return Err(error),
        };
        let database = Self::open_for(settings, clock, entropy, times, Use::Making)?;
        Ok(Made { place: database.place(), made, beside_others })
    }

    /// Connects once to check the server and to bring the tables up to date, then lets go: further connections are
    /// made when somebody asks, by the runtime of whoever does. Blocks for as long as the server takes.
    ///
    /// # Errors
    /// [`OpenError::NoTables`] where there are none, which are not made in passing.
    pub fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        times: Times,
    ) -> Result<Self, OpenError> {
        Self::open_for(settings, clock, entropy, times, Use::Work)
    }

    /// The same, for more than work.
    pub(crate) fn open_for(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        times: Times,
        use_of: Use,
    ) -> Result<Self, OpenError> {
        let given = (times == Times::Clock).then(|| Arc::clone(&clock));
        let (dialer, connections, schema) = open::open(settings, given, use_of)?;
        let (signals, listener) = (Arc::default(), OnceLock::new());
        let lookups = Lookups::default();
        let inner = Inner { dialer, connections, signals, lookups, schema, listener, clock, entropy };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where it is, without anything secret.
    pub fn place(&self) -> String {
        self.inner.dialer.settings().to_string()
    }

    /// Which schema it had when it was opened.
    pub fn schema(&self) -> Schema {
        self.inner.schema
    }

    /// The server's version, as it tells it.
    pub async fn server_version(&self) -> Result<String, Error> {
        self.retrying("asking the server for its version", async || {
            let found = self.read("SELECT current_setting('server_version')", &[]).await?;
            let row = found.first().ok_or_else(|| Failure::new(Kind::Corrupt, "no version"))?;
            Ok(row.try_get(0)?)
        })
        .await
    }

    /// The server's time.
    pub async fn server_time(&self) -> Result<UnixMillis, Error> {
        self.retrying("asking the server for its time", async || {
            let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
            let found = self.read(sql, &[]).await?;
            let row = found.first().ok_or_else(|| Failure::new(Kind::Corrupt, "no time"))?;
            Ok(UnixMillis(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default()))
        })
        .await
    }

    /// The time of this process.
    pub(crate) fn now(&self) -> UnixMillis {
        self.inner.clock.now()
    }

    /// The time that a statement goes by, for the function `now_ms`: null for the server's own.
    pub(crate) fn now_given(&self) -> Option<i64> {
        self.inner.dialer.now_given()
    }

    /// Who asks for results.
    pub(crate) fn lookups(&self) -> &Lookups {
        &self.inner.lookups
    }

    /// How what messages lead to is committed.
    pub(crate) fn effects(&self) -> Mode {
        if self.inner.dialer.settings().settled_elsewhere { Mode::Told } else { Mode::Internal }
    }

    /// How connections are made.
    pub(crate) fn dialer(&self) -> &Dialer {
        &self.inner.dialer
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.inner.entropy
    }

    /// The bells. Whoever waits on one is woken by other processes too.
    pub(crate) fn signals(&self) -> &Signals {
        self.inner.listener.get_or_init(|| Listener::start(self.inner.dialer.clone(), &self.inner.signals));
        &self.inner.signals
    }

    /// How often those who wait look when nobody woke them.
    pub(crate) fn look_every(&self) -> Duration {
        self.inner.dialer.settings().limits.look_every
    }

    /// Does something that has no effect unless it succeeds, several times if others were faster.
    pub(crate) async fn retrying<T, F>(
        &self,
        action: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = 1;
        loop {
            match attempt().await {
                Err(failure) if failure.is_worth_another_try() && tries < TRIES => {
                    debug!(action, tries, error = %failure, "beginning a transaction anew");
                    let spread = self.entropy().below(20 * tries);
                    tokio::time::sleep(Duration::from_millis(u64::from(spread))).await;
                    tries += 1;
                }
                other => return other.map_err(|failure| failure.during(action)),
            }
        }
    }

    /// A connection of one's own for a while.
    pub(crate) async fn lend(&self) -> Result<Lent, Failure> {
        self.inner.connections.lend().await
    }

    /// One statement that only reads.
    pub(crate) async fn read(&self, sql: &'static str, params: &[Param<'_>]) -> Result<Vec<Row>, Failure> {
        let session = self.inner.connections.lend().await?;
        let statement = session.prepare(sql).await?;
        Ok(session.client().query(&statement, params).await?)
    }

    /// Statements in a transaction of their own, all sent at once. Dropping the future later than that does not
    /// undo them: they happen, or they do not.
    pub(crate) async fn at_once(
        &self,
        mode: Mode,
        statements: &[(&'static str, &[Param<'_>])],
    ) -> Result<Vec<Vec<Row>>, Failure> {
        let work = Work::on(self.inner.connections.lend().await?);
        work.whole(mode, statements).await
    }

    /// A transaction that is decided upon while it is open.
    pub(crate) async fn begin(
        &self,
        mode: Mode,
        first: &[(&'static str, &[Param<'_>])],
    ) -> Result<(Work, Vec<Vec<Row>>), Failure> {
        let mut work = Work::on(self.inner.connections.lend().await?);
        let prepared = work.prepare(first).await?;
        work.open = true;
        let client = work.session()?.client();
        let begin = async { Ok(client.batch_execute(mode.begin()).await?) };
        let queries = prepared.iter().map(|(statement, params)| client.query(statement, params));
        let queries = async { Ok(try_join_all(queries).await?) };
        let found = futures_util::future::try_join(begin, queries).await.map(|((), found)| found);
        match found {
            Ok(found) => Ok((work, found)),
            Err(failure) => Err(work.undo(failure).await),
        }
    }
}

/// A connection with a transaction on it. Dropped while that is open, the connection goes with it, and the server
/// undoes what was done.
pub(crate) struct Work {
    session: Option<Lent>,
    open: bool,
}

type Prepared<'a> = Vec<(tokio_postgres::Statement, &'a [Param<'a>])>;

impl Work {
    fn on(session: Lent) -> Self {
        Self { session: Some(session), open: false }
    }

    /// Its connection.
    pub(crate) fn session(&self) -> Result<&Lent, Failure> {
        self.session.as_ref().ok_or_else(Failure::outrun)
    }

    async fn prepare<'a>(
        &self,
        statements: &[(&'static str, &'a [Param<'a>])],
    ) -> Result<Prepared<'a>, Failure> {
        let session = self.session()?;
        let mut prepared = Vec::with_capacity(statements.len());
        for (sql, params) in statements {
            prepared.push((session.prepare(sql).await?, *params));
        }
        Ok(prepared)
    }

    async fn whole(
        mut self,
        mode: Mode,
        statements: &[(&'static str, &[Param<'_>])],
    ) -> Result<Vec<Vec<Row>>, Failure> {
        let prepared = self.prepare(statements).await?;
        self.open = true;
        let client = self.session()?.client();
        let begin = client.batch_execute(mode.begin());
        let queries =
            try_join_all(prepared.iter().map(|(statement, params)| client.query(statement, params)));
        // Joined futures are polled in their order, and each is sent when it is first polled.
        let done = try_join3(begin, queries, client.batch_execute("COMMIT")).await;
        // What the server refused, it undid at the COMMIT behind it. After any other error nobody knows.
        self.open = done.as_ref().is_err_and(|error| error.as_db_error().is_none());
        let ((), found, ()) = done?;
        Ok(found)
    }

    /// Statements sent at once.
    pub(crate) async fn run(
        &self,
        statements: &[(&'static str, &[Param<'_>])],
    ) -> Result<Vec<Vec<Row>>, Failure> {
        let prepared = self.prepare(statements).await?;
        let client = self.session()?.client();
        let queries = prepared.iter().map(|(statement, params)| client.query(statement, params));
        Ok(try_join_all(queries).await?)
    }

    /// The last statements and the commit, sent at once.
    pub(crate) async fn commit(
        mut self,
        last: &[(&'static str, &[Param<'_>])],
    ) -> Result<Vec<Vec<Row>>, Failure> {
        let prepared = self.prepare(last).await?;
        let client = self.session()?.client();
        let queries =
            try_join_all(prepared.iter().map(|(statement, params)| client.query(statement, params)));
        let done = futures_util::future::try_join(queries, client.batch_execute("COMMIT")).await;
        self.open = done.as_ref().is_err_and(|error| error.as_db_error().is_none());
        let (found, ()) = done?;
        Ok(found)
    }

    /// Undoes what was done.
    pub(crate) async fn roll_back(mut self) -> Result<(), Failure> {
        let session = self.session()?;
        session.client().batch_execute("ROLLBACK").await?;
        self.open = false;
        Ok(())
    }

    /// Undoes what was done, and hands the failure on.
    pub(crate) async fn undo(mut self, failure: Failure) -> Failure {
        if let Ok(session) = self.session() {
            self.open = session.client().batch_execute("ROLLBACK").await.is_err();
        }
        failure
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(|_| self.open) {
            drop(Object::take(session));
        }
    }
}
