//! Moving the state of another installation into the database, while nobody uses it.
//!
//! The database says that the state is on its way before the first row comes, and until all of it is there nobody opens
//! it for work. Rows come in batches; each is a transaction that also says how far the move is, so that one that was cut
//! off goes on where it was, whatever was lost on the way back.

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_ports::Error;
use keyturn_ports::audit::{AuditSink as _, Verified};
use keyturn_ports::moving::{Page, Row, Standing, Table};

use crate::database::{Database, Mode, Times};
use crate::failure::Failure;
use crate::open::OpenError;
use crate::pool::{Session, Use};
use crate::schema::{COMPATIBLE_FROM, KNOWS_ARRIVALS};
use crate::settings::Settings;

/// Why nobody works in a database whose state is not all there.
pub(crate) const NOT_THERE: &str = "KT-0302: the state of another installation is moving here and is not all there, or it went back: run \
     `keyturn migrate` to its end, or start this process with the configuration it came from; see docs/POSTGRESQL.md";

/// How far a state has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Some of it is there.
    Arriving,
    /// All of it is.
    Arrived,
    /// It went back where it came from.
    Undone,
}

/// What moves, or moved, into the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// The name of the move, which its origin has as well.
    pub id: [u8; 16],
    /// How far it is.
    pub state: State,
}

/// A database that a state moves into.
#[derive(Clone, Debug)]
pub struct Arrival {
    database: Database,
}

/// Where the last row of each table is that was copied.
type Passed = BTreeMap<String, Row>;

const TAKE: &str = "INSERT INTO arrival (id, origin, state, progress) VALUES ($1, $2, 'arriving', '{}') \
 ON CONFLICT (one) DO NOTHING";

/// Only if it is as it was looked at: of two that move the same, one is refused.
const PROGRESS: &str =
    "UPDATE arrival SET progress = $3 WHERE id = $1 AND progress = $2 AND state = 'arriving'";

const IN_USE: &str = "SELECT count(*) FROM pg_catalog.pg_stat_activity \
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'keyturn%' \
     AND application_name <> $1";

/// The name of its connections.
const NAME: &str = "keyturn-migrate";

impl Arrival {
    /// Opens the database, and makes the tables if there are none, nor anybody else's.
    pub fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, OpenError> {
        let settings = settings.clone().named(NAME);
        let database = Database::open_for(&settings, clock, entropy, Times::Server, Use::Arrival)?;
        Ok(Self { database })
    }

    /// Where it is, without anything secret.
    pub fn place(&self) -> String {
        self.database.place()
    }

    /// What moves, or moved, here.
    pub async fn here(&self) -> Result<Option<Here>, Error> {
        self.database
            .retrying("looking what moves here", async || here(&*self.database.lend().await?).await)
            .await
    }

    /// The first table that has a row; None if the database is empty.
    pub async fn occupied(&self) -> Result<Option<Table>, Error> {
        let occupied = async || rows::occupied(&*self.database.lend().await?).await;
        self.database.retrying("looking whether the database is empty", occupied).await
    }

    /// How many connections other processes of a deployment have to it.
    pub async fn in_use(&self) -> Result<u64, Error> {
        self.database
            .retrying("looking who uses the database", async || {
                let found = self.database.read(IN_USE, &[&NAME]).await?;
                let row = found.first().ok_or_else(Failure::outrun)?;
                crate::rows::number(row, 0)
            })
            .await
    }

    /// Says that the state named `id` moves here from `origin`, from now on and whoever else opens the database. What is
    /// said already stays.
    pub async fn take(&self, id: [u8; 16], origin: &str) -> Result<Option<Here>, Error> {
        let (id, origin) = (id.to_vec(), crate::rows::text(origin));
        self.database
            .retrying("taking the database", async || {
                let compatible = rows::compatible_from(KNOWS_ARRIVALS.max(COMPATIBLE_FROM));
                let (work, _) = self.database.begin(Mode::Told, &[]).await?;
                let client = work.session()?.client();
                if client.execute(TAKE, &[&id, &origin]).await? > 0 {
                    client.batch_execute(&compatible).await?;
                }
                work.commit(&[]).await.map(drop)
            })
            .await?;
        self.here().await
    }

    /// Lets go of a database that was taken and has none of the state.
    pub async fn let_go(&self, id: [u8; 16]) -> Result<(), Error> {
        let sql = "DELETE FROM arrival WHERE id = $1 AND state = 'arriving' AND progress = '{}'";
        self.database
            .retrying("letting go of the database", async || {
                let (work, _) = self.database.begin(Mode::Told, &[]).await?;
                let client = work.session()?.client();
                if client.execute(sql, &[&id.as_slice()]).await? > 0 {
                    client.batch_execute(&rows::compatible_from(COMPATIBLE_FROM)).await?;
                }
                work.commit(&[]).await.map(drop)
            })
            .await
    }

    /// Where the last row of a table is that was copied, as the origin calls it.
    pub async fn passed(&self, table: Table) -> Result<Option<Row>, Error> {
        let passed = self
            .database
            .retrying("looking how far the move is", async || {
                progress(&*self.database.lend().await?).await.map(|(_, passed)| passed)
            })
            .await?;
        Ok(passed.get(table.name()).cloned())
    }

    /// Stores a page of rows, if it follows what is there: `after` is what [`Arrival::passed`] said.
    pub async fn store(
        &self,
        id: [u8; 16],
        table: Table,
        after: Option<&Row>,
        page: &Page,
    ) -> Result<(), Error> {
        let stored = async || {
            let (work, _) = self.database.begin(Mode::Internal, &[]).await?;
            match store(work.session()?, id, table, after, page).await {
                Ok(()) => work.commit(&[]).await.map(drop),
                Err(failure) => Err(work.undo(failure).await),
            }
        };
        self.database.retrying("storing what moves here", stored).await
    }

    /// Sets what there is beside rows, and counts what the queues have.
    pub async fn settle(&self, standing: &Standing) -> Result<(), Error> {
        let settle = async || {
            let (work, _) = self.database.begin(Mode::Told, &[]).await?;
            match rows::settle(work.session()?.client(), standing).await {
                Ok(()) => work.commit(&[]).await.map(drop),
                Err(failure) => Err(work.undo(failure).await),
            }
        };
        self.database.retrying("setting what goes on from here", settle).await
    }

    /// What there is beside rows.
    pub async fn standing(&self) -> Result<Standing, Error> {
        let standing = async || rows::standing(self.database.lend().await?.client()).await;
        self.database.retrying("reading what goes on from here", standing).await
    }

    /// At most `limit` rows of a table that come after the one that is here at this place.
    pub async fn page(&self, table: Table, after: Option<&Row>, limit: u32) -> Result<Page, Error> {
        let page = async || rows::page(self.database.lend().await?.client(), table, after, limit).await;
        self.database.retrying("reading what moved here", page).await
    }

    /// Checks the chain of the audit.
    pub async fn verify_audit(&self) -> Result<Verified, Error> {
        self.database.verify().await
    }

    /// Says how far the state is: from `Arrived` on, and only then, it is worked with here.
    pub async fn say(&self, id: [u8; 16], state: State) -> Result<(), Error> {
        let sql = "UPDATE arrival SET state = $2 WHERE id = $1";
        let compatible =
            if state == State::Arrived { COMPATIBLE_FROM } else { KNOWS_ARRIVALS.max(COMPATIBLE_FROM) };
        self.database
            .retrying("saying how far the move is", async || {
                let (work, _) = self.database.begin(Mode::Told, &[]).await?;
                let client = work.session()?.client();
                if client.execute(sql, &[&id.as_slice(), &state.word()]).await? != 1 {
                    return Err(work.undo(other_move()).await);
                }
                client.batch_execute(&rows::compatible_from(compatible)).await?;
                work.commit(&[]).await.map(drop)
            })
            .await
    }

    /// Has the server count what came, so that it finds it well from the start. Whether it may is its own affair.
    pub async fn analyze(&self) {
        let done = async {
            let session = self.database.lend().await?;
            session.client().batch_execute("BEGIN; SET LOCAL statement_timeout = 0; ANALYZE; COMMIT").await?;
            Ok::<_, Failure>(())
        };
        if let Err(error) = done.await {
            tracing::warn!(%error, "the server did not gather statistics; it will by itself");
        }
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Arrived => "arrived",
            Self::Undone => "undone",
        }
    }
}

/// How far a state has arrived, if one moves or moved here.
pub(crate) async fn state(session: &Session) -> Result<Option<State>, Failure> {
    Ok(here(session).await?.map(|here| here.state))
}

async fn here(session: &Session) -> Result<Option<Here>, Failure> {
    let Some(row) = session.client().query_opt("SELECT id, state FROM arrival", &[]).await? else {
        return Ok(None);
    };
    let id = crate::rows::identifier(&row, 0, |bytes| bytes.try_into().ok())?;
    let word: &str = crate::rows::column(&row, 1)?;
    let state =
        [State::Arriving, State::Arrived, State::Undone].into_iter().find(|state| state.word() == word);
    let unknown = || Failure::corrupt("how far the state has arrived", format!("{word} is not known"));
    Ok(Some(Here { id, state: state.ok_or_else(unknown)? }))
}

async fn progress(session: &Session) -> Result<(String, Passed), Failure> {
    let row = session.client().query_opt("SELECT progress FROM arrival", &[]).await?;
    let text: String = crate::rows::column(&row.ok_or_else(other_move)?, 0)?;
    let passed =
        serde_json::from_str(&text).map_err(|error| Failure::corrupt("how far the move is", error))?;
    Ok((text, passed))
}

async fn store(
    session: &Session,
    id: [u8; 16],
    table: Table,
    after: Option<&Row>,
    page: &Page,
) -> Result<(), Failure> {
    let (was, mut passed) = progress(session).await?;
    let Some(last) = page.last.clone() else { return Ok(()) };
    if passed.get(table.name()) != after {
        return Err(other_move());
    }
    passed.insert(table.name().to_owned(), last);
    let is =
        serde_json::to_string(&passed).map_err(|error| Failure::corrupt("how far the move is", error))?;
    if session.client().execute(PROGRESS, &[&id.as_slice(), &was, &is]).await? != 1 {
        return Err(other_move());
    }
    rows::insert(session.client(), table, &page.rows).await
}

fn other_move() -> Failure {
    Failure::denied("another move into this database is under way, or was; nothing was changed")
}
